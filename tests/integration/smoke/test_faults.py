"""The smoke test finds faults: a good server is broken in one way at a time, and the right check names it.

`TESTBED_SEED` draws six of them. Those that need hosts are in tests/integration/deployed/test_smoke_faults.py.
"""

from __future__ import annotations

import base64
import datetime
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision import certificates
from provision.credentials.public import PUBLIC_KEYS, PUBLIC_TOKEN_SECRET
from tests.integration.conftest import free_ports
from tests.integration.smoke.conftest import Ground

DRAWN = 6
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Fault:
    """A way to break a good server: how, and the check that is to find it with these words.

    `broken` yields the clearml.conf to check with. `also`: other checks that may fail of it.
    """

    name: str
    check: str
    words: tuple[str, ...]
    broken: Callable[[Ground], Iterator[Path]]
    also: tuple[str, ...] = ()
    queue: str | None = None
    level: str = "quick"
    only: str = ""


FAULTS: list[Fault] = []


def fault(name: str, check: str, *words: str, **more: object) -> Callable[[Callable[..., Iterator[Path]]], None]:
    """Put what a function breaks into the table."""
    return lambda broken: FAULTS.append(Fault(name, check, words, broken, **more))


@fault("wrong files URL: nobody answers", "files answer", "refused", also=("clock agrees", "file round trip"))
def _(ground):
    """files_server in the clearml.conf is a port that nobody listens on"""
    yield ground.conf(files=f"http://127.0.0.1:{free_ports(1)[0]}")


@fault("wrong files URL: the API's", "files answer", "HTTP 4", also=("file round trip",))
def _(ground):
    """files_server in the clearml.conf is the API's URL"""
    yield ground.conf(files=ground.server.urls["api"])


@fault("file server read-only", "file round trip", "refuses a file", "HTTP 5")
def _(ground):
    """its folders are mounted read-only (bind mounts)"""
    for name in ("arriving", "files"):
        folder = Path(ground.server.config["data_dir"]) / name
        folder.mkdir(exist_ok=True)
        ground.bind_read_only(folder)
    yield ground.conf()


@fault("API slow by 5 s", "api answers", "took 5.", "quickest of 3", only="api answers")
def _(ground):
    """a proxy before the API that waits before each answer"""
    yield ground.conf(api=ground.behind("api", delay_s=5))


@fault("API down", "api answers", "refused", also=("",))
def _(ground):
    """api_server is a port that nobody listens on"""
    yield ground.conf(api=f"http://127.0.0.1:{free_ports(1)[0]}")


@fault("web down", "web answers", "refused", also=("clock agrees",))
def _(ground):
    """web_server is a port that nobody listens on"""
    yield ground.conf(web=f"http://127.0.0.1:{free_ports(1)[0]}")


@fault("wrong web URL: the file server's", "web answers", "shows no page")
def _(ground):
    """web_server in the clearml.conf is the file server's URL"""
    yield ground.conf(web=ground.server.urls["files"])


@fault("proxy refuses large uploads", "large file round trip", "32 MiB", "HTTP 413", level="full", only="round trip")
def _(ground):
    """a proxy before the file server that answers 413 above 16 MiB"""
    yield ground.conf(files=ground.behind("files", largest=16 << 20))


@fault("proxy cuts large uploads", "large file round trip", "http://127.0.0.1", level="full", only="round trip")
def _(ground):
    """a proxy before the file server that closes the connection above 16 MiB"""
    yield ground.conf(files=ground.behind("files", largest=16 << 20, cuts=True))


@fault("proxy alters what is fetched", "file round trip", "other bytes came back")
def _(ground):
    """a proxy before the file server that flips a bit of each file"""
    yield ground.conf(files=ground.behind("files", alters=True))


@fault("proxy logs everybody in", "strangers stay out", "answers without a login")
def _(ground):
    """a proxy before the API that adds a user's password to calls without a login"""
    basic = base64.b64encode(b"alice:alice-pass-1").decode()
    yield ground.conf(api=ground.behind("api", authorization=f"Basic {basic}"))


@fault("proxy gives files to everybody", "file round trip", "takes files without a login")
def _(ground):
    """a proxy before the file server that adds a token to calls without one"""
    yield ground.conf(files=ground.behind("files", authorization=f"Bearer {ground.server.token()}"))


@fault("clock of the server ahead by 2 h", "clock agrees", "ahead", "s ahead")
def _(ground):
    """a proxy before the API with another time in its answers"""
    yield ground.conf(api=ground.behind("api", ahead_s=7200))


@fault("key revoked", "key logs in", "does not take the key", also=("",))
def _(ground):
    """the key in the clearml.conf is revoked through the API"""
    key = ground.good.read_text().split('access_key: "')[1].partition('"')[0]
    ground.server.call("auth.revoke_credentials", {"access_key": key})
    yield ground.conf()


@fault("queue missing", "queue is served: train", "there is no queue train", "other", queue="train")
def _(ground):
    """a worker on another queue only, and no such queue"""
    ground.worker("host:other", "other")
    yield ground.conf()


