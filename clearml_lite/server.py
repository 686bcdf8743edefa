"""The process: three servers on three ports, one storage, a clean stop on SIGTERM and SIGINT."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import uvicorn
import uvloop
from starlette.types import ASGIApp

from clearml_lite.api import ApiServer
from clearml_lite.auth import Authenticator
from clearml_lite.config import Config
from clearml_lite.connections import Connection
from clearml_lite.errors import ConfigError
from clearml_lite.files import FileServer
from clearml_lite.folder import DATABASE, alone_in, forget_restore, require_whole
from clearml_lite.kept import keep_older
from clearml_lite.services.queues import ensure_default_queue
from clearml_lite.storage import Storage
from clearml_lite.web import WebServer

LOG = logging.getLogger(__name__)

THREADS = 8
STOP_WITHIN_SECONDS = 10


def serve(config: Config) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigError: a port is taken, an address is not this machine's, or the data folder cannot be used.
        DataError: a newer version has written the data, an older one has and there is no room for a copy, or a restore
            was cut off.
    """
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(_listen(config.bind, port))
            for port in (config.api_port, config.files_port, config.web_port)
        ]
        try:
            config.data_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(config.data_dir))
            require_whole(config.data_dir)
            forget_restore(config.data_dir)
            keep_older(config.data_dir / DATABASE)
            storage = stack.enter_context(contextlib.closing(Storage(config.data_dir / DATABASE)))
            threads = stack.enter_context(ThreadPoolExecutor(THREADS, thread_name_prefix="call"))
            files = FileServer(config.data_dir, authenticator := Authenticator(config, storage), threads)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"data_dir {config.data_dir}: cannot be used: {error}") from error
        with storage.write() as transaction:
            ensure_default_queue(transaction)
        api = ApiServer(config, storage, authenticator, threads)
        web = WebServer(config, api, files, authenticator, threads)
        apps: list[ASGIApp] = [api.app, files.app, web.app]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_all(apps, sockets, config))


def _listen(address: str, port: int) -> socket.socket:
    try:
        family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {address} is in use by another program: stop it, or set another port"
            ) from error
        raise ConfigError(f"cannot listen on {address} port {port}: {error.strerror}") from error
    return listener


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve_all(apps: list[ASGIApp], sockets: list[socket.socket], config: Config) -> None:
    # who asks is what a proxy of ours says; where there is none, anybody on this machine could say so
    behind_proxy = config.urls.api.startswith("https://")
    servers = [
        _Server(
            uvicorn.Config(
                app, interface="asgi3", http=Connection, ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, timeout_graceful_shutdown=STOP_WITHIN_SECONDS, proxy_headers=behind_proxy,
            )
        )
        for app in apps
    ]  # fmt: skip

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    LOG.info("listening: API %s, files %s, web %s", config.api_port, config.files_port, config.web_port)
    await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in zip(servers, sockets, strict=True)))
    LOG.info("stopped")
