"""A secret is taken out of logs in every form that programs write it in."""

from __future__ import annotations

import base64
import json
import shlex
import urllib.parse

import pytest

from provision.converge import Redaction, secret_values

SECRET = 'pa/ss "word" ä&more\\'


@pytest.mark.parametrize(
    "form",
    [
        str,
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: json.dumps(json.dumps(text)),
        repr,
        shlex.quote,
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda text: urllib.parse.quote(text, safe=""),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    ],
)
def test_it_is_hidden_in_every_form(form):
    hidden = Redaction([SECRET])(f"before {form(SECRET)} after")
    for part in ("word", "more", base64.b64encode(SECRET.encode()).decode()[:12]):
        assert part not in hidden
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")


def test_each_line_of_a_long_one_is_hidden():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END KEY-----\n"
    for text in (key, json.dumps(key), "  MIIEvQIBADANBgkqhkiG9w0"):
        assert "MIIEvQ" not in Redaction([key])(text)


def test_a_short_one_is_hidden_where_it_stands_alone():
    assert Redaction(["s3cr"])("password=s3cr, s3crets") == "password=********, s3crets"


def test_names_beside_secrets_are_none():
    found = secret_values({"users": {"a": {"username": "writer", "password": "xyz-1"}}, "user_key": "K", "n": 3})
    assert list(found) == ["xyz-1"]


def test_without_secrets_text_stays():
    assert Redaction([])("all of it") == "all of it"
