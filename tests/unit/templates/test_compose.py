"""What role clearml_server writes for backend docker, rendered by Ansible itself, and what it means."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from clearml.utilities.pyhocon import ConfigFactory

from provision import upgrade
from provision.credentials.public import PUBLIC_KEYS, PUBLIC_TOKEN_SECRET
from provision.spec import Server
from provision.spec_server import Images, Stores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyparsing, which the SDK's parser calls

ROLES = Path(__file__).parents[3] / "roles"
ROLE = ROLES / "clearml_server"
FOLDER = "/etc/testbed/clearml"
ODD = "a'b\"c\\d$e ${f} #g {h} \\"  # a password as nobody should have it
DIGEST = "sha256:" + "a" * 64
COMPOSE = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
# published with the official server, beside its keys
PUBLIC_SECRETS = (PUBLIC_TOKEN_SECRET, "V8gcW3EneNDcNfO7G_TSUsWe7uLozyacc9_I33o7bxUo8rCN31VLRg")
STORES = {"redis", "mongo", "elasticsearch"}
IDENTITIES = ("apiserver", "fileserver", "webserver", "services_agent", "tests")
OWN = {"apiserver", "fileserver", "webserver", "async_delete"}


def key(name: str) -> dict[str, str]:
    return {"user_key": f"KEY-{name}", "user_secret": f"SECRET-{name}"}


def urls(scheme: str) -> dict[str, str]:
    ports = {"api": 8008, "web": 8080, "files": 8081}
    return {name: f"{scheme}://lab.example:{port}" for name, port in ports.items()}


SECRETS: dict[str, Any] = {
    "token_secret": "SECRET-token",
    "session_secret": "SECRET-session",
    "redis_password": "SECRET-redis",
    **{name: key(name) for name in IDENTITIES},
}
USERS = [{"username": "alice", "name": 'Alice "A" \\ $x ${y}'}, {"username": "bob", "name": "Bob"}]


def capacity(memory_mb: int, memlock: bool = True, nofile: int = 65536) -> dict[str, Any]:
    return {
        "clearml_server_capacity": {"memory_mb": memory_mb, "cpus": 8, "limits": {"memlock": memlock, "nofile": nofile}}
    }


BASE: dict[str, Any] = {
    "clearml_server_backend": "docker",
    "clearml_server_data_dir": "/srv/clearml",
    "clearml_server_bind": "192.0.2.7",
    "clearml_server_urls": urls("http"),
    "clearml_server_users": USERS,
    "clearml_server_user_secrets": {"alice": {"password_hash": "SECRET-alice"}, "bob": {"password_hash": "SECRET-bob"}},
    "clearml_server_secrets": SECRETS,
    **capacity(7950),
}
OUTSIDE = {
    "mongo": {"host": "m.example", "port": 27018, "username": "clearml", "query": "authSource=admin"},
    "elasticsearch": {"host": "e.example", "port": 9200, "username": "elastic"},
    "redis": {"host": "r.example", "port": 6380},
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "older": {"clearml_server_version": "2.3.0"},
    "tls": {"clearml_server_urls": urls("https")},
    "moved": {
        "clearml_server_urls": urls("https"),
        "clearml_server_former_files_urls": ["https://lab.example:8081", "http://old.example:8081"],
    },
    "ipv6": {"clearml_server_bind": "::1"},
    "registry": {
        "clearml_server_registry": "registry.example:5000/hub",
        "clearml_server_images": {"mongo": f"registry.example/mongo@{DIGEST}"},
        "clearml_server_registry_username": "robot$lab",
        "clearml_server_registry_password": ODD,
    },
    "agent": {
        "clearml_server_agent_services": True,
        "clearml_server_images": {"agent-services": f"clearml/clearml-agent-services@{DIGEST}"},
    },
    "outside": {
        "clearml_server_stores": OUTSIDE,
        "clearml_server_store_passwords": {"mongo": ODD, "elasticsearch": "SECRET-e", "redis": "SECRET-r"},
    },
    "mongo outside": {"clearml_server_stores": {"mongo": {"host": "m.example", "ca_file": str(ROLE / "README.md")}}},
    "replica set": {
        "clearml_server_stores": {
            "mongo": {**OUTSIDE["mongo"], "further_hosts": ["m2.example", "2001:db8::3"], "query": "replicaSet=rs0"}
        },
        "clearml_server_store_passwords": {"mongo": ODD + "/@:%"},
    },
    "small limits": capacity(24000, memlock=False, nofile=20000),
    "no memlock": {"clearml_server_memlock": False},
    "16": capacity(15900),
    "64": capacity(64000),
    "odd": {"clearml_server_secrets": {**SECRETS, "token_secret": ODD, "fileserver": {**key("x"), "user_secret": ODD}}},
    "one user": {"clearml_server_users": USERS[:1]},
    "another key": {"clearml_server_secrets": {**SECRETS, "fileserver": key("new")}},
    "another token secret": {"clearml_server_secrets": {**SECRETS, "token_secret": "SECRET-new"}},
    "another redis password": {"clearml_server_secrets": {**SECRETS, "redis_password": "SECRET-new"}},
}  # fmt: skip
PLAY = """\
- hosts: all
  gather_facts: false
  vars_files: [ROLE/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        dest: "{{ out }}/{{ inventory_hostname }}.json"
        content: "{{ {'files': clearml_server_file_texts, 'digests': clearml_server_digests_wanted,
          'folders': clearml_server_folders,
          'compose': lookup('template', 'compose.yaml.j2',
                            template_vars={'clearml_server_digests': clearml_server_digests_wanted})} | to_json }}"
