"""Roles that cannot do their work on a host say so before anything is changed."""

from __future__ import annotations

import pytest

from provision.errors import ConvergeError


def test_an_older_python_is_refused_by_the_embedded_server(run):
    facts = "{python_version: 3.8.10, python: {executable: /usr/bin/python3}}"
    with pytest.raises(ConvergeError) as error:
        run(
            "    - name: Check the server\n"
            "      ansible.builtin.include_role: {name: clearml_server, tasks_from: validate}\n"
            f"      vars: {{ansible_facts: {facts}, clearml_server_backend: lite}}\n"
        )
    assert "clearml_lite needs Python 3.11 or newer" in error.value.message
    assert "3.8.10" in error.value.message
