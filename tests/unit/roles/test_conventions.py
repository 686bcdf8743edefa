"""Every role is a documented interface, and no task can print a secret."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ROLES = sorted(path.parent for path in (ROOT / "roles").glob("*/tasks"))
TASK_FILES = sorted(
    [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("roles/*/handlers/*.yml"), *ROOT.glob("playbooks/*.yml")]
)
# a variable (not a word in a sentence) whose value is a secret, or holds one
SECRET = re.compile(
    r"\b(testbed_secrets|testbed_keys|influxdb_users|\w+_(secrets?|passwords?|password_hash|credentials|keys)"
    r"|\w+\.(password|secret_key|token|user_secret|token_secret|password_hash))\b"
)
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
BARE = {"when", "that", "until", "changed_when", "failed_when"}  # expressions without braces
PASSES_ON = re.compile(r"^(ansible\.builtin\.)?(include|import)_(role|tasks)$")  # hands variables down and prints none
ASSERTS = {"assert", "ansible.builtin.assert"}


def tasks(nodes: list[dict[str, Any]], hidden: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield (task, whether no_log holds for it) for all tasks, also those in blocks and plays."""
    for node in nodes:
        no_log = hidden or node.get("no_log") is True
        parts = [node[key] for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always") if key in node]
        if not parts:
            yield node, no_log
        for part in parts:
            yield from tasks(part, no_log)


def expressions(value: Any, bare: bool = False) -> Iterator[str]:
    """Yield the Jinja expressions in a task."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from expressions(item, bare or key in BARE)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item, bare)
    elif isinstance(value, str):
        yield from [value] if bare else EXPRESSION.findall(value)


def template_of(task: dict[str, Any], file: Path) -> str:
    """Return the text of the template that the task writes, for --diff shows it."""
    source = str((task.get("ansible.builtin.template") or {}).get("src", ""))
    found = [
        path
        for path in (file.parents[1] / "templates" / source, ROOT / "templates" / Path(source).name)
        if path.is_file()
    ]
    return found[0].read_text() if source and found else ""


def open_secrets(task: dict[str, Any], hidden: bool, template: str = "") -> set[str]:
    """Return the secret variables that the task could print."""
    if hidden or any(PASSES_ON.match(key) for key in task):
        return set()
    if set(task) & ASSERTS:  # prints its messages, and of its conditions the text, not the values
        task = {key: value for key, value in task.items() if key not in ASSERTS} | {
            "messages": [value for key in ASSERTS & set(task) for name, value in task[key].items() if name != "that"]
        }
    texts = [*expressions(task), *EXPRESSION.findall(template)]
    return {match.group(0) for text in texts for match in SECRET.finditer(text)}


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_task_that_touches_a_secret_has_no_log(file: Path) -> None:
    found = {
        task.get("name", "?"): names
        for task, hidden in tasks(yaml.safe_load(file.read_text()))
        if (names := open_secrets(task, hidden, template_of(task, file)))
    }
    assert not found, f"{file.relative_to(ROOT)}: say no_log: true in {found}"


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ("{debug: {msg: '{{ testbed_secrets.users }}'}}", {"testbed_secrets"}),
        ("{command: 'x {{ item.password }}'}", {"item.password"}),
        ("{assert: {that: 'clearml_server_secrets | length'}}", set()),
        ("{assert: {that: x, fail_msg: '{{ clearml_server_secrets }}'}}", {"clearml_server_secrets"}),
        ("{assert: {that: item | length}, loop: '{{ testbed_keys }}'}", {"testbed_keys"}),
        ("{debug: {msg: x}, when: testbed_keys | length}", {"testbed_keys"}),
        ("{template: {src: x}, no_log: true, vars: {a: '{{ testbed_keys }}'}}", set()),
        ("{block: [{debug: {msg: '{{ influxdb_users }}'}}], no_log: true}", set()),
        ("{block: [{debug: {msg: '{{ influxdb_users }}'}}]}", {"influxdb_users"}),
        ("{include_role: {name: x}, vars: {x_keys: '{{ testbed_keys }}'}}", set()),
        ("{assert: {that: x, fail_msg: 'the password is not shown'}}", set()),
    ],
)
def test_the_rule_finds_secrets_in_tasks(task: str, found: set[str]) -> None:
    assert {name for each, hidden in tasks([yaml.safe_load(task)]) for name in open_secrets(each, hidden)} == found


def test_the_rule_finds_secrets_in_templates() -> None:
    assert open_secrets({"ansible.builtin.template": {"src": "x"}}, False, "a {{ x.secret_key }}") == {"x.secret_key"}


WRITES = {"ansible.builtin.template", "ansible.builtin.copy"}


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_in_check_mode_what_a_task_writes_is_told_by_the_next(file: Path) -> None:
    found = [task for task, _ in tasks(yaml.safe_load(file.read_text()))]
    untold = [
        task.get("name")
        for task, following in zip(found, [*found[1:], {}], strict=True)
        if WRITES & set(task)
        and f"{task.get('register')} | testbed_changes" not in str(following.get("ansible.builtin.debug"))
    ]
    assert not untold, f"{file.relative_to(ROOT)}: `testbed up --check` could not name the files of {untold}"


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_in_check_mode_what_a_hidden_task_does_is_told_by_the_next(file: Path) -> None:
    found = list(tasks(yaml.safe_load(file.read_text())))
    untold = [
        task.get("name")
        for (task, hidden), (following, _) in zip(found, [*found[1:], ({}, False)], strict=True)
        if "testbed_files" in task
        and hidden
        and f"{task.get('register')}.testbed_changes" not in str(following.get("ansible.builtin.debug"))
    ]
    assert not untold, f"{file.relative_to(ROOT)}: `testbed up --check` could not name the files of {untold}"


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_only_tells_in_a_check_is_skipped_by_its_tag_not_on_every_host(file: Path) -> None:
    wrong = [
        task["name"]
        for task, _ in tasks(yaml.safe_load(file.read_text()))
        if re.search(r"(?<!not )ansible_check_mode", str(task.get("when", ""))) and task.get("tags") != ["announce"]
    ]
    assert not wrong, (
        f"{file.relative_to(ROOT)}: say `tags: [announce]` in {wrong} (provision/converge.py leaves these out)"
    )


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestRole:
    def test_it_can_be_checked_run_and_removed(self, role: Path) -> None:
        assert {file.name for file in (role / "tasks").glob("*.yml")} >= {"main.yml", "validate.yml", "remove.yml"}

    def test_its_variables_carry_its_name_and_are_documented(self, role: Path) -> None:
        defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
        specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
        documented = {name for spec in specs.values() for name in spec.get("options", {})}
        assert all(name.startswith(f"{role.name}_") for name in defaults)
        assert set(defaults) <= documented

    def test_its_readme_is_made_from_its_argument_specs(self, role: Path) -> None:
        spec = importlib.util.spec_from_file_location("readme", ROOT / "roles/readme.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert (role / "README.md").read_text() == module.readme(role), "run `python roles/readme.py`"


def test_every_distribution_has_a_name_for_every_package_that_roles_ask_for() -> None:
    releases = yaml.safe_load((ROOT / "roles/common/vars/main.yml").read_text())["common_releases"]
    assert set(releases) == {"bookworm", "focal", "jammy", "noble"}
    asked = {
        name
        for file in TASK_FILES
        for listed in re.findall(r"common_packages: (.*(?:\n {6,}.*)*)", file.read_text())
        for name in re.findall(r"[a-z][a-z0-9-]+", " ".join(re.findall(r"\[[^\]]*\]", listed)))
    }
    assert asked >= {"chrony", "git", "influxdb", "logrotate", "supervisor", "unattended-upgrades", "venv"}
    assert {release: asked - set(names) for release, names in releases.items() if asked - set(names)} == {}


def test_a_telemetry_or_client_host_that_fails_keeps_no_agent_from_its_keys() -> None:
    """A play whose hosts all fail ends the playbook."""
    plays = yaml.safe_load((ROOT / "playbooks/hosts.yml").read_text())
    agents = [play["name"] for play in plays].index("Bring up the agents")
    assert {play["hosts"] for play in plays[:agents]} == {"agents", "all"}


def test_an_agent_host_may_have_no_worker() -> None:
    [run] = [
        task
        for task in yaml.safe_load((ROOT / "roles/clearml_agent/tasks/workers.yml").read_text())
        if "managed_service_instances" in task.get("vars", {})
    ]
    assert run["when"] == "clearml_agent_instances | length > 0"
