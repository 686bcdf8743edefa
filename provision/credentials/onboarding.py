"""A whole class at once: users out of a CSV, a key and a file with it for each, and a sheet of what was done."""

from __future__ import annotations

import csv
import datetime
import difflib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from provision.credentials import bundle, labels
from provision.credentials.bundle import Lock
from provision.credentials.conf import parse_key
from provision.credentials.keys import AT_ONCE, Issued, Keys, today
from provision.credentials.labels import Label
from provision.errors import InputError
from provision.paths import write_atomic
from provision.reports import Onboarded
from provision.secrets import KeyPair
from provision.spec import Testbed

COLUMNS = ("name", "full_name", "purpose", "expires", "public_key")
SHEET = "summary.csv"


@dataclass(frozen=True)
class Person:
    """A row of the CSV: a user of the testbed, and the key that is wanted; `lock`: of the user's bundle."""

    name: str
    full_name: str
    purpose: str
    expires: datetime.date | None
    lock: Lock | None = None

    @property
    def conf(self) -> str:
        """The name of the clearml.conf."""
        return f"{self.name}-{self.purpose}.conf"


class Outlet(Protocol):
    """Where a person's key goes."""

    @property
    def file(self) -> str:
        """The file that has it."""

    def put(self, key: KeyPair) -> None:
        """Write it."""

    def done(self, issued: Issued) -> None:
        """Do what is left to do when the key counts as given."""


