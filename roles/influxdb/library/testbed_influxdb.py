#!/usr/bin/python
"""Brings the users, passwords, grants and the database of an InfluxDB 1.x to the wanted state, by its HTTP API."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: testbed_influxdb
short_description: Set users, passwords, grants and the database of an InfluxDB 1.x
options:
  url: {type: str, required: true, description: Where its HTTP API answers}
  database: {type: str, required: true, description: Database to make}
  passwords: {type: dict, required: true, description: 'Passwords of admin, writer and reader'}
  data_dir: {type: str, required: true, description: Its data}
  by_token: {type: bool, default: false, description: 'InfluxDB shares a secret with us (see token): set all passwords'}
author: [The testbed's authors (@clearml-testbed)]
"""

GRANTS = {"writer": ("ALL", "ALL PRIVILEGES"), "reader": ("READ", "READ")}  # as granted, as shown
NO_USER_YET = "create admin user first"


class Refused(Exception):
    """InfluxDB refused the login or the statement; the text is InfluxDB's, and the status the HTTP one."""

    def __init__(self, status: int, text: str) -> None:
        """Keep the HTTP status beside the text."""
        super().__init__(text)
        self.status = status


class Influx:
    """InfluxQL over HTTP as one user, or with a token; without either, no login is sent."""

    def __init__(self, url: str, user: str = "", password: str = "", bearer: str = "") -> None:
        """Remember where to ask, and as whom."""
        self.url = url
        login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else f"Bearer {bearer}"
        self.headers = {"Authorization": login} if user or bearer else {}
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, statement: str) -> list[list]:
        """Return the rows of the answer. Raises Refused, or OSError when nothing answers."""
        body = urllib.parse.urlencode({"q": statement}).encode()
        request = urllib.request.Request(f"{self.url}/query", data=body, headers=self.headers)  # noqa: S310 (our own URL)
        try:
            with self.open(request, timeout=30) as answer:
                result = json.load(answer)["results"][0]
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None
        if "error" in result:
            raise Refused(200, result["error"])
        return [row for series in result.get("series", []) for row in series.get("values", [])]


def token(user: str, password: str) -> str:
    """Return a token (JWT, HS256) that lets in as the user for a minute.

    InfluxDB's shared secret is the SHA-256 of the password, in hex (see the role): who knows one may know the other.
    """

    def encoded(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).decode().rstrip("=")

    claims = {"username": user, "exp": int(time.time()) + 60}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    secret = hashlib.sha256(password.encode()).hexdigest().encode()
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def quoted(password: str) -> str:
    """Return the password as InfluxQL text."""
    return "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"


def named(name: str) -> str:
    """Return the identifier as InfluxQL text."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def can_log_in(url: str, user: str, password: str) -> bool:
    """Tell whether the password is the user's."""
    try:
        Influx(url, user, password).ask("SHOW DATABASES")
    except Refused as refused:
        return refused.status != 401
    return True


def converge(admin: Influx, users: dict, database: str, passwords: dict, unlocked: bool, dry: bool) -> list[str]:
    """Make database, users and grants what they should be; return what was (or, dry, would be) done."""
    done = []

    def do(what: str, statement: str) -> None:
        done.append(what)
        if not dry:
            admin.ask(statement)

    if [database] not in admin.ask("SHOW DATABASES"):
        do(f"create database {database}", f"CREATE DATABASE {named(database)}")
    for user, (granted, shown) in GRANTS.items():
        if user not in users:
            do(f"create user {user}", f"CREATE USER {user} WITH PASSWORD {quoted(passwords[user])}")
        elif unlocked or not can_log_in(admin.url, user, passwords[user]):
            do(f"set password of {user}", f"SET PASSWORD FOR {user} = {quoted(passwords[user])}")
        if user not in users or [database, shown] not in admin.ask(f"SHOW GRANTS FOR {user}"):
            do(f"grant {granted} to {user}", f"GRANT {granted} ON {named(database)} TO {user}")
    return done


def set_admin(influx: Influx, users: dict, password: str) -> str:
    """Make the administrator, or give it the password and all privileges; return what was done."""
    if "admin" in users:
        influx.ask(f"SET PASSWORD FOR admin = {quoted(password)}")
        influx.ask("GRANT ALL PRIVILEGES TO admin")
        return "set password of admin"
    influx.ask(f"CREATE USER admin WITH PASSWORD {quoted(password)} WITH ALL PRIVILEGES")
    return "create user admin"


def changes_of(done: list[str]) -> list[dict]:
    """Return what was (or would be) done as changes."""
    needs = ["service testbed-influxdb"]
    return [{"kind": "database", "name": step, "action": "change", "needs": needs} for step in done]


def everything(database: str) -> dict:
    """Return what is done to an InfluxDB that has nothing yet."""
    done = ["create user admin", f"create database {database}"]
    for user, (granted, _) in GRANTS.items():
        done += [f"create user {user}", f"grant {granted} to {user}"]
    return {"done": done, "testbed_changes": changes_of(done)}


def problem(module: AnsibleModule, what: str) -> None:
    """End without success, with a text that the role shows: no_log would hide a failure's."""
    log = "/var/log/testbed/testbed-influxdb.log"
    module.exit_json(
        changed=False, problem=f"InfluxDB at {module.params['url']} {what}. See {log}, then run this again"
    )


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "database": {"type": "str", "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "data_dir": {"type": "str", "required": True},
            "by_token": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    url, database, passwords = (module.params[key] for key in ("url", "database", "passwords"))
    admin, done = Influx(url, "admin", passwords["admin"]), []
    try:
        if module.params["by_token"]:
            admin = Influx(url, bearer=token("admin", passwords["admin"]))
            users = dict(admin.ask("SHOW USERS"))
            done.append(set_admin(admin, users, passwords["admin"]))
        else:
            try:
                users = dict(admin.ask("SHOW USERS"))
            except Refused as refused:
                if NO_USER_YET not in str(refused):
                    done = ["set password of admin", *(f"set password of {user}" for user in GRANTS)]
                    module.exit_json(changed=True, locked_out=True, done=done, testbed_changes=changes_of(done))
                if module.check_mode:
                    module.exit_json(changed=True, **everything(database))
                users = {}
                done.append(set_admin(Influx(url), users, passwords["admin"]))
        done += converge(admin, users, database, passwords, module.params["by_token"], module.check_mode)
    except Refused as refused:
        problem(module, f"refused: {refused}")
    except OSError as error:
        if module.check_mode:  # none to ask: before the first run there is none; later it has what it had
            fresh = not Path(module.params["data_dir"], "meta", "meta.db").exists()
            module.exit_json(changed=fresh, **(everything(database) if fresh else {"testbed_changes": []}))
        problem(module, f"does not answer: {error}")
    module.exit_json(changed=bool(done), done=done, testbed_changes=changes_of(done))


if __name__ == "__main__":
    main()
