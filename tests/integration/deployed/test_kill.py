"""kill -9 of any service: it comes back, and nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from provision.errors import ApiError

pytestmark = pytest.mark.deployed

SERVICES = [
    *(
        "testbed-clearml-lite",
        "testbed-expiry",
        "testbed-influxdb",
        "testbed-agent-default",
        "testbed-agent-prepared",
        "testbed-inference",
        "testbed-watchdog",
    ),
]


def _answers(call) -> bool:
    try:
        call()
    except ApiError:
        return False
    return True


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_comes_back(service, eventually, api, command, pid_of):
    killed = pid_of(service)
    assert killed, f"{service} does not run"
    os.kill(killed, signal.SIGKILL)
    eventually(f"{service} back", lambda: pid_of(service) not in (0, killed), 60)
    eventually("the API answers", lambda: _answers(lambda: api.call("projects.get_all", page_size=1)), 60)
    eventually("all is well", lambda: command("status", "--json").returncode == 0, 90)


@pytest.mark.long
@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd keeps the services up")
def test_up_takes_services_over_from_a_killed_supervisord(command, eventually, pid_of):
    manager = int(Path("/run/supervisord.pid").read_text())
    orphans = {service: pid_of(service) for service in SERVICES}
    os.kill(manager, signal.SIGKILL)
    eventually("supervisord ended", lambda: not pid_of(SERVICES[0]), 10)
    assert all(Path(f"/proc/{pid}").exists() for pid in orphans.values()), "its programs run on"
    done = command("up", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(pid_of(service) not in (0, pid) for service, pid in orphans.items())
    assert not any(Path(f"/proc/{pid}").exists() for pid in orphans.values())


@pytest.mark.long
def test_training_survives_a_killed_server(testbed, api, eventually, pid_of):
    project = f"smoke/killed-server-{os.getpid()}"  # nothing of an earlier run is in it
    user = testbed.users[0].name
    home = Path(f"~{user}").expanduser()
    chain = subprocess.Popen(
        [
            *("runuser", "-u", user, "--", "env", "-C", str(home), f"HOME={home}"),
            *(str(home / "clearml-venv/bin/testbed-workload"), "chain"),
            *("--queue", testbed.agents.prepared_queue, "--project", project, "--json-lines"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def training_task() -> str | None:
        assert chain.poll() is None, f"the chain ended before the training began: {chain.communicate()[1][-2000:]}"
        projects = api.call("projects.get_all", name=f"^{project}$", only_fields=["id"])["projects"]
        running = {"name": "^train$", "status": ["in_progress"], "only_fields": ["id"]}
        found = (
            api.call("tasks.get_all", project=[entry["id"] for entry in projects], **running)["tasks"]
            if projects
            else []
        )
        return found[0]["id"] if found else None

    def scalars(task: str) -> dict[str, dict[str, dict[str, list[float]]]]:
        return api.call("events.scalar_metrics_iter_histogram", task=task)

    try:
        task = str(eventually("training begins", training_task, 300))
        before = eventually("first epochs reported", lambda: scalars(task), 120)
        server = pid_of("testbed-clearml-lite")
        os.kill(server, signal.SIGKILL)
        output, errors = chain.communicate(timeout=420)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
            os.killpg(chain.pid, signal.SIGKILL)
    assert chain.returncode == 0, errors[-3000:]
    assert pid_of("testbed-clearml-lite") not in (0, server)
    steps = {step["step"]: step for step in map(json.loads, output.splitlines())}
    assert steps["train"]["id"] == task
    after = scalars(task)
    for metric, variants in before.items():
        for variant, series in variants.items():
            kept = dict(zip(after[metric][variant]["x"], after[metric][variant]["y"], strict=True))
            assert [kept.get(x) for x in series["x"]] == series["y"], f"{metric}/{variant} lost points that were there"
    epochs = int(steps["train"]["details"]["Epochs"])
    assert sorted(after["loss"]["train"]["x"]) == list(range(epochs)), "an epoch is missing"
