"""InfluxDB over HTTP: 1.x, and 2.x through its 1.x-compatible `/query`: the same InfluxQL, the same CSV."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Iterable, Iterator, Sequence

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth

from workload.columns import TAG, Column, quoted
from workload.errors import SourceError, reason
from workload.settings import Source

LOG = logging.getLogger(__name__)

TIMEOUT = (10, 300)  # s: to connect; between two pieces of an answer
CHUNK_ROWS = 10_000
TAIL = 1000  # bytes at least, of what came last: an error of InfluxDB is there
BATCH_LINES = 10_000


class Answer:
    """A file of the rows that InfluxDB sends. `read` raises SourceError when they are not all there.

    ends: what the answer to a last statement may look like. InfluxDB gets to it when all before it went well; in CSV it
    says in no other way that it gave up.
    """

    closed = False

    def __init__(self, raw: Any, url: str, ends: tuple[bytes, ...]) -> None:
        self._raw = raw
        self._url = url
        self._ends = ends
        self._held = b""  # of the end, until it is seen what it is
        self._hold = max(TAIL, *(len(end) + 1 for end in ends))
        self._over = False

    def read(self, size: int = -1) -> bytes:
        while not self._over:
            try:
                block: bytes = self._raw.read(size)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self.broke_off() from error
            self._held += block
            if not block:
                self._over = True
                return self._rest()
            if len(self._held) > self._hold:
                block, self._held = self._held[: -self._hold], self._held[-self._hold :]
                return block
        return b""

    def _rest(self) -> bytes:
        """The rows before the end; SourceError when it did not come."""
        for end in self._ends:
            if self._held == end:
                return b""
            if self._held.endswith(b"\n" + end):
                return self._held[: -len(end) - 1]
        if self._held and not self._held.endswith(b"\n"):
            raise self.broke_off()
        said = self._held.rpartition(b"\nerror\n")
        why = said[2].decode(errors="replace").strip()[:300] if said[1] else "its answer stops before its end"
        raise SourceError(
            f"InfluxDB at {self._url} gave up: {why}: see its log and its limits of a query ([coordinator])"
        )

    def close(self) -> None:
        pass

    def broke_off(self) -> SourceError:
        return SourceError(f"InfluxDB at {self._url} broke off: see its log")

    def unreadable(self, why: str) -> SourceError:
        return SourceError(f"InfluxDB at {self._url} sent what cannot be read ({why})")


class _TokenAuth(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Token {self.token}"
        return request


class InfluxDB:
    """One measurement of an InfluxDB. Every method raises SourceError: one line that says what, where, what to do."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._session = requests.Session()
        if source.dialect == 1:
            self._session.auth = HTTPBasicAuth(source.user.encode(), source.secret.encode())
            self._database = {"db": source.database}
            self._where = f"database {source.database!r}"
            self._credentials = "INFLUXDB_USER and INFLUXDB_PASSWORD"
        else:
            self._session.auth = _TokenAuth(source.secret)
            # A bucket named db/rp is mapped to this database and retention policy by InfluxDB itself
            database, _, policy = source.database.partition("/")
            self._database = {"db": database, "org": source.org, **({"rp": policy} if policy else {})}
            self._where = f"bucket {source.database!r} of organisation {source.org!r}"
            self._credentials = "INFLUXDB_TOKEN and INFLUXDB_ORG"
        self._measurement = quoted(source.measurement)
        self._show = f"SHOW MEASUREMENTS WITH MEASUREMENT = {self._measurement}"

    def check(self) -> None:
        """Reachable, authenticates, and has the measurement; else SourceError."""
        source = self.source
        if source.dialect == 1:
            readable = [row["name"] for row in self._rows("SHOW DATABASES", database=False)]
            if source.database not in readable:
                raise SourceError(
                    f"InfluxDB at {source.url} has no database {source.database!r} that user {source.user!r} may read"
                    f" (it may read: {', '.join(readable) or 'none'}): check INFLUXDB_DATABASE"
                )
        if not self._rows(self._show):
            raise SourceError(
                f"no measurement {source.measurement!r} in {self._where} at {source.url}: check INFLUXDB_MEASUREMENT"
            )

    def count(self, field: str, start: int, end: int) -> int:
        """The number of points from start to end (ns since the epoch) that have this field."""
        rows = self._rows(self._select(f'count("{field}")', _window(start, end)))
        return int(rows[0]["count"]) if rows else 0

    def count_all(self) -> int:
        """The number of points: that of the field which most of them have."""
        rows = self._rows(self._select("count(*)"))
        return max((value for row in rows for name, value in row.items() if name != "time"), default=0)

    def newest(self) -> int:
        """The time of the newest point, in ns since the epoch; 0 when there is none."""
        rows = self._rows(self._select("*", "ORDER BY time DESC LIMIT 1"))
        return int(rows[0]["time"]) if rows else 0

    def tag_values(self, tag: str) -> list[str]:
        return [row["value"] for row in self._rows(f'SHOW TAG VALUES FROM {self._measurement} WITH KEY = "{tag}"')]

    def fields(self) -> list[tuple[str, str]]:
        """Each field with its type, as InfluxDB calls it; a field of several types comes once for each."""
        rows = self._rows(f"SHOW FIELD KEYS FROM {self._measurement}")
        return list(dict.fromkeys((row["fieldKey"], row["fieldType"]) for row in rows))

    def tags(self) -> list[str]:
        return [row["tagKey"] for row in self._rows(f"SHOW TAG KEYS FROM {self._measurement}")]

    def end_point(self, columns: Sequence[Column], start: int, end: int, newest: bool) -> dict[str, Any] | None:
        """The oldest or the newest point from start up to but without end: its values and `time`, or None."""
        order = "ORDER BY time DESC LIMIT 1" if newest else "LIMIT 1"
        rows = self._rows(f"{self.query(columns, start, end)} {order}")
        return dict(zip(["time", *(column.name for column in columns)], rows[0].values())) if rows else None

    def counts(self, columns: Sequence[Column], start: int, end: int, width: int) -> dict[int, dict[str, int]]:
        """As `totals`, in each stretch of `width` ns that has any, by the start of the stretch."""
        what, names = _counted(columns)
        rows = self._rows(self._select(what, f"{_up_to(start, end)} GROUP BY time({width}ns) fill(none)"))
        return {row["time"]: {name: row[label] or 0 for label, name in names.items()} for row in rows}

    def totals(self, columns: Sequence[Column], start: int, end: int) -> dict[str, int]:
        """The number of points that have a value, for each field, from start up to but without end."""
        what, names = _counted(columns)
        rows = self._rows(self._select(what, _up_to(start, end)))
        return {name: rows[0][label] or 0 if rows else 0 for label, name in names.items()}

    def query(self, columns: Sequence[Column], start: int, end: int) -> str:
        """The InfluxQL that selects these columns from start up to but without end."""
        return self._select(", ".join(column.query for column in columns), _up_to(start, end))

    @contextlib.contextmanager
    def answer(self, columns: Sequence[Column], start: int, end: int) -> Iterator[Answer]:
        """Points in order of time as CSV: a header, then InfluxDB's own two columns, `time` in ns, and the columns."""
        query = f"{self.query(columns, start, end)}; {self._show}"
        response = self._query(query, chunked="true", chunk_size=str(CHUNK_ROWS), stream=True, csv=True)
        name = self.source.measurement
        ends = [f"name,tags,name\nmeasurements,,{shown}\n".encode() for shown in (name, _in_csv(name))]
        with response:
            yield Answer(response.raw, self.source.url, tuple(ends))

    def write(self, lines: Iterable[str]) -> int:
        """Write line protocol with times in s, in batches; the number of points written."""
        written, batch = 0, []
        for line in lines:
            batch.append(line)
            if len(batch) == BATCH_LINES:
                written += self._write(batch)
                batch = []
        return written + (self._write(batch) if batch else 0)

    def _write(self, batch: list[str]) -> int:
        if self.source.dialect == 1:
            path, params = "/write", {**self._database, "precision": "s"}
        else:
            path = "/api/v2/write"
            params = {"org": self.source.org, "bucket": self.source.database, "precision": "s"}
        self._request("POST", path, params, data="\n".join(batch).encode()).close()
        return len(batch)

    def _select(self, what: str, which: str = "") -> str:
        return f"SELECT {what} FROM {self._measurement} {which}"  # noqa: S608 - quoted in __init__

    def _rows(self, query: str, database: bool = True) -> list[dict[str, Any]]:
        with self._query(query, database=database) as response:
            try:
                result = response.json()["results"][0]
            except (ValueError, LookupError, TypeError) as error:
                raise self._not_influxdb("its answer to a query is not JSON") from error
        if "error" in result:
            raise SourceError(f"InfluxDB at {self.source.url} refuses a query: {result['error']}")
        return [dict(zip(series["columns"], row)) for series in result.get("series", []) for row in series["values"]]

    def _query(
        self, query: str, database: bool = True, csv: bool = False, stream: bool = False, **more: str
    ) -> requests.Response:
        params = {**(self._database if database else {}), "q": query, "epoch": "ns", **more}
        # gzip costs more than it saves: 3 to 4 times slower on a fast network
        headers = {"Accept": "application/csv" if csv else "application/json", "Accept-Encoding": "identity"}
        return self._request("GET", "/query", params, headers=headers, stream=stream)

    def _request(self, method: str, path: str, params: dict[str, str], **more: Any) -> requests.Response:
        url = self.source.url
        try:
            response = self._session.request(
                method, url + path, params=params, timeout=TIMEOUT, allow_redirects=False, **more
            )
        except requests.exceptions.SSLError as error:
            raise SourceError(f"InfluxDB at {url}: its certificate is not trusted: check REQUESTS_CA_BUNDLE") from error
        except requests.RequestException as error:
            raise SourceError(
                f"InfluxDB at {url} cannot be reached ({reason(error)}): check INFLUXDB_URL, and that InfluxDB runs"
            ) from error
        if response.status_code // 100 == 2:
            return response
        with response:
            said = _said(response)
        if response.status_code == 401:
            raise SourceError(f"InfluxDB at {url} refuses the credentials: check {self._credentials}")
        if response.status_code == 403:
            raise SourceError(f"InfluxDB at {url} does not allow this on {self._where}: {said}")
        if response.status_code == 404 and "not found" in said and "page" not in said:
            hint = "" if self.source.dialect == 1 else ", and that the bucket is mapped to a database (DBRP mapping)"
            name = "INFLUXDB_DATABASE" if self.source.dialect == 1 else "INFLUXDB_BUCKET"
            raise SourceError(f"InfluxDB at {url} has no {self._where}: check {name}{hint}")
        if response.status_code == 404 or response.status_code // 100 == 3:
            raise self._not_influxdb(f"HTTP {response.status_code} on {path}")
        raise SourceError(f"InfluxDB at {url} answers HTTP {response.status_code} on {path}: {said}")

    def _not_influxdb(self, why: str) -> SourceError:
        return SourceError(f"{self.source.url} does not answer as InfluxDB does ({why}): check INFLUXDB_URL")


def _counted(columns: Sequence[Column]) -> tuple[str, dict[str, str]]:
    """What selects the count of each field, and the fields by the names that their counts have in the answer."""
    names = {f"n{number}": name for number, name in enumerate(c.name for c in columns if c.kind != TAG)}
    return ", ".join(f"count({quoted(name)}::field) AS {quoted(label)}" for label, name in names.items()), names


def _in_csv(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _window(start: int, end: int) -> str:
    return f"WHERE time >= {start} AND time <= {end}"


def _up_to(start: int, end: int) -> str:
    return f"WHERE time >= {start} AND time < {end}"


def _said(response: requests.Response) -> str:
    """InfluxDB's own words: 1.x says `error`, 2.x `message`; in CSV answers the message is the second line."""
    try:
        body = response.json()
        return str(body.get("error") or body.get("message") or body)[:300]
    except (ValueError, AttributeError):
        return response.text.strip().split("\n")[-1].strip('"')[:300] or response.reason
