"""The file server, beyond what was recorded."""

import socket
import urllib.parse
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="module")
def files(lite: Any) -> httpx.Client:
    headers = {"Authorization": f"Bearer {lite.token()}"}
    return httpx.Client(base_url=lite.urls["files"], headers=headers, timeout=30)


def put(files: httpx.Client, path: str, content: bytes) -> None:
    assert files.post("/", files={path: content}).json() == [path.lstrip("/")]


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=4-2", 416, None, "bytes */10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges(files: httpx.Client, header: str, status: int, body: bytes | None, content_range: str | None) -> None:
    put(files, "/ranges/ten", b"0123456789")
    answer = files.get("/ranges/ten", headers={"Range": header})
    assert answer.status_code == status
    assert body is None or answer.content == body
    assert answer.headers.get("content-range") == content_range


def test_a_range_of_what_has_changed_is_the_whole_file(files: httpx.Client) -> None:
    put(files, "/ranges/changed", b"old content")
    etag = files.get("/ranges/changed").headers["etag"]
    put(files, "/ranges/changed", b"newer content")
    answer = files.get("/ranges/changed", headers={"Range": "bytes=0-2", "If-Range": etag})
    assert (answer.status_code, answer.content) == (200, b"newer content")


def test_an_unchanged_file_is_not_sent_again(files: httpx.Client) -> None:
    put(files, "/etag", b"content")
    etag = files.get("/etag").headers["etag"]
    assert files.get("/etag", headers={"If-None-Match": etag}).status_code == 304
    assert files.get("/etag", headers={"If-None-Match": '"another"'}).status_code == 200


def test_a_large_file_comes_back_as_it_was(files: httpx.Client) -> None:
    content = bytes(range(256)) * 4096 * 33
    put(files, "/large/model.bin", content)
    assert files.get("/large/model.bin").content == content
    head = files.head("/large/model.bin")
    assert (head.headers["content-length"], head.content) == (str(len(content)), b"")


@pytest.mark.parametrize("name", ["page.html", "picture.svg", "page.xhtml", "feed.xml", "script.js", "PAGE.HTML"])
def test_nothing_runs_in_a_browser(files: httpx.Client, name: str) -> None:
    put(files, f"/active/{name}", b"<script>alert(1)</script>")
    headers = files.get(f"/active/{name}").headers
    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox")


@pytest.mark.parametrize(
    "path", ["../outside", "a/../../outside", "/../outside", "a/./b", "a//b", "a/", "", "/", "a/\x00", ".."]
)
def test_no_upload_leaves_the_folder(lite: Any, files: httpx.Client, path: str) -> None:
    before = sorted(lite.folder.rglob("*"))
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\nevil\r\n--edge--\r\n' % path.encode()
    )
    answer = files.post("/", content=body, headers={"Content-Type": "multipart/form-data; boundary=edge"})
    assert answer.status_code == 404
    assert sorted(lite.folder.rglob("*")) == before


def test_no_link_leads_out_of_the_folder(lite: Any, files: httpx.Client) -> None:
    (lite.folder / "secret").write_text("secret")
    (lite.folder / "data" / "files" / "link").symlink_to(lite.folder)
    assert files.get("/link/secret").status_code == 404
    assert files.delete("/link/secret").status_code == 404
    assert files.post("/", files={"/link/secret": b"evil"}).status_code == 404
    assert (lite.folder / "secret").read_text() == "secret"


def test_a_path_through_a_file_is_refused(files: httpx.Client) -> None:
    put(files, "/plain", b"content")
    assert files.post("/", files={"/plain/below": b"content"}).status_code == 400
    assert files.post("/", files={"/" + "x" * 300: b"content"}).status_code == 400
    assert files.get("/" + "x" * 300).status_code == 400


@pytest.mark.parametrize(
    "body", [b"", b"no multipart", b'--edge\r\nContent-Disposition: form-data; name="/cut"; filename="f"\r\n\r\nhal']
)
def test_a_broken_upload_leaves_nothing(lite: Any, files: httpx.Client, body: bytes) -> None:
    answer = files.post("/", content=body, headers={"Content-Type": "multipart/form-data; boundary=edge"})
    assert answer.status_code == 400
    assert files.get("/cut").status_code == 404
    assert list((lite.folder / "data" / "arriving").iterdir()) == []


def test_names_of_any_alphabet(files: httpx.Client) -> None:
    put(files, "/Größe/模型 1.txt", b"content")
    answer = files.get("/Größe/模型 1.txt")
    assert answer.content == b"content"
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''%E6%A8%A1%E5%9E%8B%201.txt"


def test_a_revoked_key_opens_no_file(lite: Any, files: httpx.Client) -> None:
    put(files, "/mine", b"content")
    keys = lite.call("auth.create_credentials")["credentials"]
    login = httpx.get(f"{lite.urls['api']}/auth.login", auth=(keys["access_key"], keys["secret_key"]))
    token = {"Authorization": f"Bearer {login.json()['data']['token']}"}
    assert httpx.get(f"{lite.urls['files']}/mine", headers=token).status_code == 200
    lite.call("auth.revoke_credentials", {"access_key": keys["access_key"]})
    assert httpx.get(f"{lite.urls['files']}/mine", headers=token).status_code == 401


@pytest.mark.parametrize(("server", "path"), [("files", "/"), ("files", "/delete_many"), ("api", "/events.add_batch")])
def test_a_refused_body_is_read_so_that_a_proxy_gets_the_answer(lite: Any, server: str, path: str) -> None:
    body = bytes(12 << 20)  # more than fits between two sockets
    parts = urllib.parse.urlsplit(lite.urls[server])
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: lite\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_list_of_files_to_delete_has_a_limit(files: httpx.Client) -> None:
    names = {"files": ["/nowhere/" + "x" * 1000] * 17_000}
    assert files.post("/delete_many", json=names).status_code == 413
    for malformed in (b"", b"[" * 100_000, b'{"files": [1]}'):
        assert files.post("/delete_many", content=malformed).status_code == 400
