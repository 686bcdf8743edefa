"""What the service on the server's host revokes: what `testbed credentials expire` would, and nothing else."""

from __future__ import annotations

import datetime
import importlib.util
import json
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provision.credentials.issuer import user_id
from provision.credentials.keys import read_key
from provision.credentials.labels import Label

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/clearml_expiry"
TODAY = datetime.date(2026, 11, 23)

spec = importlib.util.spec_from_file_location("expire", ROLE / "files/expire.py")
expire = importlib.util.module_from_spec(spec)
spec.loader.exec_module(expire)

DAYS = st.none() | st.dates(TODAY - datetime.timedelta(3), TODAY + datetime.timedelta(3))
PURPOSES = st.sampled_from(["laptop", "toolkit2", "toolkit", "client", "agent@gpu/default", "watchdog@gpu"])
LABELS = st.builds(
    Label, st.sampled_from(["lab", "lab-2"]), st.sampled_from(["ada", "bob"]), PURPOSES, DAYS, DAYS, st.booleans()
).map(lambda label: label.text)


def _is_unwanted_to_the_command(text: str, owner: str) -> bool:
    entry = {"access_key": "A", "label": text}
    key = read_key(entry, "lab", owner, user_id(owner), {owner}, {"testbed-agent"})
    state = key.state(TODAY)
    unwritten = state == "unwritten" and key.label.issued is not None and key.label.issued < TODAY
    return state == "expired" or unwritten


@settings(deadline=None)
@given(LABELS | st.text(), st.sampled_from(["ada", "bob"]))
@example("testbed:lab user:ada purpose:laptop issued:2026-13-01 expires:2026-02-30", "ada")
@example("testbed:lab user:ada purpose:laptop issued:2026-11-01 expires:2026-11-23", "ada")
@example("testbed:lab user:ada purpose:laptop issued:2026-11-22 expires:2027-11-23 unwritten", "ada")
@example("testbed:lab user:ada purpose:laptop expires:2026-11-01\n", "ada")
def test_it_decides_as_the_command_does(text, owner):
    assert expire.is_unwanted(text, user_id(owner), "lab", TODAY) == _is_unwanted_to_the_command(text, owner)


@pytest.mark.parametrize(
    ("text", "unwanted"),
    [
        ("testbed:lab user:ada purpose:laptop issued:2026-08-01 expires:2026-11-23", True),
        ("testbed:lab user:ada purpose:laptop issued:2026-08-01 expires:2026-11-24", False),
        ("testbed:lab user:ada purpose:client", False),
        ("testbed:lab user:bob purpose:laptop issued:2026-08-01 expires:2026-11-23", False),  # which ada wrote
        ("my own", False),
        (None, False),
    ],
)
def test_a_key_ends_on_its_day(text, unwanted):
    assert expire.is_unwanted(text, user_id("ada"), "lab", TODAY) is unwanted


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-11-23T00:09:59+00:00", "2026-11-22"),  # a command that was begun before midnight may still be at work
        ("2026-11-23T00:10:00+00:00", "2026-11-23"),
        ("2026-11-23T23:59:59+00:00", "2026-11-23"),
        ("2026-11-23T01:05:00+01:00", "2026-11-22"),
    ],
)
def test_a_day_begins_ten_minutes_late(moment, day):
    assert str(expire.day_of(datetime.datetime.fromisoformat(moment))) == day


def test_what_it_is_told_is_a_file_that_only_root_reads():
    key = {"user_key": "K", "user_secret": 'a"b\\c'}
    template = jinja2.Environment()  # noqa: S701 (what it renders is no HTML)
    template.filters["to_nice_json"] = json.dumps
    text = template.from_string((ROLE / "templates/expiry.json.j2").read_text()).render(
        clearml_expiry_api_url="https://api", clearml_expiry_credentials=key, clearml_expiry_testbed="lab"
    )
    assert json.loads(text) == {
        "api_server": "https://api",
        "access_key": "K",
        "secret_key": 'a"b\\c',
        "testbed": "lab",
    }
    [write, _] = yaml.safe_load((ROLE / "tasks/install.yml").read_text())
    [settings] = [file for file in write["testbed_files"]["files"] if file["path"] == "{{ clearml_expiry_config }}"]
    assert (settings["mode"], settings["secret"], write["no_log"]) == ("0600", True, True)


def test_its_key_is_of_the_identity_that_cannot_read_the_servers_settings():
    told = yaml.safe_load((ROOT / "playbooks/vars/secrets.yml").read_text())
    assert told["clearml_expiry_credentials"] == "{{ testbed_secrets.clearml.services_agent }}"
