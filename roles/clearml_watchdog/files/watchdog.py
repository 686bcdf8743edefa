#!/usr/bin/env python3
"""Compares the workers and tasks that the server knows with the services that run, and mends what died silently.

- An agent whose service runs, but whose worker has not reported, is restarted; not while a task of its own reports.
- A task that says it runs on a worker that is gone is queued again, once, and fails the second time.

Python 3.8 and its standard library. `decide_restarts`, `find_lost` and `decide_tasks` are pure; ages are reckoned with
the server's clock, and waits with one that nobody sets.
"""

import argparse
import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

PAGE = 500
TIMEOUT_S = 30
# what looks dead must look so for so long: after a restore, or when the server's clock jumps, all that is known is old
# until workers (every 30 s) have reported
CERTAIN_S = 60
# in a task's runtime properties: how often it was queued again
COUNT = "testbed_watchdog_requeued"
REASON = "testbed watchdog"
# what an agent writes as status message of a task that it has taken and not yet begun to report
TAKEN = ("pulled by agent", "launch by agent")
FIELDS = ["id", "name", "status", "status_message", "status_changed", "started", "runtime", "execution.queue"]
FIELDS += ["last_update", "last_worker", "last_worker_report"]


class ApiError(Exception):
    """The server refused a call or did not answer; `answered` tells which."""

    def __init__(self, message, answered):
        """Say what was wrong."""
        super().__init__(message)
        self.answered = answered


class Api:
    """Calls to the ClearML API with one key pair."""

    def __init__(self, url, access_key, secret_key):
        """Log in at the first call."""
        self.url = url
        self.login = base64.b64encode(f"{access_key}:{secret_key}".encode()).decode()
        self.token = None
        self.clock = None  # the server's, in seconds since the epoch, at the last answer

    def call(self, endpoint, **parameters):
        """Return the `data` of the answer; logs in again when the token is no longer taken. Raises ApiError."""
        fresh = self.token is None
        if fresh:
            self.log_in()
        try:
            return self.send(endpoint, parameters, "Bearer " + self.token)
        except ApiError as error:
            if fresh or not str(error).startswith("401"):
                raise
        self.log_in()
        return self.send(endpoint, parameters, "Bearer " + self.token)

    def log_in(self):
        """Get a token."""
        self.token = self.send("auth.login", {}, "Basic " + self.login)["token"]

    def send(self, endpoint, body, authorization, kind="application/json"):
        """Return the `data` of the answer. Raises ApiError."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        method = "GET" if kind == "application/json" else "POST"
        headers = {"Authorization": authorization, "Content-Type": kind}
        url = self.url + "/" + endpoint
        request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310 (the spec's)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                date = answer.headers.get("Date")
                self.clock = parsedate_to_datetime(date).timestamp() if date else time.time()
                return json.load(answer).get("data") or {}
        except urllib.error.HTTPError as error:
            try:
                said = json.load(error)["meta"]["result_msg"]
            except (ValueError, KeyError, TypeError):
                said = error.reason
            raise ApiError(f"{error.code} {endpoint}: {said}", error.code < 500) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ApiError(f"{endpoint}: {error}", False) from None

    def pages(self, endpoint, collection, **parameters):
        """Yield what all pages of a `get_all` have."""
        page = 0
        while True:
            found = self.call(endpoint, page=page, page_size=PAGE, **parameters)[collection]
            yield from found
            if len(found) < PAGE:
                return
            page += 1


def moment(text):
    """Return a time of the server's as seconds since the epoch; 0 where there is none."""
    if not text:
        return 0.0
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def age_of_task(task, clock):
    """Return how many seconds ago a sign of life of the task came, from its worker or from itself."""
    names = ("last_update", "last_worker_report", "started", "status_changed")
    return clock - max(moment(task.get(name)) for name in names)


