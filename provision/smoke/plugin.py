"""The pytest plugin that hands what is checked to the stack checks and collects what they find."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from testinfra.host import Host

from provision import forward, hosts, inventory
from provision.clearml_api import ClearmlApi
from provision.converge import Redaction, secret_values
from provision.errors import ApiError, TestbedError
from provision.reports import Check
from provision.secrets import Secrets
from provision.session import Session
from provision.smoke import logs, project
from provision.smoke.problem import Broken, HostService, told
from provision.smoke.target import Target

CERTIFICATES = {"authority", "certificate"}  # everybody may see them


@dataclass(frozen=True)
class Options:
    """What `testbed smoke` was told: checks whose name has `only` in it, and whether their project stays."""

    only: str = ""
    keep: bool = False


@dataclass(eq=False)
class StackPlugin:
    """Fixtures of the stack checks, and a record of their results.

    Without a `session_of_testbed` there is a server alone, and no host. `figures`: what checks saw that a report draws.
    """

    server: Target
    tell: Callable[[str], None]
    session_of_testbed: Session | None = None
    secrets_of_testbed: Secrets | None = None
    options: Options = field(default_factory=Options)
    run: int = 1
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    kept: str = ""
    unreadable: bool = False  # pytest stops then as at a Ctrl-C
    _promises: dict[str, tuple[str, list[HostService]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = [self.server.key.secret_key]
        if self.secrets_of_testbed is not None:
            values += secret_values(self.secrets_of_testbed.model_dump(exclude={"id": True, "tls": CERTIFICATES}))
        self.redacted = Redaction(value for value in values if value)

    @pytest.fixture(scope="session")
    def stack(self) -> Session:
        """The session on the deployed testbed."""
        if self.session_of_testbed is None:
            pytest.skip("there is no testbed, only a server")
        return self.session_of_testbed

    @pytest.fixture(scope="session")
    def target(self) -> Target:
        """The ClearML server that is checked."""
        return self.server

    @pytest.fixture(scope="session")
    def secrets(self) -> Secrets | None:
        """The deployment's secrets, never to be printed; None where there is a server alone."""
        return self.secrets_of_testbed

    @pytest.fixture(scope="session")
    def api(self) -> Iterator[ClearmlApi]:
        """The ClearML API with the key of the one who checks."""
        with ClearmlApi(self.server.url("api"), self.server.key) as api:
            yield api

    @pytest.fixture(scope="session")
    def http(self) -> Iterator[httpx.Client]:
        """HTTP to the server."""
        with forward.client(timeout=30) as client:
            yield client

    @pytest.fixture(scope="session")
    def on(self) -> Callable[[str], Host]:
        """A function from a host's name to the host."""
        session = self.session_of_testbed
        if session is None:
            pytest.skip("there is no testbed, only a server")
        return lambda name: hosts.connect(session.inventory_file, name)

    @pytest.fixture(scope="session")
    def tell_step(self) -> Callable[[str], None]:
        """A function that shows people what a long check is doing."""
        return self.tell

    @pytest.fixture(scope="session")
    def drawn(self) -> dict[str, Any]:
        """Where checks put what a report draws."""
        return self.figures

    @pytest.fixture(scope="session")
    def own_project(self, api: ClearmlApi, http: httpx.Client) -> Iterator[str]:
        """The name of a project of this run's own, which goes with all that is in it, unless it is to be kept."""
        project.remove_left(api, http, self.server.url("files"))
        name = project.create(api, keep=self.options.keep)
        try:
            yield name
        finally:
            if self.options.keep:
                self.kept = name
            else:
                self.tell(f"remove project {name}")
                project.remove(api, http, self.server.url("files"), name)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Check every service, worker, user and queue by name."""
        found: dict[str, tuple[Sequence[object], Sequence[str]]] = {
            "queue": (self.server.queues, self.server.queues),
            **dict.fromkeys(("inference_host", "service", "user", "task_queue", "watchdog", "worker"), ((), ())),
        }
        if self.session_of_testbed is not None:
            testbed, machines = self.session_of_testbed.testbed, self.session_of_testbed.inventory
            services, workers = inventory.services(testbed, machines), inventory.workers(testbed, machines)
            users, watchdogs = [user.name for user in testbed.users], inventory.hosts(machines, "watchdogs")
            inference = inventory.hosts(machines, "inference")
            found |= {
                "inference_host": (inference, inference),
                "service": (services, [f"{name} on {host}" for host, name in services]),
                "user": (users, users),
                "task_queue": (testbed.agents.task_queues, testbed.agents.task_queues),
                "watchdog": (watchdogs, watchdogs),
                "worker": (workers, [f"{host}:{worker.name}" for host, worker in workers]),
            }
        for name, (values, ids) in found.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values, ids=ids)

    @pytest.hookimpl(trylast=True)  # what the level leaves out is gone by then
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave those checks whose name was asked for, and keep in mind what each promises."""
        about = [item for item in items if not _is_about_nothing(item)]
        self.names = [title(item.nodeid) for item in about]
        wanted = self.options.only.lower()
        chosen = [item for item in about if wanted in title(item.nodeid).lower()]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
        for item in items:
            promise = " ".join((inspect.getdoc(getattr(item, "function", None)) or "").split("\n\n")[0].split())
            self._promises[item.nodeid] = promise, self._concerned(item)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep in mind that a file of checks could not be read."""
        self.unreadable |= report.failed

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tell(title(nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or not report.passed:
            properties = dict(report.user_properties)
            told = self._told(item, call) if report.failed else {}
            if report.skipped and call.excinfo is not None:
                told = {"message": str(call.excinfo.value).strip()}
            self.checks.append(
                Check(
                    name=title(item.nodeid) if report.when != "teardown" else f"{title(item.nodeid)}: afterwards",
                    result=report.outcome,
                    seconds=round(float(str(properties.get("seconds", report.duration))), 3),
                    reference=str(properties.get("reference", "")),
                    run=self.run,
                    **{"message": "", **told},
                )
            )
        return report

    def _concerned(self, item: pytest.Item) -> list[HostService]:
        """Return the services whose logs tell about a check: its own parameter, or what its marker `of` names."""
        session = self.session_of_testbed
        if session is None:
            return []
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if isinstance(service := parameters.get("service"), tuple):
            return [service]
        if isinstance(worker := parameters.get("worker"), tuple):
            return [(worker[0], f"{logs.AGENT}{worker[1].name}")]
        marker = item.get_closest_marker("of")
        return logs.concerned(session, marker.args if marker else ())

    def _told(self, item: pytest.Item, call: pytest.CallInfo[None]) -> dict[str, Any]:
        """Return what a failed check is to say, without any secret."""
        error = call.excinfo.value if call.excinfo else None
        promise, concerned = self._promises.get(item.nodeid, ("", []))
        seen, remedy, expected, of = str(error).strip() or type(error).__name__, "", promise, concerned
        if isinstance(error, Broken):
            expected, remedy, of = error.expected or promise, error.remedy, list(error.of) or concerned
        elif isinstance(error, ApiError):
            seen = error.message
        elif isinstance(error, TestbedError):
            seen, remedy = error.message, error.remedy
        elif isinstance(error, httpx.HTTPError):
            asked = getattr(error, "_request", None)  # `request` raises where there is none
            seen = f"{asked.url}: {seen}" if asked is not None else seen
        elif not isinstance(error, AssertionError):
            seen = f"{type(error).__name__}: {seen}"
        expected, seen = self.redacted(expected), self.redacted(seen)
        remedy = self.redacted(remedy or self.server.remedy)
        session = self.session_of_testbed
        last = [(each, logs.last(session, *each, self.redacted)) for each in of] if session is not None else []
        return {
            "message": told(expected, seen, remedy, last),
            "expected": expected,
            "seen": seen,
            "remedy": remedy,
            "log": [f"{service} on {host}: {line}" for (host, service), lines in last for line in lines],
        }


def _is_about_nothing(item: pytest.Item) -> bool:
    """Return whether there is none of what a check is for, such as no queue: pytest would call that skipped."""
    marker = item.get_closest_marker("skip")
    return marker is not None and str(marker.kwargs.get("reason", "")).startswith("got empty parameter set")


def title(nodeid: str) -> str:
    """Return a check's name as people read it: `test_api_answers[x]` -> `api answers: x`."""
    found = re.match(r"test_(\w+)(?:\[(.*)\])?$", nodeid.rsplit("::", 1)[-1])
    if found is None:
        return nodeid
    words = found.group(1).replace("_", " ")
    return f"{words}: {found.group(2)}" if found.group(2) else words
