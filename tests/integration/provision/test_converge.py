"""Playbooks run with progress, a log for people, clear failures, and no secret in clear on disk."""

from __future__ import annotations

import json

import pytest
import yaml

from provision.errors import ConvergeError
from provision.paths import PLAYBOOKS

SECRET = "a-secret-that-is-nowhere-in-clear"


def test_what_changed_is_counted_and_said_as_it_happens(run):
    task = "    - name: Write a file\n      ansible.builtin.copy: {content: x, dest: '{{ folder }}/x', mode: '0600'}\n"
    assert run(task).changed == 1
    assert run.stage.steps == ["local: Write a file"]
    assert run(task).changed == 0
    assert "Write a file" in run.log.read_text()


def test_a_failure_says_host_task_reason_and_log(run):
    with pytest.raises(ConvergeError) as error:
        run("    - name: Look\n      ansible.builtin.command: ls /no-such-folder\n      changed_when: false\n")
    assert "local: Look: " in error.value.message
    assert "/no-such-folder" in error.value.message
    assert str(run.log) in error.value.remedy


def test_an_ignored_failure_is_none(run):
    task = "    - name: Look\n      ansible.builtin.command: ls /no-such-folder\n      changed_when: false\n"
    assert run(task + "      ignore_errors: true\n").changed == 0


def test_secrets_reach_the_play_but_no_file_and_no_log(run):
    search = (
        "    - name: Use the secret\n      ansible.builtin.assert: {that: secret | length > 9}\n      no_log: true\n"
        "    - name: Search the private folder\n"
        "      ansible.builtin.command: grep -rc that-is-nowhere {{ work }}\n"
        "      register: found\n      changed_when: false\n      failed_when: found.rc != 1\n"
    )
    run(search)
    assert SECRET not in run.log.read_text()
    assert list(run.folder.glob("run-*")) == []


def test_a_secret_with_braces_is_taken_as_it_is(run):
    run(
        "    - name: Count\n      ansible.builtin.assert: {that: braces | length == 8}\n      no_log: true\n",
        secret_variables={"braces": "{{ 1 }}x"},
    )


def test_a_failure_that_holds_a_secret_is_censored(run):
    with pytest.raises(ConvergeError) as error:
        run("    - name: Fail\n      ansible.builtin.fail: {msg: '{{ secret }}'}\n      no_log: true\n")
    assert SECRET not in error.value.message
    assert "hidden because it holds a secret" in error.value.message
    assert SECRET not in run.log.read_text()


def test_what_a_killed_module_leaves_is_in_the_private_folder_also_behind_sudo(run, tmp_path):
    sudo = tmp_path / "sudo"  # as sudo does it: nothing of the environment is handed on
    sudo.write_text('#!/bin/sh\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec env -i PATH="$PATH" "$@"\n')
    sudo.chmod(0o755)
    plays = [play for book in PLAYBOOKS.glob("*.yml") for play in yaml.safe_load(book.read_text())]
    [environment] = {json.dumps(play.get("environment")) for play in plays}
    tasks = (
        "    - name: Be killed\n      ansible.builtin.command: sh -c 'kill -9 $PPID'\n      ignore_errors: true\n"
        "    - name: Look\n      ansible.builtin.find: {paths: '{{ work }}/tmp', file_type: any}\n"
        "      register: left\n"
        "    - name: Compare\n      ansible.builtin.assert:\n        that: left.files | map(attribute='path')"
        " | select('search', 'command_payload') | length == 1\n"
    )
    # to become oneself, Ansible would not ask sudo
    become = f"  become: true\n  become_user: daemon\n  vars: {{ansible_become_exe: {sudo}, testbed_run: ''}}\n"
    run(tasks, play=f"{become}  environment: {environment}\n")
    assert list(run.folder.glob("run-*")) == []