def age_of_worker(worker, clock):
    """Return how many seconds ago the worker reported."""
    names = ("last_report_time", "last_activity_time", "register_time")
    return clock - max(moment(worker.get(name)) for name in names)


def decide_restarts(services, workers, tasks, clock, silent):
    """Return {service: why} for the agents that are to be restarted, by what is known in this round.

    `services`: {worker's ID: (service, seconds that its process has been seen running; None: it does not run)};
    `workers`: {ID: as the server has it}; `tasks`: those that say they run; `silent`: seconds after which no report is
    no longer chance.
    """
    found = {}
    for name, (service, seen) in services.items():
        if seen is None or seen < silent:
            continue
        age = age_of_worker(workers[name], clock) if name in workers else None
        if age is not None and age < silent:
            continue
        reports = [
            task["id"] for task in tasks if task.get("last_worker") == name and age_of_task(task, clock) < silent
        ]
        if reports:
            continue
        said = "the server does not know it" if age is None else f"it has not reported for {age:.0f} s"
        found[service] = f"worker {name}: {said}, and its service runs"
    return found


def find_lost(tasks, queued, queues, workers, known, clock, silent):
    """Return {task's ID: why} for the tasks that nobody runs any more, though they do not say so.

    `tasks`: those with status in_progress or queued; `queued`: IDs of tasks in a queue; `queues`: IDs of the testbed's;
    `workers`: {ID: as the server has it}; `known`: IDs of the testbed's workers, gone ones too.
    """
    found = {}
    for task in tasks:
        if age_of_task(task, clock) < silent:
            continue
        worker = task.get("last_worker")
        queue = (task.get("execution") or {}).get("queue")
        if task["status"] == "queued":
            if queue in queues and task["id"] not in queued:
                found[task["id"]] = "an agent took it out of its queue and died"
        elif worker in known:
            there = workers.get(worker)
            if there is None or age_of_worker(there, clock) >= silent:
                found[task["id"]] = f"its worker {worker} is gone"
            elif (there.get("task") or {}).get("id") != task["id"]:
                found[task["id"]] = f"its worker {worker} lost it"
        elif not worker and queue in queues and task.get("status_message") in TAKEN:
            found[task["id"]] = "the agent that took it died before it began"
    return found


def decide_task(task, requeue):
    """Return the queue that a lost task is to go into, or None where it is to fail."""
    queue = (task.get("execution") or {}).get("queue")
    again = int((task.get("runtime") or {}).get(COUNT) or 0)
    return queue if requeue and queue and not again else None


class Patience:
    """Keeps a service that does not get well from being restarted over and over."""

    def __init__(self, first, longest):
        """Wait `first` seconds after a restart, twice as long after each further one, at most `longest`."""
        self.first, self.longest = first, longest
        self.count, self.until = {}, {}

    def allows(self, service, now):
        """Return whether it may be restarted."""
        return now >= self.until.get(service, 0)

    def restarted(self, service, now):
        """Note a restart; return how long the next one has to wait."""
        count = self.count.get(service, 0)
        pause = min(self.first * 2**count, self.longest)
        self.count[service], self.until[service] = count + 1, now + pause
        return pause

    def well(self, service):
        """Note that it works."""
        self.count.pop(service, None)
        self.until.pop(service, None)


class Suspicion:
    """Tells what has looked dead in every round for a while."""

    def __init__(self, certain):
        """Be sure after `certain` seconds."""
        self.certain, self.since = certain, {}

    def confirmed(self, found, now):
        """Return those of `found`, {what: why}, that have been found ever since."""
        self.since = {what: self.since.get(what, now) for what in found}
        return {what: why for what, why in found.items() if now - self.since[what] >= self.certain}