@fault("agent on the wrong queue", "queue is served: train", "none listens on it", queue="train")
def _(ground):
    """a worker on another queue, and nobody on the one that is asked for"""
    ground.worker("host:other", "other")
    ground.server.call("queues.create", {"name": "train"})
    yield ground.conf()


@fault("agent stopped", "queue is served: train", "host:train, silent for", queue="train", also=("no worker is stale",))
def _(ground):
    """the only worker of the queue has last reported 400 s ago"""
    ground.worker("host:train", "train")
    ground.silence("host:train", 400)
    yield ground.conf()


@fault("stale worker beside one that works", "no worker is stale", "host:second has been silent for 4", queue="train")
def _(ground):
    """a second worker of the queue has last reported 400 s ago"""
    ground.worker("host:train", "train")
    ground.worker("host:second", "train")
    ground.silence("host:second", 400)
    yield ground.conf()


@contextmanager
def _configured(ground: Ground, **changes: object) -> Iterator[None]:
    """The server runs with another configuration."""
    before = dict(ground.server.config)
    ground.server.stop()
    ground.server.config.update(changes)
    ground.server.start()
    try:
        yield
    finally:
        ground.server.stop()
        ground.server.config = before
        ground.server.start()


@fault("public default key", "public default key is dead: apiserver", "anyone can log in with it")
def _(ground):
    """the server is configured with the published key of the apiserver"""
    known = PUBLIC_KEYS["apiserver"]
    keys = {"user_key": known.access_key, "user_secret": known.secret_key}
    with _configured(ground, credentials={**ground.server.config["credentials"], "apiserver": keys}):
        yield ground.conf()


@fault("public token secret", "token forged with the public secret is refused", "that everybody knows")
def _(ground):
    """the server is configured with the published token secret"""
    with _configured(ground, token_secret=PUBLIC_TOKEN_SECRET):
        yield ground.conf()


def _with_tls(ground: Ground, names: list[str], made: datetime.timedelta, life: datetime.timedelta, trusted=True):
    """All three services behind TLS: certificates for `names`, from so long ago, for so long."""
    now = datetime.datetime.now(datetime.UTC)
    authority = certificates.make_authority("faults", now)
    pair = certificates.issue(authority, names, now - made, life)
    certificate, ca = ground.folder / "pair.pem", ground.folder / "ca.pem"
    certificate.write_text(pair.key + pair.certificate)
    ca.write_text((authority if trusted else certificates.make_authority("other", now)).certificate)
    urls = {of: ground.with_tls(of, certificate) for of in ("api", "web", "files")}
    return ground.conf(extra=f'api.verify_certificate: "{ca}"\n', **urls)


CERTIFICATE = "certificate is good for two weeks"


@fault("expired certificate", f"{CERTIFICATE}: api", "has expired", also=("",))
def _(ground):
    """TLS with a certificate that ended five days ago"""
    yield _with_tls(ground, ["127.0.0.1"], 10 * DAY, 5 * DAY)


@fault("certificate that ends soon", f"{CERTIFICATE}: files", "ends on", also=(CERTIFICATE,))
def _(ground):
    """TLS with a certificate that ends in five days"""
    yield _with_tls(ground, ["127.0.0.1"], 0 * DAY, 5 * DAY)


@fault("certificate for another name", f"{CERTIFICATE}: web", "is not for 127.0.0.1", also=("",))
def _(ground):
    """TLS with a certificate for clearml.example.org"""
    yield _with_tls(ground, ["clearml.example.org"], 0 * DAY, 90 * DAY)


@fault("wrong CA", f"{CERTIFICATE}: api", "from a CA that is not trusted", also=("",))
def _(ground):
    """TLS with a certificate from a CA that the clearml.conf does not name"""
    yield _with_tls(ground, ["127.0.0.1"], 0 * DAY, 90 * DAY, trusted=False)


def drawn() -> list[Fault]:
    """Six by the seed; all of them without one."""
    seed = os.environ.get("TESTBED_SEED")
    return random.Random(int(seed)).sample(FAULTS, DRAWN) if seed else FAULTS


@pytest.mark.long
@pytest.mark.parametrize("each", [pytest.param(each, id=each.name) for each in drawn()])
def test_a_fault_is_found_by_the_right_check(ground, checked, each):
    good = checked(ground.good, only="key logs in")
    assert good.healthy, "the server was well before"
    with contextmanager(each.broken)(ground) as conf:
        found = checked(conf, each.level, each.queue, each.only)
    failed = {check.name: check for check in found.checks if check.result == "failed"}
    assert each.check in failed, f"failed: {sorted(failed)}"
    right = failed[each.check]
    for words in each.words:
        assert words in right.seen
    assert right.expected
    assert right.remedy
    assert right.message == f"Expected: {right.expected}\nSeen: {right.seen}\nTry: {right.remedy}"
    others = [name for name in failed if name != each.check and not name.startswith(tuple(each.also or ("-",)))]
    assert others == [], "nothing else is said to be broken"
    assert all(ground.secret not in check.model_dump_json() for check in found.checks)


def test_there_are_at_least_twenty():
    assert len(FAULTS) >= 20
