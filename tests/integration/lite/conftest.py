"""Real agents beside the live server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ENDED = ("completed", "failed", "stopped", "published", "closed")
LONGEST_WAIT = 900  # seconds, on a machine that is busy
SCRIPTS = Path(__file__).parent / "scripts"


def last_line(output: str) -> Any:
    """What a client's script printed last, as JSON."""
    return json.loads(output.strip().splitlines()[-1])


def seen_by(lite: Any, script: str, conf: Path | None = None) -> Any:
    """What one of the scripts beside the tests has seen."""
    conf = conf or lite.client_conf(script.removesuffix(".py"))
    return last_line(lite.run_python((SCRIPTS / script).read_text(), conf, timeout=1800))


class Agents:
    """Agents as plain processes, with caches of their own in the server's folder."""

    def __init__(self, lite: Any) -> None:
        self.lite = lite
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, worker: str, conf: Path) -> dict[str, str]:
        return os.environ | {
            "CLEARML_CONFIG_FILE": str(conf),
            "CLEARML_WORKER_ID": worker,
            "CLEARML_AGENT_SKIP_PIP_VENV_INSTALL": sys.executable,
            "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",  # else it puts an older pip there
            "HOME": str(self.lite.folder),
            "TESTS_FOLDER": str(self.lite.folder),
        }

    def conf(self, name: str) -> Path:
        home = self.lite.folder / name
        caches = f'venvs_dir: "{home}/venvs", vcs_cache.path: "{home}/vcs", pip_download_cache.path: "{home}/pip"'
        return self.lite.client_conf(name, f"agent {{ {caches} }}")

    def log(self, worker: str) -> Path:
        return self.lite.folder / f"{worker.replace(':', '-')}.log"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "clearml_agent", *arguments]

    def start(self, worker: str, *queues: str, options: tuple[str, ...] = ()) -> None:
        """Starts a daemon that listens on these queues, the first before the others."""
        command = self.command("daemon", "--queue", *queues, "--foreground", *options)
        environment = self.environment(worker, self.conf(worker.replace(":", "-")))
        with self.log(worker).open("wb") as output:
            self._running[worker] = subprocess.Popen(
                command, env=environment, cwd=self.lite.folder, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self) -> None:
        for process in self._running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def document(self, task: str) -> dict[str, Any]:
        return self.lite.call("tasks.get_by_id", {"task": task})["task"]

    def until(self, seen: Callable[[], Any]) -> Any:
        """What `seen` tells as soon as it tells something."""
        deadline = time.monotonic() + LONGEST_WAIT
        while not (found := seen()):
            logs = [self.log(worker).read_text()[-5000:] for worker in self._running]
            assert time.monotonic() < deadline, "\n".join(logs)
            time.sleep(0.2)
        return found

    def ended(self, task: str) -> dict[str, Any]:
        """The task once it has ended."""
        return self.until(lambda: document if (document := self.document(task))["status"] in ENDED else None)

    def console(self, task: str) -> str:
        events = self.lite.call("events.get_task_log", {"task": task, "batch_size": 1000, "order": "asc"})["events"]
        return "\n".join(event["msg"] for event in events)


@pytest.fixture
def agents(lite: Any) -> Iterator[Agents]:
    started = Agents(lite)
    yield started
    started.kill()