"""


@dataclass(frozen=True)
class Rendered:
    """One case: the Compose file, the files beside it, and the digests by service."""

    text: str
    files: dict[str, str]
    digests: dict[str, str]
    folders: list[dict[str, str]]

    @property
    def services(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.text)["services"]
        return found

    def environment(self, service: str) -> dict[str, str]:
        """Return what Compose gives to a service: out of its files, then out of the Compose file itself."""
        settings = self.services[service]
        found: dict[str, str] = {}
        for name in settings.get("env_file", []):
            found |= dotenv(self.files[name])
        return found | settings.get("environment", {})

    def reads(self, service: str) -> str:
        """Return all that a service can read of what the role wrote."""
        mounts = [mount.split(":")[0] for mount in self.services[service].get("volumes", [])]
        below = [text for name, text in self.files.items() if any(f"{FOLDER}/{name}".startswith(m) for m in mounts)]
        return "\n".join([str(self.environment(service)), *below])


def dotenv(text: str) -> dict[str, str]:
    """Return an environment file as Compose reads it (tests below hold this against Compose itself)."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            body = value[1:-1]
            found[name] = body if value[0] == "'" else re.sub(r"\\(.)", r"\1", body)
    return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rendered]:
    folder = tmp_path_factory.mktemp("compose")
    hosts = {name: {**BASE, **case, "out": str(folder)} for name, case in CASES.items()}
    common = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    common |= {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
    (folder / "play.yml").write_text(PLAY.replace("ROLE", str(ROLE)))
    (folder / "templates").symlink_to(ROLE / "templates")  # where a role's task would look for them
    environment = {**os.environ, "ANSIBLE_HOME": str(folder), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "2"}
    environment |= {"ANSIBLE_FILTER_PLUGINS": str(ROLE / "filter_plugins"), "ANSIBLE_LOCALHOST_WARNING": "0"}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "inventory.json")]
    done = subprocess.run(
        [*command, str(folder / "play.yml")], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in CASES}
    return {
        name: Rendered(each["compose"], each["files"], each["digests"], each["folders"]) for name, each in found.items()
    }


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, cases: dict[str, Rendered]) -> Rendered:
    return cases[request.param]


@pytest.fixture
def plain(cases: dict[str, Rendered]) -> Rendered:
    return cases["plain"]


