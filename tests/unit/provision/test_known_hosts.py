"""The testbed's own `known_hosts`."""

from __future__ import annotations

import subprocess

import pytest

from provision.known_hosts import Pin, entry, fingerprint, is_key, parse, pinned, render, replaced

ED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh8Xo6GJ2iFoFhPAPMnDtnVd0yOP7xYbTWKbBmMM1Yq"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDkqHbPmDR6Y5wUoF0v3cFCu0ZJ7ZbFh3N2b0x7Wj0aL"
ECDSA = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBPE04D7wp3qs8JL8Z0ZZ"
    "fwR9Cg/XcWvlw6b+6n0A3WO5ZzXbUlKHIwp28EmlvtFqLYA734oLBQ2rPRFOw5adA3M="
)


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("10.0.0.5", 22, "10.0.0.5"),
        ("10.0.0.5", 2222, "[10.0.0.5]:2222"),
        ("2001:db8::1", 22, "2001:db8::1"),
        ("2001:db8::1", 2222, "[2001:db8::1]:2222"),
        ("Gate.Example.ORG", 22, "gate.example.org"),
    ],
)
def test_a_host_has_the_name_that_ssh_gives_it(host, port, expected):
    assert entry(host, port) == expected


def test_what_is_written_is_read_back():
    pins = [Pin("10.0.0.5", ED, "3f6c"), Pin("[gate]:2222", ECDSA), Pin("10.0.0.5", ECDSA, "3f6c")]
    assert parse(render(pins)) == pins


@pytest.mark.parametrize("line", ["", "# a comment", "|1|hashed= " + ED, "@revoked host " + ED, "host only-two"])
def test_what_is_no_plain_line_is_left_out(line):
    assert parse(line + "\n") == []


def test_several_names_on_a_line_are_several_pins():
    assert parse(f"one,two {ED}\n") == [Pin("one", ED), Pin("two", ED)]


@pytest.mark.parametrize(
    ("pins", "server", "expected"),
    [
        ([], "b", []),
        ([Pin("h", ED, "b"), Pin("h", ECDSA, "b"), Pin("x", OTHER, "b")], "b", [ED, ECDSA]),
        ([Pin("h", ED, "a")], "b", []),  # the server was made anew
        ([Pin("h", ED)], "b", []),  # another testbed's provider had no IDs
        ([Pin("h", ED, "a")], "", [ED]),  # whoever has no ID was not made anew
    ],
)
def test_a_pin_holds_for_the_server_that_it_was_made_for(pins, server, expected):
    assert pinned(pins, "h", server) == expected


def test_new_keys_replace_all_of_the_host_and_no_others():
    pins = [Pin("h", ED, "a"), Pin("x", ED, "a"), Pin("h", ECDSA, "a")]
    assert replaced(pins, "h", [OTHER, OTHER], "b") == [Pin("x", ED, "a"), Pin("h", OTHER, "b")]


@pytest.mark.parametrize("key", [ED, ECDSA])
def test_a_fingerprint_is_the_one_of_ssh_keygen(key, tmp_path):
    (tmp_path / "key.pub").write_text(f"{key}\n")
    said = subprocess.check_output(["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")], text=True).split()[1]
    assert fingerprint(key) == said


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (ED, True),
        (ECDSA, True),
        (ED[:-4], False),  # a line that the kernel wrote into
        (ED.replace("ssh-ed25519", "ssh-rsa", 1), False),
        ("ssh-ed25519 AAAA!", False),
        ("ssh-ed25519 AAA", False),
        ("ssh-ed25519", False),
        ("ssh-ed25519 AAAA", False),
    ],
)
def test_a_key_is_whole_or_none(key, expected):
    assert is_key(key) is expected
