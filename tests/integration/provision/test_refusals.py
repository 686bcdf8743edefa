"""Roles that cannot do their work on a host say so before anything is changed."""

from __future__ import annotations

import pytest

from provision.errors import ConvergeError


def test_an_older_python_is_refused_by_the_embedded_server(run):
    facts = "{python_version: 3.8.10, python: {executable: /usr/bin/python3}}"
    with pytest.raises(ConvergeError) as error:
        run(
            "    - name: Check the server\n"
            "      ansible.builtin.include_role:\n"
            "        {name: clearml_server, tasks_from: validate, rolespec_validate: false}\n"
            f"      vars: {{ansible_facts: {facts}, clearml_server_backend: lite}}\n"
        )
    assert "clearml_lite needs Python 3.11 or newer" in error.value.message
    assert "3.8.10" in error.value.message


@pytest.fixture
def check_distribution(run):
    def call(release, name, version):
        facts = f"{{distribution_release: {release}, distribution: {name}, distribution_version: '{version}'}}"
        run(
            "    - name: Check the machine\n"
            "      ansible.builtin.include_role: {name: common, tasks_from: distribution}\n"
            f"      vars: {{ansible_facts: {facts}}}\n"
        )

    return call


@pytest.mark.parametrize(
    ("release", "name", "version"),
    [
        ("buster", "Debian", "10"),
        ("bullseye", "Debian", "11.11"),
        ("bionic", "Ubuntu", "18.04"),
        ("41", "Fedora", "41"),
    ],
)
def test_a_distribution_without_a_table_is_refused_by_name(check_distribution, release, name, version):
    with pytest.raises(ConvergeError) as error:
        check_distribution(release, name, version)
    assert f"runs {name} {version}, which is not supported" in error.value.message
    assert "Use Debian 12 or Ubuntu 20.04, 22.04 or 24.04. Nothing was changed." in error.value.message


@pytest.mark.parametrize(
    ("release", "name", "version"),
    [
        ("bookworm", "Debian", "12"),
        ("focal", "Ubuntu", "20.04"),
        ("jammy", "Ubuntu", "22.04"),
        ("noble", "Ubuntu", "24.04"),
    ],
)
def test_a_supported_distribution_is_let_through(check_distribution, release, name, version):
    check_distribution(release, name, version)