class TestServices:
    def test_are_those_of_the_official_server_without_the_services_agent(self, plain: Rendered) -> None:
        assert {*plain.services} == STORES | OWN

    def test_the_services_agent_runs_when_asked_for_and_is_the_only_privileged_one(
        self, cases: dict[str, Rendered]
    ) -> None:
        services = cases["agent"].services
        assert {name for name, settings in services.items() if settings.get("privileged")} == {"agent-services"}
        assert {name for name, settings in services.items() if "docker.sock" in str(settings)} == {"agent-services"}
        assert "privileged" not in cases["plain"].text
        assert "docker.sock" not in cases["plain"].text

    @pytest.mark.parametrize(
        ("name", "images"),
        [
            ("plain", {"clearml/server:2.4.0", "mongo:8.0.15", "elasticsearch:8.19.9", "redis:8.2.3"}),
            ("older", {"clearml/server:2.3.0", "mongo:7.0.22", "elasticsearch:8.17.0", "redis:7.4.1"}),
        ],
    )
    def test_a_version_is_a_set_of_images(self, cases: dict[str, Rendered], name: str, images: set[str]) -> None:
        assert {settings["image"] for settings in cases[name].services.values()} == images

    @pytest.mark.parametrize(
        ("name", "prefixes"),
        [
            ("plain", ["http://lab.example:8081"]),
            ("moved", ["https://lab.example:8081", "http://old.example:8081"]),
        ],
    )
    def test_files_that_were_stored_under_an_earlier_url_are_deleted_with_their_tasks(
        self, cases: dict[str, Rendered], name: str, prefixes: list[str]
    ) -> None:
        for service in ("apiserver", "async_delete"):
            told = cases[name].environment(service)["CLEARML__services__async_urls_delete__fileserver__url_prefixes"]
            assert ConfigFactory.parse_string(f"told: {told}")["told"] == prefixes

    def test_images_come_from_the_sites_registry_unless_one_is_named_whole(self, cases: dict[str, Rendered]) -> None:
        services = cases["registry"].services
        assert services["apiserver"]["image"] == "registry.example:5000/hub/clearml/server:2.4.0"
        assert services["redis"]["image"] == "registry.example:5000/hub/redis:8.2.3"
        assert services["mongo"]["image"] == f"registry.example/mongo@{DIGEST}"

    @pytest.mark.parametrize("name", ["plain", "older", "registry", "agent", "outside", "mongo outside"])
    def test_upgrade_knows_which_these_are(self, cases: dict[str, Rendered], name: str) -> None:
        given = CASES[name]
        server = Server(
            backend="docker",
            registry=given.get("clearml_server_registry"),
            images=Images(**{key.replace("-", "_"): it for key, it in given.get("clearml_server_images", {}).items()}),
            agent_services=given.get("clearml_server_agent_services", False),
            stores=Stores(**{store: {"host": "x.example"} for store in given.get("clearml_server_stores", {})}),
        )
        found = upgrade.images(server, given.get("clearml_server_version", "2.4.0"))
        assert found == {service: settings["image"] for service, settings in cases[name].services.items()}

    def test_commands_are_the_official_ones(self, plain: Rendered) -> None:
        services = plain.services
        for name in ("apiserver", "fileserver", "webserver"):
            assert services[name]["command"] == [name]
        assert services["async_delete"]["entrypoint"] == [
            *("python3", "-m", "jobs.async_urls_delete", "--fileserver-host", "http://fileserver:8081")
        ]
        assert services["mongo"]["command"] == [
            *("--setParameter", "internalQueryMaxBlockingSortMemoryUsageBytes=196100200")
        ]
        assert "command" not in services["elasticsearch"]

    def test_data_is_mounted_where_the_images_keep_it(self, plain: Rendered) -> None:
        mounts = {name: settings["volumes"] for name, settings in plain.services.items() if "volumes" in settings}
        assert mounts["elasticsearch"] == ["/srv/clearml/data/elastic_7:/usr/share/elasticsearch/data"]
        mongo = "/srv/clearml/data/mongo_4"
        assert mounts["mongo"] == [f"{mongo}/db:/data/db", f"{mongo}/configdb:/data/configdb"]
        assert mounts["redis"] == ["/srv/clearml/data/redis:/data"]
        assert "/srv/clearml/data/fileserver:/mnt/fileserver" in mounts["fileserver"]
        for name in ("apiserver", "fileserver", "async_delete"):
            assert "/srv/clearml/logs:/var/log/clearml" in mounts[name]

    def test_every_service_says_how_it_is_and_comes_back(self, case: Rendered) -> None:
        for settings in case.services.values():
            assert settings["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
            assert settings["restart"] == "unless-stopped"
            assert settings["logging"]["options"] == {"max-size": "20m", "max-file": "3"}

    def test_a_restart_does_not_wait_long_for_health_and_a_short_silence_is_no_illness(self, case: Rendered) -> None:
        checks = {name: settings["healthcheck"] for name, settings in case.services.items()}
        every = {name: int(check["interval"].removesuffix("s")) for name, check in checks.items()}
        # Docker asks first after one interval, and Docker 24 and older knows no other one for the start
        stores = max((every[name] for name in STORES & {*every}), default=0)
        assert stores + every["apiserver"] + every["fileserver"] <= 20
        assert {name: every[name] * checks[name]["retries"] for name in every} == dict.fromkeys(every, 60)

    def test_the_health_checks_ask_what_the_service_answers(self, plain: Rendered) -> None:
        asked = {name: " ".join(settings["healthcheck"]["test"]) for name, settings in plain.services.items()}
        assert "http://127.0.0.1:8008/debug.ping" in asked["apiserver"]
        assert "http://127.0.0.1:8081/" in asked["fileserver"]
        assert "http://127.0.0.1:80/" in asked["webserver"]
        assert "/_cluster/health" in asked["elasticsearch"]
        assert "mongosh" in asked["mongo"]
        assert "redis-cli ping" in asked["redis"]

    def test_a_service_starts_when_what_it_needs_is_healthy(self, case: Rendered) -> None:
        services = case.services
        after = {name: settings.get("depends_on", {}) for name, settings in services.items()}
        assert all(each == {"condition": "service_healthy"} for needs in after.values() for each in needs.values())
        stores = STORES & {*services}
        assert {*after["apiserver"]} == stores
        assert {*after["fileserver"]} == {"apiserver"} | ({"redis"} & stores)
        assert {*after["webserver"]} == {"apiserver", "fileserver"}
        assert {*after["async_delete"]} == stores | {"apiserver", "fileserver"}


class TestNetworks:
    def test_stores_are_on_a_network_that_leads_nowhere_else(self, case: Rendered) -> None:
        assert yaml.safe_load(case.text)["networks"] == {"backend": {"internal": True}, "frontend": {}}
        for name in STORES & {*case.services}:
            assert case.services[name]["networks"] == ["backend"]
            assert "ports" not in case.services[name]

    def test_the_web_server_reaches_no_store(self, case: Rendered) -> None:
        assert case.services["webserver"]["networks"] == ["frontend"]

    def test_only_three_ports_are_published_on_the_address_of_the_spec(self, cases: dict[str, Rendered]) -> None:
        for name, address in {"plain": "192.0.2.7", "ipv6": "::1", "agent": "192.0.2.7"}.items():
            published = {
                service: [(port["host_ip"], port["published"], port["target"]) for port in settings["ports"]]
                for service, settings in cases[name].services.items()
                if "ports" in settings
            }
            assert published == {
                "apiserver": [(address, "8008", 8008)],
                "fileserver": [(address, "8081", 8081)],
                "webserver": [(address, "8080", 80)],
            }


class TestSecrets:
    def test_none_is_in_the_compose_file(self, case: Rendered) -> None:
        assert "SECRET" not in case.text
        assert "KEY-" not in case.text
        assert ODD not in case.text

    @pytest.mark.parametrize(
        ("service", "known"),
        [
            ("redis", {"redis"}),
            ("mongo", set()),
            ("elasticsearch", set()),
            ("webserver", set()),
            ("fileserver", {"fileserver", "redis"}),
            ("apiserver", {"token", "session", "redis", "alice", "bob", *IDENTITIES}),
            ("agent-services", {"services_agent"}),
        ],
    )
    def test_each_service_knows_its_own_and_no_other(
        self, cases: dict[str, Rendered], service: str, known: set[str]
    ) -> None:
        assert {*re.findall(r"SECRET-(\w+)", cases["agent"].reads(service))} == known

    def test_what_deletes_files_knows_what_the_api_server_knows(self, plain: Rendered) -> None:
        # it is a job of the API server's own code, and reads the same configuration
        assert plain.reads("async_delete").count("SECRET") == plain.reads("apiserver").count("SECRET")

    def test_every_public_one_is_replaced(self, plain: Rendered) -> None:
        found = plain.environment("apiserver")
        for identity in IDENTITIES:
            assert found[f"CLEARML__secure__credentials__{identity}__user_key"] == f'"KEY-{identity}"'
            assert found[f"CLEARML__secure__credentials__{identity}__user_secret"] == f'"SECRET-{identity}"'
        assert found["CLEARML__secure__auth__token_secret"] == '"SECRET-token"'
        assert found["CLEARML__secure__http__session_secret__apiserver"] == '"SECRET-session"'
        pair = {name: value for name, value in plain.environment("fileserver").items() if "secure" in name}
        assert [*pair.values()] == ['"KEY-fileserver"', '"SECRET-fileserver"']

    def test_nothing_public_is_left_anywhere_in_the_role(self) -> None:
        text = "\n".join(path.read_text() for path in ROLE.rglob("*") if path.is_file() and path.suffix != ".pyc")
        values = [*PUBLIC_SECRETS, *(value for pair in PUBLIC_KEYS.values() for value in pair.model_dump().values())]
        assert [value for value in values if value in text] == []

    def test_values_that_mean_something_to_compose_or_hocon_arrive_as_they_are(
        self, cases: dict[str, Rendered]
    ) -> None:
        found = cases["odd"].environment("apiserver")
        value = found["CLEARML__secure__auth__token_secret"]
        assert ConfigFactory.parse_string(f"x = {value}")["x"] == ODD
        value = cases["odd"].environment("fileserver")["CLEARML__secure__credentials__fileserver__user_secret"]
        assert ConfigFactory.parse_string(f"x = {value}")["x"] == ODD
        assert cases["outside"].environment("apiserver")["CLEARML_MONGODB_SERVICE_PASSWORD"] == ODD

    def test_redis_gets_its_password_by_no_argument(self, plain: Rendered) -> None:
        assert plain.services["redis"]["command"][:2] == ["sh", "-c"]
        assert "redis-server - <<EOF\nrequirepass $$REDISCLI_AUTH\nEOF" in plain.services["redis"]["command"][2]


class TestInsecureDefaults:
    """Each of clearml-api/README.md, "Defaults that a deployment must change"."""

    def test_fixed_users_are_on_with_hashes(self, plain: Rendered) -> None:
        fixed = ConfigFactory.parse_string(plain.files["config/apiserver.conf"])["auth"]["fixed_users"]
        assert (fixed["enabled"], fixed["pass_hashed"]) == (True, True)
        assert [{**user} for user in fixed["users"]] == [
            {"username": "alice", "password": "SECRET-alice", "name": USERS[0]["name"]},
            {"username": "bob", "password": "SECRET-bob", "name": "Bob"},
        ]

    def test_a_login_ends_after_days_and_outlives_the_agents_patience(self, plain: Rendered) -> None:
        seconds = int(plain.environment("apiserver")["CLEARML__apiserver__auth__default_expiration_sec"])
        assert 43200 < seconds <= 7 * 86400

    def test_the_file_server_wants_a_login_and_forgets_a_revoked_one_soon(self, plain: Rendered) -> None:
        found = plain.environment("fileserver")
        assert found["CLEARML__fileserver__auth__enabled"] == "true"
        assert int(found["CLEARML__fileserver__auth__tokens_cache_threshold_sec"]) <= 600
        assert int(found["CLEARML__fileserver__upload__max_upload_size_mb"]) > 0

    def test_only_the_web_origin_may_ask_from_a_browser(self, cases: dict[str, Rendered]) -> None:
        for name, origin in {"plain": "http://lab.example:8080", "tls": "https://lab.example:8080"}.items():
            assert cases[name].environment("apiserver")["CLEARML__apiserver__cors__origins"] == f'"{origin}"'
            assert cases[name].environment("fileserver")["CLEARML__fileserver__cors__origins"] == f'"{origin}"'

    @pytest.mark.parametrize(("name", "secure"), [("plain", "false"), ("tls", "true")])
    def test_cookies_are_secure_over_tls(self, cases: dict[str, Rendered], name: str, secure: str) -> None:
        assert cases[name].environment("apiserver")["CLEARML__apiserver__auth__cookies__secure"] == secure

    def test_it_neither_calls_home_nor_has_examples(self, plain: Rendered) -> None:
        found = plain.environment("apiserver")
        assert found["CLEARML__apiserver__check_for_updates__enabled"] == "false"
        assert found["CLEARML__apiserver__pre_populate__enabled"] == "false"

    def test_no_development_server_runs(self, plain: Rendered) -> None:
        assert plain.environment("apiserver")["CLEARML_USE_GUNICORN"] == "1"
        assert plain.environment("fileserver")["FILESERVER_USE_GUNICORN"] == "true"

    def test_redis_has_a_password_that_its_users_know(self, plain: Rendered) -> None:
        assert plain.environment("redis") == {"REDISCLI_AUTH": "SECRET-redis"}
        for service in ("apiserver", "fileserver", "async_delete"):
            assert plain.environment(service)["CLEARML_REDIS_SERVICE_PASSWORD"] == "SECRET-redis"  # noqa: S105


class TestRegistryLogin:
    def test_docker_is_told_who_logs_in_where_and_no_service_is(self, cases: dict[str, Rendered]) -> None:
        found = cases["registry"]
        [(registry, told)] = json.loads(found.files["docker/config.json"])["auths"].items()
        assert registry == "registry.example:5000"
        assert base64.b64decode(told["auth"]).decode() == f"robot$lab:{ODD}"
        assert not [name for name in found.services if told["auth"] in found.reads(name)]
        assert "docker/config.json" not in cases["plain"].files

    def test_its_file_is_closed_and_goes_when_nobody_logs_in_any_longer(self, cases: dict[str, Rendered]) -> None:
        folders = {name: {each["path"]: each for each in cases[name].folders} for name in ("registry", "plain")}
        assert folders["registry"][f"{FOLDER}/docker"] == {
            "path": f"{FOLDER}/docker", "mode": "0700", "state": "directory",
        }  # fmt: skip
        assert folders["plain"][f"{FOLDER}/docker"]["state"] == "absent"


class TestStoresElsewhere:
    def test_they_are_not_started(self, cases: dict[str, Rendered]) -> None:
        assert {*cases["outside"].services} == OWN
        assert {*cases["mongo outside"].services} == OWN | {"redis", "elasticsearch"}
        assert "redis.env" not in cases["outside"].files

    def test_the_server_is_told_where_they_are_and_who_logs_in(self, cases: dict[str, Rendered]) -> None:
        for service in ("apiserver", "async_delete"):
            found = {
                name: value
                for name, value in cases["outside"].environment(service).items()
                if re.match("CLEARML_(MONGODB|ELASTIC|REDIS)_", name)
            }
            assert found == {
                "CLEARML_MONGODB_SERVICE_HOST": "m.example",
                "CLEARML_MONGODB_SERVICE_PORT": "27018",
                "CLEARML_MONGODB_SERVICE_USERNAME": "clearml",
                "CLEARML_MONGODB_SERVICE_PASSWORD": ODD,
                "CLEARML_MONGODB_SERVICE_QUERY": "authSource=admin",
                "CLEARML_ELASTIC_SERVICE_HOST": "e.example",
                "CLEARML_ELASTIC_SERVICE_PORT": "9200",
                "CLEARML_ELASTIC_SERVICE_USERNAME": "elastic",
                "CLEARML_ELASTIC_SERVICE_PASSWORD": "SECRET-e",
                "CLEARML_REDIS_SERVICE_HOST": "r.example",
                "CLEARML_REDIS_SERVICE_PORT": "6380",
                "CLEARML_REDIS_SERVICE_PASSWORD": "SECRET-r",
            }
        assert cases["outside"].environment("fileserver")["CLEARML_REDIS_SERVICE_HOST"] == "r.example"

    def test_mongodb_by_tls_is_checked_against_the_certificates_given(self, cases: dict[str, Rendered]) -> None:
        found = cases["mongo outside"]
        assert (
            found.environment("apiserver")["CLEARML_MONGODB_SERVICE_QUERY"]
            == "tls=true&tlsCAFile=/opt/clearml/config/mongo-ca.crt"
        )
        assert found.files["config/mongo-ca.crt"].startswith("# clearml_server")
        assert f"{FOLDER}/config:/opt/clearml/config:ro" in found.services["apiserver"]["volumes"]

    def test_all_members_of_a_replica_set_are_named(self, cases: dict[str, Rendered]) -> None:
        for service in ("apiserver", "async_delete"):
            told = cases["replica set"].environment(service)
            [(name, url)] = [(name, value) for name, value in told.items() if name.startswith("CLEARML_MONGODB_")]
            assert name == "CLEARML_MONGODB_SERVICE_CONNECTION_STRING"
            found = urlsplit(url)
            user, _, where = found.netloc.rpartition("@")
            assert where == "m.example:27018,m2.example:27018,[2001:db8::3]:27018"
            assert [unquote(word) for word in user.split(":")] == ["clearml", ODD + "/@:%"]
            assert (found.scheme, found.path, found.query) == ("mongodb", "/", "replicaSet=rs0")
        assert "CONNECTION_STRING" not in cases["replica set"].files["fileserver.env"]

    def test_whoever_asks_them_can_leave_the_host(self, cases: dict[str, Rendered]) -> None:
        assert cases["outside"].services["async_delete"]["networks"] == ["backend", "frontend"]
        assert cases["plain"].services["async_delete"]["networks"] == ["backend"]


class TestStopping:
    def test_a_store_has_the_time_to_write_what_it_holds_before_it_is_killed(self, plain: Rendered) -> None:
        grace = {name: int(settings["stop_grace_period"].rstrip("s")) for name, settings in plain.services.items()}
        assert min(grace[name] for name in ("mongo", "elasticsearch", "redis")) >= 120
        assert min(grace.values()) > 10, "Compose's own patience"


class TestSizes:
    @pytest.mark.parametrize(("name", "memory_mb"), [("plain", 7950), ("16", 15900), ("64", 64000)])
    def test_the_limits_leave_room_for_the_host(self, cases: dict[str, Rendered], name: str, memory_mb: int) -> None:
        limits = [int(settings["mem_limit"].rstrip("m")) for settings in cases[name].services.values()]
        assert sum(limits) <= memory_mb - 1024

    def test_elasticsearch_gets_half_of_its_limit_as_heap(self, plain: Rendered) -> None:
        limit = int(plain.services["elasticsearch"]["mem_limit"].rstrip("m"))
        heap = limit // 2
        assert plain.environment("elasticsearch")["ES_JAVA_OPTS"] == f"-Xms{heap}m -Xmx{heap}m"

    def test_elasticsearch_locks_its_memory_where_the_host_allows_it(self, cases: dict[str, Rendered]) -> None:
        assert cases["plain"].environment("elasticsearch")["bootstrap.memory_lock"] == "true"
        assert cases["plain"].services["elasticsearch"]["ulimits"] == {
            "memlock": {"soft": -1, "hard": -1},
            "nofile": {"soft": 65536, "hard": 65536},
        }
        for name, files in {"small limits": 20000, "no memlock": 65536}.items():
            assert cases[name].environment("elasticsearch")["bootstrap.memory_lock"] == "false"
            assert cases[name].services["elasticsearch"]["ulimits"] == {"nofile": {"soft": files, "hard": files}}

    def test_elasticsearch_stops_before_the_disk_is_full(self, plain: Rendered) -> None:
        found = plain.environment("elasticsearch")
        marks = [found[f"cluster.routing.allocation.disk.watermark.{name}"] for name in ("low", "high", "flood_stage")]
        assert marks == ["2gb", "1gb", "500mb"]


class TestDigests:
    def test_each_container_carries_its_own(self, case: Rendered) -> None:
        labels = {name: settings["labels"]["testbed.digest"] for name, settings in case.services.items()}
        assert labels == case.digests
        assert len({*labels.values()}) == len(labels)

    @pytest.mark.parametrize(
        ("name", "concerned"),
        [
            ("one user", {"apiserver", "async_delete"}),
            ("another key", {"apiserver", "async_delete", "fileserver"}),
            ("another token secret", {"apiserver", "async_delete"}),
            ("another redis password", {"redis", "apiserver", "async_delete", "fileserver"}),
            ("older", STORES | OWN),
            ("tls", {"apiserver", "async_delete", "fileserver", "webserver"}),
            ("no memlock", {"elasticsearch"}),
        ],
    )
    def test_a_change_concerns_those_who_read_it(
        self, cases: dict[str, Rendered], name: str, concerned: set[str]
    ) -> None:
        before, after = cases["plain"].digests, cases[name].digests
        assert {service for service in after if after[service] != before[service]} == concerned


@pytest.mark.skipif(COMPOSE is None, reason="there is no docker-compose here: requirements/dev.txt has one")
class TestCompose:
    def test_it_accepts_the_file_and_reads_every_value_as_it_was(self, case: Rendered, tmp_path: Path) -> None:
        for name, text in {**case.files, "compose.yaml": case.text}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        command = [str(COMPOSE), "--file", str(tmp_path / "compose.yaml"), "config", "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "variable is not set" not in done.stderr
        found = json.loads(done.stdout)["services"]
        for service in case.services:
            # what Compose prints is fit to be read by it again: a dollar is doubled
            given = found[service].get("environment", {})
            read = {name: value.replace("$$", "$") for name, value in given.items()}
            assert read == case.environment(service)
