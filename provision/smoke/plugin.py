"""The pytest plugin that hands a deployed testbed to the stack checks and collects what they find."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator

import pytest
from testinfra.host import Host

from provision import hosts, inventory
from provision.clearml_api import ClearmlApi
from provision.errors import TestbedError
from provision.reports import Check
from provision.secrets import Secrets
from provision.session import Session


class StackPlugin:
    """Fixtures of the stack checks, and a record of their results."""

    def __init__(self, session: Session, secrets: Secrets, tell: Callable[[str], None]) -> None:
        self.session = session
        self._secrets = secrets
        self.checks: list[Check] = []
        self.unreadable = False  # pytest stops then as at a Ctrl-C
        self._tell = tell

    @pytest.fixture(scope="session")
    def stack(self) -> Session:
        """The session on the deployed testbed."""
        return self.session

    @pytest.fixture(scope="session")
    def secrets(self) -> Secrets:
        """The deployment's secrets; never to be printed."""
        return self._secrets

    @pytest.fixture(scope="session")
    def api(self) -> Iterator[ClearmlApi]:
        """The ClearML API with the toolkit's own key."""
        if self._secrets.toolkit is None:
            raise TestbedError("the toolkit has no key", "Run `testbed up`.")
        with ClearmlApi(self.session.testbed.server.url("api"), self._secrets.toolkit) as api:
            yield api

    @pytest.fixture(scope="session")
    def on(self) -> Callable[[str], Host]:
        """A function from a host's name to the host."""
        return lambda name: hosts.connect(self.session.inventory_file, name)

    @pytest.fixture(scope="session")
    def tell(self) -> Callable[[str], None]:
        """A function that shows people what a long check is doing."""
        return self._tell

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Check every service, worker and user of the spec by name."""
        testbed, machines = self.session.testbed, self.session.inventory
        if "service" in metafunc.fixturenames:
            services = inventory.services(testbed, machines)
            metafunc.parametrize("service", services, ids=[f"{name} on {host}" for host, name in services])
        if "user" in metafunc.fixturenames:
            metafunc.parametrize("user", [user.name for user in testbed.users])
        if "task_queue" in metafunc.fixturenames:
            metafunc.parametrize("task_queue", testbed.agents.task_queues)
        if "watchdog" in metafunc.fixturenames:
            metafunc.parametrize("watchdog", inventory.hosts(machines, "watchdogs"))
        if "worker" in metafunc.fixturenames:
            workers = inventory.workers(testbed, machines)
            metafunc.parametrize("worker", workers, ids=[f"{host}:{worker.name}" for host, worker in workers])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep in mind that a file of checks could not be read."""
        self.unreadable |= report.failed

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell(title(nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or not report.passed:
            properties = dict(report.user_properties)
            check = Check(
                name=title(item.nodeid),
                result=report.outcome,
                seconds=float(str(properties.get("seconds", report.duration))),
                reference=str(properties.get("reference", "")),
                message="" if report.passed or call.excinfo is None else str(call.excinfo.value).strip(),
            )
            self.checks.append(check)
        return report


def title(nodeid: str) -> str:
    """Return a check's name as people read it: `test_api_answers[x]` -> `api answers: x`."""
    found = re.match(r"test_(\w+)(?:\[(.*)\])?$", nodeid.rsplit("::", 1)[-1])
    if found is None:
        return nodeid
    words = found.group(1).replace("_", " ")
    return f"{words}: {found.group(2)}" if found.group(2) else words
