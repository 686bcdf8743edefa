"""Every flow that was recorded against the official server, replayed: same calls, same status, codes and fields.

The flows run in the order in which they were recorded, on one server, because later ones use what earlier ones made.
IDs, keys and tokens of the recording are replaced by those that this server gave in their place. Values are compared
too, except moments in time and what the recorder cut (`partial`: the answer's first 4 KB are there; `cut`: the request
was completed by hand).
"""

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

TRACES = Path(__file__).parent / "traces"
MAIN_FLOWS = (
    "auth_users", "clearml_init", "sdk_task", "sdk_consume", "sdk_publish", "sdk_dataset", "sdk_queues", "sdk_enqueue",
    "agent_run", "agent_abort", "agent_stop", "files_api", "mini", "sdk_misc", "sdk_pipeline", "sdk_remote",
)  # fmt: skip
# Recorded on a second server, with only a queue `zzz` and an agent that listened on a queue that is gone.
SECOND_FLOWS = ("token_renewal", "agent_list", "agent_noqueue", "agent_createqueue", "agent_services")

IDENTIFIER = re.compile(r"\b(?:[0-9a-f]{32}|[0-9A-Z]{30})\b")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
# Counted or measured by the server.
# (mean_value: the official server rounds it to two digits at every event, this one does not.)
MEASURED = {"mean_value", "active_duration", "running_time", "@timestamp", "scroll_id", "token", "secret_key", "build"}
# Where this server is better than the official one, or has its own: (flow, number) -> status and why.
DIFFERENT = {
    ("auth_users", 30): (401, "the tokens of a revoked key end at once"),
    ("auth_users", 59): (401, "a token forged with the official server's public secret is worth nothing"),
    ("agent_abort", 57): (200, "the official server's statistics came later than the question"),
    ("files_api", 48): (401, "the file server knows of a logout at once"),
}


