"""The API in this process, on a database of its own."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import bcrypt
import fastjsonschema
import httpx
import pytest

from clearml_lite.api import ApiServer
from clearml_lite.auth import Authenticator
from clearml_lite.config import Config, FixedUser, KeyPair, Urls
from clearml_lite.services.queues import ensure_default_queue
from clearml_lite.storage import Storage

PASSWORD_HASH = base64.b64encode(bcrypt.hashpw(b"alice-pass-1", bcrypt.gensalt(4))).decode()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage(tmp_path / "clearml.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        bind="127.0.0.1",
        api_port=8008,
        files_port=8081,
        web_port=8080,
        data_dir=tmp_path,
        urls=Urls("http://api", "http://web", "http://files"),
        token_secret="t" * 32,
        credentials={
            name: KeyPair(name, "s" * 32) for name in ("apiserver", "fileserver", "webserver", "services_agent")
        },
        users=(FixedUser("alice", "Alice A", PASSWORD_HASH), FixedUser("bob", "Bob", PASSWORD_HASH)),
    )


class Client:
    """Sends requests to an application without a network."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.headers: dict[str, str] = {}

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.request(method, url, headers=self.headers | (headers or {}), **request)

        return asyncio.run(send())

    def get(self, url: str, **request: Any) -> httpx.Response:
        return self.request("GET", url, **request)

    def post(self, url: str, **request: Any) -> httpx.Response:
        return self.request("POST", url, **request)


@pytest.fixture
def started(storage: Storage) -> Callable[[Config], AbstractContextManager[Client]]:
    """A function that starts the API with a configuration, on the storage that earlier ones had."""

    @contextmanager
    def start(config: Config) -> Iterator[Client]:
        with storage.write() as transaction:
            ensure_default_queue(transaction)
        with ThreadPoolExecutor(2) as threads:
            yield Client(ApiServer(config, storage, Authenticator(config, storage), threads).app)

    return start


@pytest.fixture
def client(config: Config, started: Callable[[Config], AbstractContextManager[Client]]) -> Iterator[Client]:
    """Logged in as alice."""
    with started(config) as client:
        token = client.get("/auth.login", auth=("alice", "alice-pass-1")).json()["data"]["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


# Answers that are as recorded, or hold more than one thing, where the SDK's schema says otherwise.
NOT_AS_THE_SCHEMA = {
    "events.debug_images": "names a definition that the schema does not have",
    "events.plots": "names a definition that the schema does not have",
    "tasks.update_batch": "counts the tasks, of which there may be more than one",
}


@cache
def answer_check(endpoint: str) -> Callable[[Any], Any]:
    """Checks an answer by the schema that the SDK has for it."""
    schemas = json.loads(resources.files("clearml_lite").joinpath("schemas.json").read_text())
    if endpoint not in schemas or endpoint in NOT_AS_THE_SCHEMA:
        return lambda _: None
    schema = schemas[endpoint]["response"]
    return fastjsonschema.compile(schema)  # type: ignore[no-any-return]


@pytest.fixture
def call(client: Client) -> Callable[..., Any]:
    """`call(endpoint, **parameters)`: data of a success, (code, subcode, message) of a failure.

    The data fits what the SDK's schema says of it.
    """

    def call(endpoint: str, **parameters: Any) -> Any:
        answer = client.post(f"/{endpoint}", json=parameters)
        content = answer.json()
        meta = content["meta"]
        assert answer.status_code == meta["result_code"]
        if answer.status_code == 200:
            answer_check(endpoint)(content["data"])
            return content["data"]
        return meta["result_code"], meta["result_subcode"], meta["result_msg"]

    return call
