"""The users of a configuration file, as `clearml-lite user` changes them."""

import base64
from pathlib import Path

import bcrypt
import pytest

from clearml_lite import accounts
from clearml_lite.config import load
from clearml_lite.errors import ConfigError

HASH = base64.b64encode(bcrypt.hashpw(b"alice-pass-1", bcrypt.gensalt(4))).decode()
KEYS = "\n".join(
    f"  {name}: {{user_key: {name}, user_secret: {'s' * 32}}}  # of its own"
    for name in ("apiserver", "fileserver", "webserver", "services_agent")
)
BEFORE = """# my server
bind: 127.0.0.1
api_port: 8008
files_port: 8081
web_port: 8080
data_dir: /data  # on the large disk
urls: {api: http://a, web: http://w, files: http://f}
"""
AFTER = f"""# secrets
token_secret: {"t" * 32}
credentials:
{KEYS}
"""
BLOCK = f"users:\n  - {{username: alice, name: Alice Å, password_hash: {HASH}}}\n"
ORDERS = {
    "block in the middle": BEFORE + BLOCK + AFTER,
    "block at the end": BEFORE + AFTER + BLOCK,
    "no end of line": BEFORE + AFTER + BLOCK.rstrip(),
    "in brackets": BEFORE + f"users: [{{username: alice, name: Alice Å, password_hash: {HASH}}}]\n" + AFTER,
    "nobody": BEFORE + "users: []\n" + AFTER,
}


@pytest.fixture(params=ORDERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    written = tmp_path / "lite.yaml"
    written.write_text(ORDERS[request.param], encoding="utf-8")
    written.chmod(0o640)
    return written


def names(path: Path) -> list[tuple[str, str]]:
    return [(user.username, user.name) for user in load(path).users]


def works(path: Path, username: str, password: str) -> bool:
    (hashed,) = (user.password_hash for user in load(path).users if user.username == username)
    return bcrypt.checkpw(password.encode(), base64.b64decode(hashed))


def test_users_come_and_go_and_all_else_stays(path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    there = names(path)
    accounts.add(path, "carol", "Carol: \"C\" 'ä' # no comment", "carol-pass-1")
    assert names(path) == [*there, ("carol", "Carol: \"C\" 'ä' # no comment")]
    assert works(path, "carol", "carol-pass-1")
    accounts.set_password(path, "carol", "carol-pass-2")
    assert works(path, "carol", "carol-pass-2")
    accounts.add(path, "dave", "", "dave-pass-1")
    accounts.remove(path, "carol")
    assert names(path) == [*there, ("dave", "dave")]
    after = path.read_text(encoding="utf-8")
    for part in (BEFORE, AFTER):
        assert part in before
        assert part in after
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_a_link_stays_one(path: Path) -> None:
    link = path.with_name("link.yaml")
    link.symlink_to(path.name)
    accounts.add(link, "carol", "Carol", "carol-pass-1")
    assert link.is_symlink()
    assert ("carol", "Carol") in names(path)


@pytest.mark.parametrize("password", ["", "short", "x" * 73, "ä" * 37, "with\0null"])
def test_a_password_that_bcrypt_does_not_keep_is_refused(path: Path, password: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="a password has from 8 characters to 72 bytes"):
        accounts.add(path, "carol", "Carol", password)
    assert path.read_bytes() == before


@pytest.mark.parametrize("username", ["", " ", "a:b", " a"])
def test_a_name_that_cannot_log_in_is_refused(path: Path, username: str) -> None:
    with pytest.raises(ConfigError, match="is no username"):
        accounts.add(path, username, "Name", "long-enough")


def test_who_is_there_or_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lite.yaml"
    path.write_text(ORDERS["block in the middle"], encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="there is a user 'alice' already: clearml-lite user password"):
        accounts.add(path, "alice", "Alice", "alice-pass-2")
    for change in (lambda: accounts.remove(path, "bob"), lambda: accounts.set_password(path, "bob", "bob-pass-1")):
        with pytest.raises(ConfigError, match="there is no user 'bob'; there are: alice"):
            change()
    assert path.read_bytes() == before