class Manager:
    """Asks systemd or supervisord."""

    def __init__(self):
        """Find out which of them runs the services."""
        self.systemd = Path("/run/systemd/system").is_dir()

    def pid(self, service):
        """Return the service's process ID, or 0."""
        if self.systemd:
            command = ["systemctl", "show", "--property", "MainPID", "--value", service]
        else:
            command = ["supervisorctl", "pid", service]
        said = run(command).stdout.strip()
        return int(said) if said.isdigit() else 0

    def restart(self, service):
        """Restart the service; return what went wrong, or nothing."""
        done = run(["systemctl" if self.systemd else "supervisorctl", "restart", service])
        return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()


def run(command):
    """Run a service manager's command."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def say(text):
    """Write a line into the service's log."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", flush=True)


class Watchdog:
    """Looks round after round; what it keeps in mind between rounds."""

    def __init__(self, settings, api, manager):
        """Take the settings (see watchdog.json.j2 of the role)."""
        self.settings, self.api, self.manager = settings, api, manager
        self.silent = settings["silent_seconds"]
        self.patience = Patience(self.silent, settings["longest_pause_seconds"])
        self.dead_agents, self.lost_tasks = Suspicion(CERTAIN_S), Suspicion(CERTAIN_S)
        self.seen = {}  # service -> (process ID, since when it has been seen)
        self.contact = None  # since when the server has answered every time
        self.refused = ""
        self.file = Path(settings["state"])
        self.state = {"workers": [], "requeueing": {}}
        if self.file.exists():
            self.state.update(json.loads(self.file.read_text()))

    def round(self, now):
        """Look once, and mend; `now`: seconds of a clock that nobody sets. Raises ApiError."""
        services = self.look_at_services(now)
        workers = {worker["id"]: worker for worker in self.api.call("workers.get_all", last_seen=0)["workers"]}
        running = list(self.tasks(["in_progress"]))
        if self.contact is None:
            say(f"The server answers; looks after {len(services)} workers here")
            self.contact, self.refused = now, ""
        clock = self.api.clock
        for name, (service, _) in services.items():
            if name in workers and age_of_worker(workers[name], clock) < self.silent:
                self.patience.well(service)
        if self.settings["looks_after_tasks"]:
            self.finish_requeueing()
        if now - self.contact < self.silent:
            return  # while the server was away, nobody could report
        dead = decide_restarts(services, workers, running, clock, self.silent)
        for service, why in self.dead_agents.confirmed(dead, now).items():
            if self.patience.allows(service, now):
                pause = self.patience.restarted(service, now)
                say(f"Restarts {service}: {why}. Not again for {pause:.0f} s")
                if wrong := self.manager.restart(service):
                    say(f"{service} cannot be restarted: {wrong}")
        if self.settings["looks_after_tasks"]:
            self.look_after_tasks(running, workers, clock, now)

    def lose_contact(self, error):
        """Note that the server did not answer as it should; say so once."""
        if self.contact is not None or str(error) != self.refused:
            say(f"The server does not answer as it should: {error}")
        self.contact, self.refused = None, str(error)

    def look_at_services(self, now):
        """Return {worker's ID: (service, seconds that its process has been seen)} for the workers of this host."""
        found = {}
        for name, service in self.settings["workers"].items():
            pid = self.manager.pid(service)
            if not pid:
                self.seen.pop(service, None)
            elif self.seen.get(service, (0, 0))[0] != pid:
                self.seen[service] = (pid, now)
            found[name] = (service, now - self.seen[service][1] if pid else None)
        return found

    def tasks(self, status):
        """Return the tasks with one of these statuses."""
        return self.api.pages("tasks.get_all", "tasks", status=status, only_fields=FIELDS, search_hidden=True)

    def look_after_tasks(self, running, workers, clock, now):
        """Queue lost tasks again, or fail them."""
        known = sorted({*self.state["workers"], *self.settings["all_workers"]})
        if known != self.state["workers"]:
            self.keep(workers=known)
        names = self.settings["queues"]
        queues = {queue["id"]: queue for queue in self.api.pages("queues.get_all", "queues") if queue["name"] in names}
        queued = {entry["task"] for queue in queues.values() for entry in queue.get("entries") or []}
        waiting = list(self.tasks(["queued"]))
        everything = {task["id"]: task for task in running + waiting}
        lost = find_lost(everything.values(), queued, set(queues), workers, set(known), clock, self.silent)
        for name, why in self.lost_tasks.confirmed(lost, now).items():
            self.mend(everything[name], why)

    def mend(self, task, why):
        """Queue a lost task again, or fail it."""
        name = "Task {} ({})".format(task["id"], task.get("name"))
        queue = decide_task(task, self.settings["lost_tasks"] == "requeue")
        try:
            if queue is None:
                again = COUNT in (task.get("runtime") or {})
                message = "{}{}".format(why, ", for the second time" if again else "")
                self.tell(task, f"{message}: the testbed's watchdog fails the task")
                self.api.call("tasks.failed", task=task["id"], force=True, status_reason=REASON, status_message=message)
                say(f"{name} failed: {message}")
            else:
                self.tell(task, f"{why}: the testbed's watchdog queues the task again")
                runtime = dict(task.get("runtime") or {}, **{COUNT: "1"})
                self.api.call("tasks.edit", task=task["id"], force=True, runtime=runtime)
                noted = {"queue": queue, "status_changed": task.get("status_changed")}
                self.keep(requeueing=dict(self.state["requeueing"], **{task["id"]: noted}))
                self.finish_requeueing()
                say(f"{name} queued again: {why}")
        except ApiError as error:
            say(f"{name} cannot be mended: {error}")

    def tell(self, task, message):
        """Write a line into the task's console."""
        event = {"type": "log", "task": task["id"], "level": "warning", "worker": REASON, "msg": message}
        event["timestamp"] = int(self.api.clock * 1000)
        kind = "application/json-lines"
        self.api.send("events.add_batch", json.dumps(event).encode(), "Bearer " + self.api.token, kind)

    def finish_requeueing(self):
        """Put tasks back that are to be queued again, also those of a round that was killed in between."""
        for task, noted in list(self.state["requeueing"].items()):
            try:
                self.requeue(task, noted)
            except ApiError as error:
                if not error.answered:
                    raise
                say(f"Task {task} cannot be queued again: {error}")
            self.keep(requeueing={key: value for key, value in self.state["requeueing"].items() if key != task})

    def requeue(self, task, noted):
        """Take a task off its worker and put it into its queue, unless somebody has done something with it since."""
        fields = ["status", "status_changed", "status_reason"]
        found = self.api.call("tasks.get_all", id=[task], only_fields=fields, search_hidden=True)["tasks"]
        if not found:
            return
        status, reason = found[0]["status"], found[0].get("status_reason")
        if status in ("in_progress", "queued") and found[0].get("status_changed") == noted["status_changed"]:
            message = "to be queued again"
            self.api.call("tasks.stopped", task=task, force=True, status_reason=REASON, status_message=message)
        elif status != "stopped" or reason != REASON:
            return
        self.api.call("tasks.enqueue", task=task, queue=noted["queue"], status_reason=REASON)

    def keep(self, **changed):
        """Keep in mind, over restarts, too."""
        self.state.update(changed)
        half = self.file.with_name(self.file.name + ".half")
        half.write_text(json.dumps(self.state))
        half.replace(self.file)


def main():
    """Look for ever."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rounds", type=int, help="look so often, not for ever")
    arguments = parser.parse_args()
    settings = json.loads(arguments.config.read_text())
    api = Api(settings["api_server"], settings["access_key"], settings["secret_key"])
    watchdog = Watchdog(settings, api, Manager())
    count = 0
    while arguments.rounds is None or count < arguments.rounds:
        count += 1
        try:
            watchdog.round(time.monotonic())
        except ApiError as error:
            watchdog.lose_contact(error)
        time.sleep(settings["interval_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