def load(flow: str) -> list[dict[str, Any]]:
    with gzip.open(TRACES / f"{flow}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


class Replay:
    """Plays recorded calls against a live server and collects what differs."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.known: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.etag = ""
        self.client = httpx.Client(timeout=30)

    def play(self, flow: str) -> list[str]:
        self.secrets["client"] = ""
        self.tokens = {}
        problems: list[str] = []
        for number, call in enumerate(load(flow)):
            answer = self.send(call)
            expected, _ = DIFFERENT.get((flow, number), (call["status"], ""))
            where = f"{flow} {number} {call['method']} {call['path']}"
            if answer.status_code != expected:
                problems.append(f"{where}: {answer.status_code} instead of {expected}: {answer.text[:300]}")
            elif (flow, number) not in DIFFERENT:
                problems += [f"{where}: {problem}" for problem in self.compare_answer(call, answer)]
        return problems

    def send(self, call: dict[str, Any]) -> httpx.Response:
        headers = {name: self.live(value) for name, value in call.get("headers", {}).items()}
        cookies = {}
        auth = None
        if "if-none-match" in headers:
            headers["if-none-match"] = self.etag
        if "header" in call:
            headers["Authorization"] = call["header"]
        elif "bearer" in call:
            headers["Authorization"] = f"Bearer {self.token(call['bearer'])}"
        elif "cookie" in call:
            cookies["clearml_token_basic"] = self.token("alice")
        elif "basic" in call:
            auth = self.key(call)
        if call["path"] in ("/t/a.txt",) and call["status"] == 304:
            headers["If-None-Match"] = self.etag
        content = json.dumps(call["request"]) if "request" in call else None
        if isinstance(call.get("request"), str):
            content = call["request"]
        if call["path"].endswith("add_batch"):
            events = call["request"] if isinstance(call["request"], list) else [call["request"]]
            content = "\n".join(map(json.dumps, events))
        if content is not None:
            content = re.sub(r"eyJ[^\"]*jwt\(\d+\)", lambda _: self.token("alice"), self.live(content))
            headers["Content-Type"] = "application/json"
        url = self.server.urls["files" if call["server"] == "files" else "api"] + self.live(call["path"])
        files = [(self.live(name), (name, body.encode())) for name, body in call.get("files", [])]
        self.client.cookies.clear()
        request = self.client.build_request(
            call["method"],
            url,
            headers=headers,
            content=None if files else content,
            files=files or None,
            cookies=cookies,
        )
        answer = self.client.send(request, auth=auth)
        self.remember(call, answer)
        return answer

    def key(self, call: dict[str, Any]) -> tuple[str, str]:
        name = call["basic"]
        if name == "client":
            keys = self.server.call("auth.create_credentials")["credentials"]
            return keys["access_key"], keys["secret_key"]
        if name in ("apiserver", "fileserver", "webserver"):
            return name, self.server.config["credentials"][name]["user_secret"]
        if name in self.secrets:
            return self.live(name), self.secrets[name]
        wrong = call["status"] == 401
        return name, "wrong" if wrong else f"{name}-pass-1"

    def token(self, who: str) -> str:
        if who == "expired":
            return expired_token()
        if who in ("alice", "bob", "system"):
            if who not in self.tokens:
                self.tokens[who] = self.server.token(who) if who != "system" else self.system_token()
            return self.tokens[who]
        if who == "second":
            self.tokens.setdefault(who, self.server.token())
        return self.tokens.get(who, who)

    def system_token(self) -> str:
        answer = self.client.get(
            f"{self.server.urls['api']}/auth.login",
            auth=("apiserver", self.server.config["credentials"]["apiserver"]["user_secret"]),
        )
        return str(answer.json()["data"]["token"])

    def remember(self, call: dict[str, Any], answer: httpx.Response) -> None:
        self.etag = answer.headers.get("etag", self.etag)
        if call["path"].endswith("auth.login") and answer.status_code == 200:
            who = {"alice": "alice", "bob": "bob", "apiserver": "system", "client": "alice"}.get(call["basic"], "key")
            self.tokens[who] = answer.json()["data"]["token"]
        if call["path"].endswith("auth.create_credentials") and call["status"] == answer.status_code == 200:
            self.secrets[call["data"]["credentials"]["access_key"]] = answer.json()["data"]["credentials"]["secret_key"]

    def live(self, text: str) -> str:
        return IDENTIFIER.sub(lambda match: self.known.get(match[0], match[0]), text)

    def compare_answer(self, call: dict[str, Any], answer: httpx.Response) -> Iterator[str]:
        if "code" in call:
            content = answer.json()
            code = [content["meta"]["result_code"], content["meta"]["result_subcode"]]
            if code != call["code"]:
                yield f"{code} instead of {call['code']}"
            if call["code"][0] != 200 and not same_message(self.live(call["message"]), content["meta"]["result_msg"]):
                yield f"{content['meta']['result_msg']!r} instead of {call['message']!r}"
            if content["meta"].keys() != {
                "id", "trx", "endpoint", "result_code", "result_subcode", "result_msg", "error_stack", "error_data",
            }:  # fmt: skip
                yield f"envelope {sorted(content['meta'])}"
            if "cut" in call and "fields" in call["data"]:
                del call["data"]["fields"]  # some were in the part of the request that is not there
            yield from self.compare(call["data"], content["data"], "data", "partial" in call or "cut" in call)
        elif "data" in call:
            yield from self.compare(call["data"], answer.json(), "body", False)
        elif (
            "text" in call
            and call["server"] == "files"
            and call["status"] == 200
            and answer.text != self.live(call["text"])
        ):
            yield f"body {answer.text!r} instead of {call['text']!r}"
        for name, value in call.get("response_headers", {}).items():
            live = answer.headers.get(name, "")
            if name == "content-range" and live != value:
                yield f"{name} {live!r} instead of {value!r}"
            if name == "etag" and not live.startswith('"'):
                yield "no etag"

    def compare(self, recorded: Any, live: Any, where: str, partial: bool) -> Iterator[str]:
        """What differs; learns on the way which live ID stands for which recorded one."""
        name = where.rpartition(".")[2]
        if isinstance(recorded, dict) and isinstance(live, dict):
            recorded = {self.live(key): value for key, value in recorded.items()}
            if missing := recorded.keys() - live.keys():
                yield f"{where} lacks {sorted(missing)}"
            if (extra := live.keys() - recorded.keys()) and not partial:
                yield f"{where} has {sorted(extra)} too"
            for key in recorded.keys() & live.keys():
                yield from self.compare(recorded[key], live[key], f"{where}.{key}", partial)
        elif isinstance(recorded, list) and isinstance(live, list):
            if len(recorded) != len(live) and not partial:
                yield f"{where} has {len(live)} items instead of {len(recorded)}: {str(live)[:300]}"
            for number, (one, other) in enumerate(zip(recorded, live, strict=False)):
                yield from self.compare(one, other, f"{where}.{number}", partial)
        elif isinstance(recorded, str) and isinstance(live, str):
            if name == "scroll_id":
                self.known[recorded] = live
            elif IDENTIFIER.fullmatch(recorded) and IDENTIFIER.fullmatch(live):
                if self.known.setdefault(recorded, live) != live:
                    yield f"{where} is {live!r} instead of {self.known[recorded]!r} (recorded as {recorded!r})"
            elif (
                name not in MEASURED
                and self.live(recorded) != live
                and not (MOMENT.match(recorded) and MOMENT.match(live))
            ):
                yield f"{where} is {live!r} instead of {recorded!r}"
        elif isinstance(recorded, bool) or isinstance(live, bool) or recorded is None or live is None:
            if recorded is not live and name not in MEASURED:
                yield f"{where} is {live!r} instead of {recorded!r}"
        elif isinstance(recorded, int | float) and isinstance(live, int | float):
            if recorded != pytest.approx(live) and name not in MEASURED:
                yield f"{where} is {live!r} instead of {recorded!r}"
        elif type(recorded) is not type(live):
            yield f"{where} is a {type(live).__name__} instead of a {type(recorded).__name__}"


def same_message(recorded: str, live: str) -> bool:
    """Reasons that a library words are not compared."""
    return recorded.partition("reason=")[0] == live.partition("reason=")[0]


def expired_token() -> str:
    claims = {"exp": int(time.time()) - 1, "session_id": "s", "identity": {"user": "u"}}
    return jwt.encode(claims, "token-secret-of-the-tests-" + "0123456789" * 2, algorithm="HS256")


@pytest.fixture(scope="module")
def replays(make_server: Callable[[], Any]) -> dict[str, Replay]:
    """The two servers of the recordings, in the state in which the recordings found them."""
    main = make_server()
    main.start()
    second = make_server()
    second.start()
    default = second.call("queues.get_default")["id"]
    second.call("queues.delete", {"queue": default})
    gone = second.call("queues.create", {"name": "gone"})["id"]
    second.call("queues.create", {"name": "zzz"})
    second.call("workers.register", {"worker": "w:0", "queues": [gone]})
    second.call("queues.delete", {"queue": gone})
    first, other = Replay(main), Replay(second)
    return dict.fromkeys(MAIN_FLOWS, first) | dict.fromkeys(SECOND_FLOWS, other)


def prepare_mini(server: Any) -> None:
    server.call("projects.create", {"name": "mini"})


def prepare_misc(server: Any) -> None:
    """What an earlier, unrecorded run of sdk_misc and sdk_pipeline had left."""
    project = server.call("projects.create", {"name": "ref/misc"})["id"]
    server.call("models.create", {"name": "imp", "uri": "http://127.0.0.1:18081/ref/w.bin", "project": project})
    server.call(
        "tasks.create", {"name": "misc3", "type": "training", "project": project, "system_tags": ["development"]}
    )
    pipe = server.call("projects.create", {"name": "ref/pipe/.pipelines/pipe", "system_tags": ["hidden", "pipeline"]})[
        "id"
    ]
    parent = server.call("projects.get_by_id", {"project": pipe})["project"]["parent"]
    server.call("projects.update", {"project": parent, "system_tags": ["hidden"]})
    parents = server.call("projects.get_all", {"name": "^ref$"})["projects"]
    server.call("projects.update", {"project": parents[0]["id"], "description": ""})
    tags = ["development", "pipeline"]
    server.call("tasks.create", {"name": "pipe", "type": "controller", "project": pipe, "system_tags": tags})


PREPARE = {"mini": prepare_mini, "sdk_misc": prepare_misc}


@pytest.mark.parametrize("flow", [*MAIN_FLOWS, *SECOND_FLOWS])
def test_recorded_flow_replays(flow: str, replays: dict[str, Replay]) -> None:
    replay = replays[flow]
    if flow in PREPARE:
        PREPARE[flow](replay.server)
    problems = replay.play(flow)
    assert not problems, "\n".join(problems)


def test_all_recorded_flows_are_replayed() -> None:
    assert {path.name.removesuffix(".jsonl.gz") for path in TRACES.iterdir()} == {*MAIN_FLOWS, *SECOND_FLOWS}