def read(
    path: Path, testbed: Testbed, purpose: str, expires: str, *, bundles: bool = False, keys: Path | None = None
) -> list[Person]:
    """Return the people in the CSV at `path`; `purpose` and `expires` count where a row has none.

    `bundles`: each has a public key: in the row, else in a file NAME.pub (or .age, .asc, .gpg, .txt) of the folder
    `keys`, else the SSH keys of testbed.yaml. Raises `InputError`, which names every line that is wrong.
    """
    people: list[Person] = []
    wrong: list[str] = []
    for line, row in read_rows(path):
        if "public_key" in row and not bundles:
            raise InputError(f"{path}:1: has a column public_key, which is for bundles", "Say --bundle.")
        try:
            person = _person(row, testbed, purpose, expires, people)
            people.append(replace(person, lock=_lock(row, testbed, keys)) if bundles else person)
        except InputError as error:
            wrong.append(f"{path}:{line}: {error.message}")
    if wrong:
        raise InputError("\n".join(wrong), "Mend these lines; nothing was done.")
    if not people:
        raise InputError(
            f"{path}: names nobody", f"Below the line of columns ({', '.join(COLUMNS)}), write one a user."
        )
    return people


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of the CSV at `path`, each with the number of its line. Raises `InputError`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", "Save it as CSV in UTF-8.") from None
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    line = 1
    try:
        _check_columns(path, rows.fieldnames or [])
        line = rows.line_num + 1
        for row in rows:
            if any(row.values()):
                yield rows.line_num, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}:{line}: is no CSV: {error}",
            f"Close every quote; within a quoted cell, write it twice. A cell has {csv.field_size_limit()} characters "
            "at most.",
        ) from None


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if unknown := [column for column in columns if column not in COLUMNS]:
        near = difflib.get_close_matches(unknown[0], COLUMNS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"allowed here: {', '.join(COLUMNS)}"
        raise InputError(f"{path}:1: column {unknown[0]!r} is unknown; {hint}", "Columns are separated by commas.")
    if "name" not in columns:
        raise InputError(f"{path}:1: has no column `name`", f"The first line has the columns: {', '.join(COLUMNS)}.")


def _person(
    row: dict[str, str | None], testbed: Testbed, purpose: str, expires: str, people: Sequence[Person]
) -> Person:
    cells = {column: (row.get(column) or "").strip() for column in COLUMNS}
    if None in row:
        raise InputError("has more cells than there are columns")
    if cells["name"] not in {user.name for user in testbed.users}:
        raise InputError(f"testbed {testbed.name} has no user {cells['name']!r}: add the user to testbed.yaml first")
    person = Person(
        cells["name"],
        cells["full_name"],
        cells["purpose"] or purpose,
        labels.expiry(cells["expires"] or expires, today()),
    )
    labels.check_purpose(person.purpose)
    if not person.full_name.isprintable():  # a line break, say: a quote that is not closed swallows whole rows
        raise InputError(f"the full name of {person.name} has characters that cannot be shown")
    if any(other.conf == person.conf for other in people):
        raise InputError(f"{person.name} is there twice for {person.purpose}")
    return person


def _lock(row: dict[str, str | None], testbed: Testbed, folder: Path | None) -> Lock:
    name, cell = (row.get("name") or "").strip(), (row.get("public_key") or "").strip()
    if cell:
        return bundle.for_key(cell.encode(), f"public_key of {name}")
    files = [path for end in bundle.KEY_FILES if folder and (path := folder / f"{name}{end}").exists()]
    if len(files) > 1:
        raise InputError(f"{name} has {len(files)} public keys: {', '.join(map(str, files))}")
    if files:
        return bundle.for_key_file(files[0])
    keys = [key for user in testbed.users if user.name == name for key in user.ssh_keys]
    if lock := bundle.for_ssh_keys(keys, f"ssh_keys of {name} in testbed.yaml"):
        return lock
    where = f"{folder / name}.pub, " if folder else ""
    raise InputError(f"{name} has no public key: in column public_key, {where}or as ssh_keys in testbed.yaml")


def onboard(
    keys: Keys,
    testbed: str,
    people: Sequence[Person],
    folder: Path,
    outlet: Callable[[Person, Label], Outlet],
    tell: Callable[[int], None],
) -> list[Onboarded]:
    """Issue a key for each of `people` who has none for the purpose, some at once; return what became of each.

    `outlet` tells where the key with a label goes, in `folder`; `tell` is called with how many are done. What an
    earlier run has done is left as it is. Raises `ApiError`, `InputError`; those who are done then stay done.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [pool.submit(_one, keys, testbed, person, folder, outlet) for person in people]
        try:
            for done in _counted(begun, tell):
                done.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [done.result() for done in begun]


def _counted(begun: list[Future[Onboarded]], tell: Callable[[int], None]) -> Iterator[Future[Onboarded]]:
    for count, done in enumerate(as_completed(begun), start=1):
        yield done
        tell(count)


def _one(
    keys: Keys, testbed: str, person: Person, folder: Path, outlet: Callable[[Person, Label], Outlet]
) -> Onboarded:
    label = Label(testbed, person.name, person.purpose, today(), person.expires)
    out = outlet(person, label)
    found = keys.ensure(label, out.put)
    state: Literal["issued", "there", "elsewhere"]
    file: str | None
    if isinstance(found, Issued):
        out.done(found)
        state, access_key, expires, file = "issued", found.key.access_key, person.expires, out.file
    else:
        access_key, expires = found.access_key, found.label.expires if found.label else None
        file = _file_with(access_key, person, folder)
        state = "there" if file else "elsewhere"
    return Onboarded(
        name=person.name,
        full_name=person.full_name,
        purpose=person.purpose,
        access_key=access_key,
        expires=str(expires) if expires else None,
        state=state,
        file=file,
    )


def _file_with(access_key: str, person: Person, folder: Path) -> str | None:
    """Return the file of `folder` that has a key of a person's, as far as it can be told without opening it."""
    if person.lock is not None:
        return next((str(path) for path in bundle.find(folder, person.name, person.purpose, access_key)), None)
    path = folder / person.conf
    held = parse_key(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else None
    return str(path) if held is not None and held.access_key == access_key else None


def write_sheet(path: Path, people: Sequence[Onboarded]) -> None:
    """Write what became of everybody as CSV; it holds no secret."""
    sheet = io.StringIO(newline="")
    rows = csv.DictWriter(sheet, list(Onboarded.model_fields), lineterminator="\n")
    rows.writeheader()
    for person in people:
        rows.writerow(person.model_dump())
    write_atomic(path, sheet.getvalue().encode())
