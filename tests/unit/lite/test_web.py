"""The pages, in this process: what is on them, and whom they let in."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from clearml_lite import bodies
from clearml_lite.api import ApiServer
from clearml_lite.auth import COOKIE, GUESSES, Authenticator, Identity
from clearml_lite.config import Config
from clearml_lite.files import FileServer
from clearml_lite.services.queues import ensure_default_queue
from clearml_lite.storage import Storage
from clearml_lite.web import WebServer, app, pages
from clearml_lite.web.app import LARGEST_FORM, MOST_FIELDS
from clearml_lite.web.session import SESSION_COOKIE
from tests.unit.lite.conftest import Client

NASTY = "<script>alert('x')</script> & \"quoted\""


class Browser:
    """Keeps cookies, and sends forms with what their page put into them."""

    def __init__(self, app: Any) -> None:
        self._client = Client(app)
        self.cookies: dict[str, str] = {}
        self.set_cookies: list[str] = []

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        answer = self._client.request(method, path, headers=headers | request.pop("headers", {}), **request)
        self.set_cookies = answer.headers.get_list("set-cookie")
        for each in self.set_cookies:
            name, _, value = each.partition(";")[0].partition("=")
            if "max-age=0" in each.lower():
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.request("GET", path, **request)

    def post(self, path: str, fields: Any, **request: Any) -> httpx.Response:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | request.pop("headers", {})
        return self.request("POST", path, content=urlencode(fields, doseq=True), headers=headers, **request)

    def token(self, page: str) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]+)"', self.get(page).text)
        assert found
        return found[1]

    def log_in(self, username: str = "alice", password: str | None = None, **more: str) -> httpx.Response:
        password = "alice-pass-1" if password is None else password  # of all users here
        fields = {"form_token": self.token("/login"), "username": username, "password": password}
        return self.post("/login", fields | more)


@pytest.fixture
def make_servers(config: Config, storage: Storage, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    with storage.write() as transaction:
        ensure_default_queue(transaction)
    with ThreadPoolExecutor(2) as threads:

        def make(**changes: Any) -> dict[str, Any]:
            changed = replace(config, **changes)
            authenticator = Authenticator(changed, storage)
            api = ApiServer(changed, storage, authenticator, threads)
            files = FileServer(tmp_path, authenticator, threads)
            web = WebServer(changed, api, files, authenticator, threads)
            return {"api": api.app, "files": files.app, "web": web.app}

        yield make


@pytest.fixture
def make_web(make_servers: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    return lambda **changes: make_servers(**changes)["web"]


@pytest.fixture
def web(make_web: Callable[..., Any]) -> Browser:
    """Not logged in."""
    return Browser(make_web())


@pytest.fixture
def alice(web: Browser) -> Browser:
    assert web.log_in().status_code == 303
    return web


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return unescape(re.sub(r"<[^>]*>", " ", answer.text))


@pytest.fixture
def project(call: Callable[..., Any]) -> str:
    identifier: str = call("projects.create", name=f"RAN <i>{NASTY.replace('/', '')}", description=NASTY)["id"]
    return identifier


@pytest.fixture
def task(call: Callable[..., Any], client: Client, project: str) -> str:
    """A task with something of everything."""
    identifier: str = call(
        "tasks.create",
        name=f"train {NASTY}",
        type="training",
        project=project,
        comment=NASTY,
        tags=[NASTY],
        hyperparams={
            "Args": {
                "lr": {"section": "Args", "name": "lr", "value": "0.1", "type": "float"},
                NASTY: {"section": "Args", "name": NASTY, "value": f"\n{NASTY}\nsecond line"},
            }
        },
    )["id"]
    model = call(
        "models.create", name=f"model {NASTY}", uri="http://files/m/model.h5", task=identifier, framework="Keras"
    )
    call("tasks.add_or_update_model", task=identifier, name="net", model=model["id"], type="output")
    artifacts = [
        {
            "key": NASTY,
            "type": "csv",
            "mode": "output",
            "uri": "http://files/a/data.csv",
            "content_size": 1500,
            "hash": "f" * 64,
        },
        {"key": "far", "type": "csv", "mode": "output", "uri": "s3://bucket/far"},
        {"key": "bad", "type": "csv", "mode": "output", "uri": "javascript:alert(1)"},
    ]
    call("tasks.add_or_update_artifacts", task=identifier, artifacts=artifacts)
    plot = {"data": [{"type": "heatmap", "z": [[1, 2]]}], "layout": {"title": NASTY}}
    events: list[dict[str, Any]] = [
        {"type": "training_stats_scalar", "iter": 1, "metric": "loss", "variant": NASTY, "value": 0.123456789},
        {"type": "training_stats_scalar", "iter": -(2**31), "metric": "Summary", "variant": "accuracy", "value": 0.875},
        {"type": "plot", "iter": 2, "metric": "confusion", "variant": NASTY, "plot_str": json.dumps(plot)},
        {
            "type": "training_debug_image", "iter": 3, "metric": NASTY, "variant": "v", "url": "http://files/i/img.png",
            "key": "k",
        },
        *({"type": "log", "level": "error", "msg": f"line {n} {NASTY}", "timestamp": 1000 + n} for n in range(600)),
    ]  # fmt: skip
    lines = "\n".join(json.dumps({"task": identifier, "timestamp": 5} | event) for event in events)
    answer = client.post("/events.add_batch", content=lines, headers={"Content-Type": "application/json-lines"})
    assert answer.json()["data"]["errors"] == 0
    return identifier


# who gets in


def test_the_first_page_says_what_this_is_and_asks_for_a_login(web: Browser) -> None:
    page = web.get("/")
    assert page.status_code == 200
    assert "http://api" in page.text
    assert "does not replace the official ClearML server" in page.text
    assert 'name="password"' in page.text


def test_a_login_leads_to_the_page_that_was_asked_for(web: Browser, task: str) -> None:
    asked = web.get(f"/tasks/{task}/console?page=1")
    assert asked.status_code == 303
    assert asked.headers["location"] == f"/login?next=/tasks/{task}/console%3Fpage%3D1"
    page = web.get(asked.headers["location"])
    assert f'name="next" value="/tasks/{task}/console?page=1"' in page.text
    answer = web.log_in(next=f"/tasks/{task}/console?page=1")
    assert answer.headers["location"] == f"/tasks/{task}/console?page=1"
    assert web.get("/").headers["location"] == "/projects"


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_a_login_leads_nowhere_else(web: Browser, elsewhere: str) -> None:
    assert "evil" not in web.get(f"/login?next={elsewhere}").text
    assert web.log_in(next=elsewhere).headers["location"] == "/"


@pytest.mark.parametrize("path", [*pages.SHOWN, "/files/{task}"])
def test_no_page_without_a_login(web: Browser, path: str) -> None:
    answer = web.get(re.sub(r"\{\w+\}", "x", path))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=")


@pytest.mark.parametrize("path", [*pages.DONE, "/logout"])
def test_nothing_is_done_without_a_login(web: Browser, path: str) -> None:
    answer = web.post(re.sub(r"\{\w+\}", "x", path), {"form_token": "0" * 64})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


@pytest.mark.parametrize("path", [*pages.DONE, "/logout"])
@pytest.mark.parametrize("token", [None, "", "0" * 64, "ü"])
def test_a_form_from_elsewhere_is_refused(alice: Browser, path: str, token: str | None) -> None:
    answer = alice.post(re.sub(r"\{\w+\}", "x", path), {} if token is None else {"form_token": token})
    assert answer.status_code == 403
    assert alice.get("/projects").status_code == 200


def test_a_form_of_another_session_is_refused(make_web: Callable[..., Any]) -> None:
    app = make_web()
    alice, bob = Browser(app), Browser(app)
    alice.log_in()
    bob.log_in("bob")
    answer = alice.post("/credentials/create", {"form_token": bob.token("/credentials"), "label": "x"})
    assert answer.status_code == 403


def test_a_login_needs_the_form_of_the_same_browser(make_web: Callable[..., Any]) -> None:
    app = make_web()
    victim, attacker = Browser(app), Browser(app)
    victim.get("/login")
    fields = {"form_token": attacker.token("/login"), "username": "bob", "password": "bob-pass-1"}
    answer = victim.post("/login", fields)
    assert answer.status_code == 403
    assert SESSION_COOKIE not in victim.cookies


@pytest.mark.parametrize(("username", "password"), [("alice", "wrong"), ("nobody", "x"), ("", ""), ("alice", "")])
def test_wrong_passwords_are_told_alike(web: Browser, username: str, password: str) -> None:
    answer = web.log_in(username, password)
    assert answer.status_code == 401
    assert "Wrong username or password." in answer.text
    assert SESSION_COOKIE not in web.cookies


def test_guesses_are_slowed_down_as_those_of_the_api(make_web: Callable[..., Any]) -> None:
    web = Browser(make_web())
    answers = [web.log_in("alice", "guess") for _ in range(GUESSES + 1)]
    assert [answer.status_code for answer in answers] == [401] * GUESSES + [429]
    assert "Too many wrong passwords for this user; wait" in answers[-1].text
    assert web.log_in("alice").status_code == 429
    assert web.log_in("bob").status_code == 303


def test_an_access_key_logs_in_too_and_its_end_is_the_sessions(web: Browser, call: Callable[..., Any]) -> None:
    keys = call("auth.create_credentials")["credentials"]
    assert web.log_in(keys["access_key"], keys["secret_key"]).status_code == 303
    assert "(this login)" in text(web.get("/credentials"))
    call("auth.revoke_credentials", access_key=keys["access_key"])
    assert web.get("/projects").status_code == 303


def test_the_servers_own_identities_are_no_visitors(web: Browser) -> None:
    answer = web.log_in("apiserver", "s" * 32)
    assert answer.status_code == 403
    assert SESSION_COOKIE not in web.cookies


def test_a_logout_ends_the_session(alice: Browser) -> None:
    session = alice.cookies[SESSION_COOKIE]
    assert alice.post("/logout", {"form_token": alice.token("/projects")}).headers["location"] == "/login"
    assert SESSION_COOKIE not in alice.cookies
    alice.cookies[SESSION_COOKIE] = session
    assert alice.get("/projects").status_code == 303


def test_a_session_of_the_pages_opens_neither_api_nor_files(make_servers: Callable[..., dict[str, Any]]) -> None:
    servers = make_servers()
    alice = Browser(servers["web"])
    alice.log_in()
    assert SESSION_COOKIE in alice.cookies
    assert COOKIE not in alice.cookies
    # what a page on another port of this host makes the browser send
    sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in alice.cookies.items())}
    assert Client(servers["api"]).get("/users.get_current_user", headers=sent).status_code == 401
    assert Client(servers["api"]).post("/auth.create_credentials", headers=sent, json={}).status_code == 401
    assert Client(servers["files"]).get("/a/file", headers=sent).status_code == 401
    assert Client(servers["files"]).request("DELETE", "/a/file", headers=sent).status_code == 401


def test_a_login_at_the_api_is_none_at_the_pages(make_servers: Callable[..., dict[str, Any]]) -> None:
    servers = make_servers()
    token = Client(servers["api"]).get("/auth.login", auth=("alice", "alice-pass-1")).cookies[COOKIE]
    web = Browser(servers["web"])
    web.cookies[COOKIE] = token
    assert web.get("/projects").headers["location"] == "/login?next=/projects"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookies_are_for_this_site_only(make_web: Callable[..., Any], config: Config, scheme: str) -> None:
    web = Browser(make_web(urls=replace(config.urls, web=f"{scheme}://web")))
    web.get("/login")
    visitors = web.set_cookies
    web.log_in()
    for cookie in (*visitors, *(each for each in web.set_cookies if SESSION_COOKIE in each)):
        attributes = [attribute.strip() for attribute in cookie.lower().split(";")]
        assert "httponly" in attributes
        assert "samesite=strict" in attributes
        assert ("secure" in attributes) == (scheme == "https")


def test_a_link_from_elsewhere_finds_the_session(alice: Browser) -> None:
    session = alice.cookies.pop(SESSION_COOKIE)  # strict: it does not come along
    page = alice.get("/projects?q=a", headers={"Sec-Fetch-Site": "cross-site"})
    assert page.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in page.text
    alice.cookies[SESSION_COOKIE] = session
    assert alice.get("/projects?q=a", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_forms_have_limits(alice: Browser) -> None:
    form = {"form_token": alice.token("/credentials")}
    assert alice.post("/credentials/create", form | {"label": "x" * (5 << 20)}).status_code == 413
    assert alice.request("POST", "/credentials/create", json=form).status_code == 415


@pytest.mark.parametrize("body", [b"&" * MOST_FIELDS, b"a=b&" * MOST_FIELDS, b"&" * LARGEST_FORM])
def test_a_form_of_many_fields_is_refused_before_they_are_read(web: Browser, body: bytes) -> None:
    begun = time.monotonic()
    answer = web.request("POST", "/login", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 413
    assert time.monotonic() - begun < 2


def test_who_sends_a_form_where_there_is_no_room_is_told_when_to_come_again(
    web: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies.Room, "take", lambda _, size: size < 0)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = web.request("POST", "/login", content=b"a" * (bodies.SMALL_BODY + 1), headers=form)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_a_field_may_be_long_empty_or_of_any_alphabet(alice: Browser, call: Callable[..., Any]) -> None:
    token = alice.token("/credentials")
    for label in ("öffentlich ключ 鍵 &=+%", ""):
        alice.post("/credentials/create", {"unknown": "x" * (2 << 20), "label": label, "form_token": token})
    labels = [key.get("label") or "" for key in call("auth.get_credentials")["credentials"]]
    assert sorted(labels) == ["", "öffentlich ключ 鍵 &=+%"]


# what every answer carries


def test_every_page_carries_its_policy_and_no_script(alice: Browser, task: str, project: str) -> None:
    for path in (*pages.SHOWN, "/", "/login", "/nowhere", "/tasks/nowhere"):
        answer = alice.get(path.format(project=project, task=task, model="nowhere"))
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert ("style-src-attr" in policy) == path.endswith(("/scalars", "/plots"))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        if answer.headers.get("content-type", "").startswith("text/html"):
            assert not re.search(
                r"<script(?![^>]* src=\"/static/)|<style|\son\w+=|\sstyle=|=\"javascript:", answer.text
            )
            assert "<i>" not in answer.text


def test_no_answer_goes_to_other_origins(alice: Browser) -> None:
    answer = alice.get("/projects", headers={"Origin": "http://evil"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_assets_are_kept_by_browsers_and_change_their_name(web: Browser) -> None:
    (path,) = re.findall(r'href="(/static/style.css\?[0-9a-f]{16})"', web.get("/").text)
    answer = web.get(path)
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert "prefers-color-scheme: dark" in answer.text
    plain = web.get(path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == answer.text
    web.get("/static/charts.js")
    kept = app._asset.cache_info().currsize
    for name in ("none.css", "..%2Fapp.py", "..%2f..%2fserver.py"):
        assert web.get(f"/static/{name}").status_code == 404
    assert app._asset.cache_info().currsize == kept


# what is on the pages


def test_projects(alice: Browser, project: str, call: Callable[..., Any]) -> None:
    call("projects.create", name="other", tags=["a tag"])
    call("projects.create", name="out of sight", system_tags=["hidden"])
    shown = text(alice.get("/projects"))
    assert NASTY.replace("/", "") in shown
    assert "a tag" in shown
    assert "out of sight" not in shown
    assert "out of sight" in text(alice.get("/projects?hidden=1"))
    found = text(alice.get("/projects?q=OTH"))
    assert "other" in found
    assert "RAN" not in found
    assert "No project with “[” in its name" in text(alice.get("/projects?q=["))


def test_tasks_of_a_project(alice: Browser, project: str, task: str, call: Callable[..., Any]) -> None:
    call("tasks.create", name="another one", type="testing", project=project)
    call("tasks.enqueue", task=task)
    elsewhere = call("tasks.create", name="elsewhere", type="testing")["id"]
    shown = text(alice.get(f"/projects/{project}"))
    assert f"train {NASTY}" in shown
    assert "another one" in shown
    assert "Alice A" in shown
    assert "elsewhere" not in shown
    assert "elsewhere" in text(alice.get("/projects/*"))
    assert elsewhere in alice.get("/projects/*").text
    pending = text(alice.get(f"/projects/{project}?status=queued"))
    assert "another one" not in pending
    assert "Pending" in pending
    assert "train" not in text(alice.get(f"/projects/{project}?status=created"))
    assert "train" in text(alice.get(f"/projects/{project}?q={task}"))
    assert "No task here that fits the filter" in text(alice.get(f"/projects/{project}?q=nothing"))
    assert "train" in text(alice.get(f"/projects/{project}?status=nonsense"))


def test_archived_tasks_are_apart(alice: Browser, project: str, call: Callable[..., Any]) -> None:
    call("tasks.create", name="put away", type="testing", project=project, system_tags=["archived"])
    assert "put away" not in text(alice.get(f"/projects/{project}"))
    assert "put away" in text(alice.get(f"/projects/{project}?archived=1"))


def test_lists_come_in_pages(alice: Browser, project: str, call: Callable[..., Any]) -> None:
    for number in range(pages.PAGE_SIZE):
        call("tasks.create", name=f"task {number:03}", type="testing", project=project)
    assert "Next" not in text(alice.get(f"/projects/{project}"))
    call("tasks.create", name="task last", type="testing", project=project)
    first = alice.get(f"/projects/{project}?q=task")
    assert f'href="/projects/{project}?q=task&amp;page=1"' in first.text
    second = alice.get(f"/projects/{project}?q=task&page=1")
    assert "task 000" in text(second)
    assert "task last" not in text(second)
    assert f'href="/projects/{project}?q=task"' in second.text
    for nonsense in ("-1", "x", "9999999999", "99"):
        assert alice.get(f"/projects/{project}?page={nonsense}").status_code == 200


def test_a_task(alice: Browser, task: str) -> None:
    page = alice.get(f"/tasks/{task}")
    shown = text(page)
    for words in (
        task,
        "Draft",
        "training",
        "Alice A",
        "lr",
        "0.1",
        "second line",
        "loss",
        "0.123457",
        "1.5 kB",
        "Keras",
    ):
        assert words in shown
    assert shown.count(NASTY) >= 8
    assert 'href="/files/a/data.csv"' in page.text
    assert 'href="/files/m/model.h5"' in page.text
    assert "s3://bucket/far" in shown
    assert "javascript:" not in page.text.replace("javascript:alert(1)</span>", "")


def test_scalars(alice: Browser, task: str) -> None:
    page = alice.get(f"/tasks/{task}/scalars")
    assert f'data-source="/tasks/{task}/scalars.json"' in page.text
    assert "accuracy 0.875" in " ".join(text(page).split())
    (figure,) = alice.get(f"/tasks/{task}/scalars.json").json()["figures"]
    assert figure["title"] == "loss"
    assert [(line["name"], line["x"], line["y"]) for line in figure["data"]] == [(NASTY, [1], [0.123456789])]
    assert (
        f'data-source="/tasks/{task}/scalars.json?key=iso_time"'
        in alice.get(f"/tasks/{task}/scalars?key=iso_time").text
    )
    (figure,) = alice.get(f"/tasks/{task}/scalars.json?key=iso_time").json()["figures"]
    assert figure["data"][0]["x"] == ["1970-01-01T00:00:00.005000+00:00"]


def test_plots(alice: Browser, task: str) -> None:
    assert f'data-source="/tasks/{task}/plots.json"' in alice.get(f"/tasks/{task}/plots").text
    content = alice.get(f"/tasks/{task}/plots.json").json()
    assert content["more"] is False
    (figure,) = content["figures"]
    assert (figure["title"], figure["iter"]) == (f"confusion / {NASTY}", 2)
    assert figure["data"] == [{"type": "heatmap", "z": [[1, 2]]}]


@pytest.mark.parametrize(("number", "more"), [(100, False), (101, True), (150, True)])
def test_plots_that_do_not_fit_are_not_even_read(
    config: Config, call: Callable[..., Any], client: Client, number: int, more: bool
) -> None:
    task = call("tasks.create", name="many plots", type="training")["id"]
    event = {"type": "plot", "task": task, "iter": 1, "metric": "m", "plot_str": '{"data": []}'}
    lines = [json.dumps(event | {"variant": str(variant)}) for variant in range(number)]
    client.post("/events.add_batch", content="\n".join(lines))
    read: list[int] = []

    def ask(name: str, **parameters: Any) -> Any:
        answer = call(name, **parameters)
        read.append(len(answer["plots"]))
        return answer

    page = pages.Page(ask, Identity("", "", ""), config, "", {"task": task}, {}, [], "")
    content = pages.plots_data(page).content
    assert (len(content["figures"]), content["more"]) == (100, more)
    assert read == [min(number, 101)]
    assert len(call("events.get_task_plots", task=task)["plots"]) == number


@pytest.mark.parametrize("most", [0, -1, "1", 1.5, 10**30])
def test_a_limit_of_plots_is_a_number(call: Callable[..., Any], task: str, most: Any) -> None:
    assert call("events.get_task_plots", task=task, most=most)[:2] == (400, 12)


def test_the_console_from_its_end(alice: Browser, task: str) -> None:
    last = text(alice.get(f"/tasks/{task}/console"))
    assert f"line 599 {NASTY}" in last
    assert f"line 100 {NASTY}" in last
    assert "line 99 " not in last
    assert last.index("line 100 ") < last.index("line 599 ")
    earlier = text(alice.get(f"/tasks/{task}/console?page=1"))
    assert [line for line in (0, 99, 100) if f"line {line} " in earlier] == [0, 99]


def test_debug_images(alice: Browser, task: str) -> None:
    page = alice.get(f"/tasks/{task}/images")
    assert '<img src="/files/i/img.png"' in page.text
    assert "iteration 3" in text(page)


@pytest.mark.parametrize("url", [7, ["http://files/i/x.png"], {"a": 1}, None])
def test_an_image_with_a_url_that_is_none_leaves_the_others(
    alice: Browser, task: str, client: Client, url: Any
) -> None:
    event = {"type": "training_debug_image", "task": task, "iter": 4, "metric": "m", "variant": "v", "url": url}
    client.post("/events.add_batch", content=json.dumps(event))
    page = alice.get(f"/tasks/{task}/images")
    assert '<img src="/files/i/img.png"' in page.text
    assert "iteration 3" in text(page)


def test_files_come_with_the_session(alice: Browser, tmp_path: Path) -> None:
    (tmp_path / "files" / "a").mkdir()
    (tmp_path / "files" / "a" / "page.html").write_text("<script>alert(1)</script>")
    answer = alice.get("/files/a/page.html")
    assert answer.text == "<script>alert(1)</script>"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    for path in ("/files/a/none", "/files/a", "/files/..%2fclearml.sqlite", f"/files/{'x' * 300}"):
        assert alice.get(path).status_code == 404
    assert alice.request("DELETE", "/files/a/page.html").status_code == 405


def test_models(alice: Browser, task: str, project: str, call: Callable[..., Any]) -> None:
    call("models.create", name="in a project", uri="", project=project)
    shown = text(alice.get("/projects/*/models"))
    assert f"model {NASTY}" in shown
    assert "Keras" in shown
    assert "in a project" in text(alice.get(f"/projects/{project}/models"))
    (model,) = call("models.get_all", task=[task])["models"]
    page = alice.get(f"/models/{model['id']}")
    assert f"train {NASTY}" in text(page)
    assert 'href="/files/m/model.h5"' in page.text


def test_queues_and_workers(alice: Browser, task: str, call: Callable[..., Any]) -> None:
    queue = call("queues.create", name="prepared")["id"]
    call("workers.register", worker="host:gpu0", queues=[queue])
    call("tasks.enqueue", task=task, queue=queue)
    shown = " ".join(text(alice.get("/queues")).split())
    assert "prepared host:gpu0" in shown
    assert NASTY in shown
    assert "host:gpu0 idle prepared Alice A" in shown
    assert "default none nothing" in shown


@pytest.mark.parametrize("path", ["/tasks/x", "/tasks/x/scalars.json", "/projects/x", "/models/x", "/nowhere"])
def test_what_is_not_there(alice: Browser, path: str) -> None:
    assert alice.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "goes_to"),
    [
        ("/projects/p/experiments/t/output/log", "/tasks/t/console"),
        ("/projects/p/tasks/t/output/metrics/scalar", "/tasks/t/scalars"),
        ("/projects/p/experiments/t", "/tasks/t"),
        ("/projects/*/models/m/general", "/models/m"),
        ("/datasets/simple/p/experiments/t", "/tasks/t"),
        ("/pipelines/p/experiments/t", "/tasks/t"),
        ("/settings/workspace-configuration", "/credentials"),
        ("/workers-and-queues/workers", "/queues"),
    ],
)
def test_links_that_clients_print_lead_on(web: Browser, path: str, goes_to: str) -> None:
    answer = web.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, goes_to)


# what can be done


def test_a_key_is_made_shown_once_and_revoked(alice: Browser, call: Callable[..., Any]) -> None:
    fields = {"form_token": alice.token("/credentials"), "label": NASTY}
    made = alice.post("/credentials/create", fields)
    found = re.search(r'"secret_key" = "([^"]+)"', unescape(made.text))
    assert found
    (key,) = call("auth.get_credentials")["credentials"]
    assert key["label"] == NASTY
    assert key["access_key"] in made.text
    listed = alice.get("/credentials").text
    assert found[1] not in listed
    assert key["access_key"] in listed
    revoke = {"form_token": alice.token("/credentials"), "access_key": key["access_key"]}
    assert alice.post("/credentials/revoke", revoke).headers["location"] == "/credentials"
    assert call("auth.get_credentials")["credentials"] == []
    assert alice.post("/credentials/revoke", revoke).status_code == 400


def test_a_key_of_somebody_else_is_not_shown_nor_revoked(web: Browser, call: Callable[..., Any]) -> None:
    key = call("auth.create_credentials")["credentials"]["access_key"]
    web.log_in("bob")
    assert key not in web.get("/credentials").text
    web.post("/credentials/revoke", {"form_token": web.token("/credentials"), "access_key": key})
    assert [each["access_key"] for each in call("auth.get_credentials")["credentials"]] == [key]


def clone_fields(browser: Browser, task: str) -> list[tuple[str, str]]:
    """What a browser sends for the form as it is."""
    page = browser.get(f"/tasks/{task}/clone").text
    form = page[page.index('class="fields"') :]
    fields = []
    for tag, attributes, content in re.findall(r"<(input|textarea)([^>]*)>(?:([^<]*)</textarea>)?", form):
        named = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        value = content.removeprefix("\n").replace("\n", "\r\n") if tag == "textarea" else named.get("value", "")
        fields.append((named["name"], unescape(value)))
    return fields


def test_clone_with_another_parameter_and_enqueue(alice: Browser, task: str, call: Callable[..., Any]) -> None:
    queue = call("queues.create", name="prepared")["id"]
    fields = clone_fields(alice, task)
    at = next(i for i, field in enumerate(fields) if field == ("parameter", "lr"))
    assert fields[at + 1] == ("value", "0.1")
    fields[at + 1] = ("value", f"0.5{NASTY}")
    fields.append(("queue", queue))
    answer = alice.post(f"/tasks/{task}/clone", fields)
    assert answer.status_code == 303, answer.text
    new = call("tasks.get_by_id", task=answer.headers["location"].removeprefix("/tasks/"))["task"]
    source = call("tasks.get_by_id", task=task)["task"]
    assert (new["name"], new["status"], new["execution"]["queue"]) == (f"Clone of {source['name']}", "queued", queue)
    assert new["hyperparams"]["Args"]["lr"] == source["hyperparams"]["Args"]["lr"] | {"value": f"0.5{NASTY}"}
    assert new["hyperparams"]["Args"][NASTY] == source["hyperparams"]["Args"][NASTY]
    assert source["hyperparams"]["Args"]["lr"]["value"] == "0.1"


def test_a_clone_can_stay_a_draft(alice: Browser, task: str, call: Callable[..., Any]) -> None:
    answer = alice.post(f"/tasks/{task}/clone", [*clone_fields(alice, task), ("queue", "")])
    new = call("tasks.get_by_id", task=answer.headers["location"].removeprefix("/tasks/"))["task"]
    assert new["status"] == "created"


def test_a_clone_that_cannot_be_enqueued_is_not_made(alice: Browser, task: str, call: Callable[..., Any]) -> None:
    answer = alice.post(f"/tasks/{task}/clone", [*clone_fields(alice, task), ("queue", "gone")])
    assert answer.status_code == 404
    assert len(call("tasks.get_all")["tasks"]) == 1


def test_enqueue_dequeue_and_abort(alice: Browser, task: str, call: Callable[..., Any]) -> None:
    def status() -> Any:
        return call("tasks.get_by_id", task=task)["task"]["status"]

    token = alice.token(f"/tasks/{task}")
    (queue,) = call("queues.get_all")["queues"]
    assert "Enqueue" in text(alice.get(f"/tasks/{task}"))
    assert alice.post(f"/tasks/{task}/enqueue", {"form_token": token, "queue": queue["id"]}).status_code == 303
    assert status() == "queued"
    assert "Dequeue" in text(alice.get(f"/tasks/{task}"))
    assert alice.post(f"/tasks/{task}/dequeue", {"form_token": token}).status_code == 303
    assert status() == "created"
    call("tasks.started", task=task)
    assert "Abort" in text(alice.get(f"/tasks/{task}"))
    assert alice.post(f"/tasks/{task}/stop", {"form_token": token}).status_code == 303
    assert call("tasks.get_by_id", task=task)["task"]["status_message"] == "stopping"
