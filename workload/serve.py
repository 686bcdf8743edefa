"""The model in use: predictions over HTTP by the newest published model of a project.

python -m workload.serve --help

    POST /predict {"rows": [{"rsrp": -91.5, "cqi": 11}]}
    GET  /health

It looks at the ClearML server every few seconds. A model that is published later takes over once it is loaded, checked
and has predicted; what was asked before is answered by the one before. A model that cannot be used is told in /health,
and the one before goes on. What was asked and answered is kept, a line of JSON each, in a file a day.

With --trials PREFIX, a question may name a project below PREFIX (/predict?project=PREFIX/NAME): the newest published
model there answers it, beside the one that answers all others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Sequence
from urllib.parse import parse_qs, urlsplit

from workload.errors import DiskError, ModelError, ServerError, WorkloadError, reason
from workload.registered import Predictor, discard, fetch
from workload.step import PROJECT

LOG = logging.getLogger(__name__)

POLL = 10.0  # s between two looks at the server
LARGEST = 4 << 20  # bytes of a question
MOST_ROWS = 10_000  # in it
STALLED = 60.0  # s after which a client that says nothing is left
TRIAL_POLL = 2.0  # s between two looks at a project on trial
TRIAL_IDLE = 600.0  # s without a question after which it is left
MOST_TRIALS = 4  # at once


@dataclass(frozen=True)
class Served:
    """A model that answers: its ID and name in the server, when it was made there, and what predicts."""

    id: str
    name: str
    created: str
    predict: Callable[[Sequence[Any]], list[dict[str, Any]]]

    def told(self) -> dict[str, str]:
        """As it stands in an answer."""
        return {"id": self.id, "name": self.name, "created": self.created}


class Published:
    """The published models of a project, in the ClearML server."""

    def __init__(self, project: str, name: str | None) -> None:
        self.project, self.name = project, name
        self._client: Any = None

    def newest(self) -> tuple[str, str, str] | None:
        """ID, name and time of making of the one that was made last, or None. Raises ServerError."""
        from workload.server import login

        self._client = self._client or login()  # a service may start before the server that it follows
        try:
            projects = [found.id for found in self._client.projects.get_all(name=_exactly(self.project))]
            if not projects:
                return None
            found = self._client.models.get_all(
                project=projects,
                ready=True,
                order_by=["-created"],
                only_fields=["id", "name", "created"],
                **({"name": _exactly(self.name)} if self.name else {}),
            )
        except Exception as error:  # the SDK raises a type of its own for each reason
            raise ServerError(f"cannot ask the ClearML server for models ({reason(error)})") from error
        return next(((model.id, model.name, str(model.created)) for model in found), None)

    @staticmethod
    def load(found: tuple[str, str, str]) -> Served:
        """The model has predicted once when this returns. Raises ModelError when it never will, ServerError."""
        card, file = fetch(found[0])
        try:
            predictor = Predictor(card, file)
        finally:
            discard(file)
        try:
            predictor.predict([{}])
        except ModelError:
            raise
        except Exception as error:  # TensorFlow raises what is wrong with its shapes and layers
            words = " ".join(str(error).split())[:200]
            raise ModelError(f"model {found[0]} loads, and does not predict ({words}): register it again") from error
        return Served(*found, predictor.predict)


class Journal:
    """What was asked and answered, in `FOLDER/answers-YYYY-MM-DD.jsonl` (UTC, 0600); days beyond `days` are deleted."""

    def __init__(self, folder: Path, days: int) -> None:
        self._folder, self._days = folder, days
        self._lock = threading.Lock()
        self._day = ""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._begin(_now())
        except OSError as error:
            raise DiskError(f"cannot write in {folder} ({error.strerror}): check its owner and its disk") from error

    def keep(self, entry: dict[str, Any]) -> None:
        """Add a line; it is with the operating system when this returns. Raises OSError, ValueError for NaN."""
        line = json.dumps(entry, allow_nan=False) + "\n"
        now = _now()
        with self._lock:
            if f"{now:%Y-%m-%d}" != self._day:
                self._begin(now)
            with open(self._file, "a", encoding="utf-8", opener=_private) as file:
                file.write(line)

    def _begin(self, now: datetime) -> None:
        self._day = f"{now:%Y-%m-%d}"
        self._file = self._folder / f"answers-{self._day}.jsonl"
        oldest = f"answers-{now - timedelta(days=self._days):%Y-%m-%d}.jsonl"
        for path in self._folder.glob("answers-*.jsonl"):
            if path.name <= oldest:
                path.unlink()
        self._file.touch(0o600)


class Follower:
    """The model that answers now, and the thread that looks for a newer one: until `idle` s after it was `asked`."""

    def __init__(self, published: Any, poll: float = POLL, idle: float = math.inf) -> None:
        self.served: Served | None = None
        self.problem = "no look at the ClearML server yet"
        self.asked = time.monotonic()
        self._published, self._poll, self._idle = published, poll, idle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._refused: tuple[str, str] = ("", "")  # a model that never will predict, and why

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_over(self) -> bool:
        """Whether it looks no more."""
        return self._stop.is_set() or time.monotonic() - self.asked > self._idle

    def look(self) -> None:
        """One look: what is newer takes over, what cannot be used is told, and the one before goes on."""
        found = None
        try:
            found = self._published.newest()
            if not found:
                self.problem = "" if self.served else "no published model yet"
            elif self.served and found[0] == self.served.id:
                self.problem = ""
            elif found[0] == self._refused[0]:
                self.problem = self._refused[1]
            else:
                began = time.monotonic()
                served = self._published.load(found)
                self.served, self.problem = served, ""
                LOG.info("Model %s (%s) answers, loaded in %.1f s", served.id, served.name, time.monotonic() - began)
        except WorkloadError as error:
            if str(error) != self.problem:
                LOG.warning("%s", error)
            self.problem = str(error)
            if isinstance(error, ModelError) and found:
                self._refused = (found[0], self.problem)  # it stays so: it is not fetched again and again

    def _follow(self) -> None:
        while not self.is_over:
            try:
                self.look()
            except Exception:
                LOG.exception("The look for a newer model failed")
                self.problem = "the look for a newer model failed: see the log"
            self._stop.wait(self._poll)


class Trials:
    """Followers of projects below `prefix`: from the first question on, for as long as there are others.

    Of more than a few, the one that was asked longest ago is left. `published`: from a project to what is followed.
    """

    def __init__(self, prefix: str, published: Callable[[str], Any]) -> None:
        self._prefix, self._published = prefix, published
        self._lock = threading.Lock()
        self._followers: dict[str, Follower] = {}

    def of(self, project: str) -> Follower | None:
        """The one of a project; None where it is not below the prefix."""
        if not (self._prefix and project.startswith(f"{self._prefix}/")):
            return None
        with self._lock:
            there = {name: found for name, found in self._followers.items() if not found.is_over}
            if project not in there:
                if len(there) == MOST_TRIALS:
                    there.pop(min(there, key=lambda name: there[name].asked)).stop()
                there[project] = Follower(self._published(project), TRIAL_POLL, TRIAL_IDLE)
                there[project].start()
            self._followers = there
            there[project].asked = time.monotonic()
            return there[project]

    def stop(self) -> None:
        with self._lock:
            for follower in self._followers.values():
                follower.stop()


class Service(ThreadingHTTPServer):
    """Answers over HTTP, each request in a thread."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], follower: Follower, journal: Journal, trials: Trials | None = None
    ) -> None:
        self.follower, self.journal = follower, journal
        self.trials = trials or Trials("", lambda project: None)
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def end(self) -> None:
        """Take no more questions, and wait until those that have come are answered."""
        self.shutdown()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # one that waits for its next question reads its end
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = STALLED
    server: Service

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        follower = self._follower("/health")
        if not follower:
            return None
        served = follower.served
        found = {"model": served.told() if served else None, "problem": follower.problem or None}
        return self._answer(200 if served else 503, found)

    def do_POST(self) -> None:
        began = time.monotonic()
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            size = -1
        if not 0 <= size <= LARGEST:
            self.close_connection = True  # what comes is not read
            return self._answer(413 if size > 0 else 411, {"error": f"Content-Length must be 1 to {LARGEST}"})
        body = self.rfile.read(size)
        follower = self._follower("/predict")
        if not follower:
            return None
        served = follower.served  # one model for all of this request
        if not served:
            return self._answer(503, {"error": f"no model yet: {follower.problem}"})
        try:
            rows = _rows(body)
            predictions = served.predict(rows)
        except ModelError as error:
            return self._answer(400, {"error": str(error), "model": served.told()})
        except Exception:
            LOG.exception("Model %s failed", served.id)
            return self._answer(500, {"error": "the model failed: see the service's log", "model": served.told()})
        milliseconds = round((time.monotonic() - began) * 1000, 2)
        answer = {"model": served.told(), "predictions": predictions, "milliseconds": milliseconds}
        asked = {"time": _now().isoformat(), "client": self.client_address[0], "rows": rows}
        try:
            self.server.journal.keep({**asked, **answer})
        except OSError as error:
            LOG.error("Not kept: %s", error)
            why = f"the answer cannot be kept ({error.strerror}): check the service's disk"
            return self._answer(507, {"error": why})
        except ValueError:  # JSON has no NaN
            LOG.exception("Model %s gave what is no number", served.id)
            return self._answer(500, {"error": "the model gave what is no number", "model": served.told()})
        return self._answer(200, answer)

    def _follower(self, path: str) -> Follower | None:
        """Of the project that is asked for; None where the question went elsewhere, which is answered then."""
        asked = urlsplit(self.path)
        project = parse_qs(asked.query, keep_blank_values=True).get("project")
        if asked.path != path:
            self._answer(404, {"error": "there is POST /predict and GET /health"})
            return None
        follower = self.server.trials.of(project[0]) if project else self.server.follower
        if project and not follower:
            self._answer(404, {"error": f"project {project[0]!r} is not on trial here: leave ?project= out"})
        return follower

    def _answer(self, status: int, found: dict[str, Any]) -> None:
        body = json.dumps(found, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """What was answered is in the journal."""


def _rows(body: bytes) -> list[dict[str, Any]]:
    try:
        rows = json.loads(body, parse_constant=_no_number)["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ModelError('expected {"rows": [{"NAME": NUMBER, ...}, ...]}')
    if len(rows) > MOST_ROWS:
        raise ModelError(f"{len(rows)} rows: ask for {MOST_ROWS} at most at once")
    return rows


def _no_number(name: str) -> float:
    raise ModelError(f"{name} is no number of JSON: where a value is missing, give null or leave it out")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=PROJECT, help="whose published models are followed (default: %(default)s)")
    parser.add_argument("--name", help="only models of this name (default: all of the project)")
    parser.add_argument("--bind", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=_whole(0, 65535), default=8090, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, required=True, help="for what was asked and answered")
    parser.add_argument(
        "--days", type=_whole(1, 3650), default=30, help="for which that is kept (default: %(default)s)"
    )
    parser.add_argument("--poll", type=_seconds, default=POLL, help="s between two looks (default: %(default)s)")
    parser.add_argument("--trials", default="", metavar="PREFIX", help="projects below it may be asked for by name")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        journal = Journal(options.folder, options.days)
        follower = Follower(Published(options.project, options.name), options.poll)
        trials = Trials(options.trials, lambda project: Published(project, None))
        service = Service((options.bind, options.port), follower, journal, trials)
    except WorkloadError as error:
        print(f"workload.serve: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"workload.serve: cannot listen on {options.bind}:{options.port} ({error.strerror}): check --bind, --port",
            file=sys.stderr,
        )
        return 1

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.set())
    follower.start()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    LOG.info("Listening on %s:%d", options.bind, service.server_port)
    stopped.wait()
    follower.stop()
    trials.stop()
    service.end()
    return 0


def _whole(least: int, most: int) -> Callable[[str], int]:
    def value(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {least} to {most}")
        return int(text)

    return value


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: expected more than 0")
    return seconds


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}$"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _now() -> datetime:
    return datetime.now(timezone.utc)


if __name__ == "__main__":
    raise SystemExit(main())
