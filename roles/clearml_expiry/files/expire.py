#!/usr/bin/env python3
"""Revokes keys of a testbed's users that are past their day, and those that nobody has, every day.

It decides as `testbed credentials expire` does: by a key's label, and by whose the key is. A day begins ten minutes
late, so that a command that issues a key at midnight is not met half way. Python 3.8 and its standard library;
`is_unwanted` and `day_of` are pure.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
import time
import urllib.error
import urllib.request
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

PAGE = 500
TIMEOUT_S = 30
LATE = timedelta(minutes=10)
AGAIN_S = 300  # between two looks at the clock, and after a failure
# the company of the open-source server; a user's ID is the MD5 of "<company>:<username>"
COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"
DAY = r"\d{4}-\d\d-\d\d"
LABEL = re.compile(rf"testbed:(\S+) user:(\S+) purpose:(\S+)(?: issued:({DAY}))?(?: expires:({DAY}))?( unwritten)?")
SERVICE = re.compile("toolkit|agent@.*|watchdog@.*")  # purposes of keys that services have
UNKNOWN_USER = (400, 6)  # HTTP status and ClearML's subcode of an impersonation that failed


class ApiError(Exception):
    """The server refused a call or did not answer."""

    def __init__(self, message, code=0, subcode=0):
        """Say what was wrong; `code` is the HTTP status, `subcode` ClearML's own."""
        super().__init__(message)
        self.code, self.subcode = code, subcode


class Api:
    """Calls to the ClearML API with one key pair."""

    def __init__(self, url, access_key, secret_key):
        """Log in at each `log_in`."""
        self.url = url
        self.login = base64.b64encode(f"{access_key}:{secret_key}".encode()).decode()
        self.token = ""

    def log_in(self):
        """Get a token. Raises ApiError."""
        self.token = self.send("auth.login", {}, {"Authorization": "Basic " + self.login})["token"]

    def call(self, endpoint, user=None, **parameters):
        """Return the `data` of the answer, for `user` where one is given. Raises ApiError."""
        headers = {"Authorization": "Bearer " + self.token}
        if user:
            headers["X-Clearml-Impersonate-As"] = user
        return self.send(endpoint, parameters, headers)

    def send(self, endpoint, body, headers):
        """Return the `data` of the answer. Raises ApiError."""
        headers = dict(headers, **{"Content-Type": "application/json"})
        url = self.url + "/" + endpoint
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="GET")  # noqa: S310 (the spec's)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return json.load(answer).get("data") or {}
        except urllib.error.HTTPError as error:
            try:
                meta = json.load(error)["meta"]
            except (OSError, ValueError, KeyError, TypeError):
                meta = {}
            said = meta.get("result_msg") or error.reason
            raise ApiError(f"{error.code} {endpoint}: {said}", error.code, meta.get("result_subcode") or 0) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ApiError(f"{endpoint}: {error}") from None

    def users(self):
        """Yield the IDs of all users."""
        page = 0
        while True:
            found = self.call("users.get_all", page=page, page_size=PAGE, only_fields=["id"])["users"]
            for user in found:
                yield user["id"]
            if len(found) < PAGE:
                return
            page += 1


def user_id(username):
    """Return the ClearML ID of a fixed user."""
    return hashlib.md5(f"{COMPANY}:{username}".encode()).hexdigest()  # noqa: S324 (as the server makes IDs)


def day_of(moment):
    """Return the day (UTC) by which keys are judged at a moment."""
    return (moment.astimezone(timezone.utc) - LATE).date()


def is_unwanted(label, owner, testbed, day):
    """Return whether a key of the user with the ID `owner` is past its day, or is one that nobody has.

    A label counts only on a key of the user that it names: labels are editable by their owners.
    """
    found = LABEL.fullmatch(label or "")
    if found is None:
        return False
    whose, user, purpose, issued, expires, unwritten = found.groups()
    if whose != testbed or user_id(user) != owner or SERVICE.fullmatch(purpose):
        return False
    try:
        issued = date.fromisoformat(issued) if issued else None
        expires = date.fromisoformat(expires) if expires else None
    except ValueError:
        return False
    if unwritten:
        return issued is not None and issued < day
    return expires is not None and expires <= day


def expire(api, testbed, day):
    """Revoke what is unwanted on a day; return the labels by access key. Raises ApiError."""
    revoked = {}
    api.log_in()
    for user in api.users():
        try:
            keys = api.call("auth.get_credentials", user)["credentials"]
        except ApiError as error:
            if (error.code, error.subcode) == UNKNOWN_USER:  # one of the server's own, or gone meanwhile
                continue
            raise
        for key in keys:
            if is_unwanted(key.get("label"), user, testbed, day):
                api.call("auth.revoke_credentials", user, access_key=key["access_key"])
                revoked[key["access_key"]] = key["label"]
    return revoked


def say(text):
    """Write a line into the service's log."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {printable}", flush=True)


def main():
    """Expire keys once a day, for ever; with --once, now and no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    settings = json.loads(arguments.config.read_text())
    api = Api(settings["api_server"], settings["access_key"], settings["secret_key"])
    done, failure = None, ""
    while True:
        day = day_of(datetime.now(timezone.utc))
        if day != done:
            try:
                revoked = expire(api, settings["testbed"], day)
                for access_key, label in revoked.items():
                    say(f"revoked {access_key}: {label}")
                say(f"{len(revoked)} keys revoked for {day}")
                done, failure = day, ""
            except ApiError as error:
                if str(error) != failure:
                    failure = str(error)
                    say(f"failed, and is tried again every {AGAIN_S} s: {failure}")
        if arguments.once:
            return 0 if done else 1
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    sys.exit(main())
