"""From Ansible's events to what would change: nothing is left out, and each thing says what it waits for."""

from __future__ import annotations

from provision.changes import Change, Collector, resolve, staying, text_diff


def _ok(task, action, result, host="h", kind="runner_on_ok"):
    return kind, {"host": host, "task": task, "task_uuid": task, "task_action": action, "res": result}


def _collect(*events):
    collector = Collector()
    for kind, data in [*events, ("playbook_on_stats", {})]:
        collector.event(kind, data)
    return collector.found


def test_a_module_of_ours_tells_its_changes():
    told = {"kind": "account", "name": "alice", "action": "add"}
    assert _collect(_ok("Make", "testbed_accounts", {"changed": True, "testbed_changes": [told]})) == [
        Change("h", "account", "alice", "add")
    ]


def test_a_written_file_is_told_by_the_task_that_follows():
    told = {"kind": "file", "name": "/etc/x", "action": "add", "diff": {"before": "", "after": "a\n"}}
    found = _collect(
        _ok("Write", "ansible.builtin.template", {"changed": True}),
        _ok("Say", "ansible.builtin.debug", {"changed": False, "msg": {"testbed_changes": [told]}}),
    )
    assert found == [Change("h", "file", "/etc/x", "add", diff=("", "a\n"))]


def test_the_items_of_one_task_are_told_together():
    items = [
        _ok("Copy", "ansible.builtin.copy", {"changed": True}, kind="runner_item_on_ok"),
        _ok("Copy", "ansible.builtin.copy", {"changed": True}, kind="runner_item_on_ok"),
        _ok("Copy", "ansible.builtin.copy", {"changed": True, "results": []}),
    ]
    told = [{"kind": "file", "name": name, "action": "add"} for name in ("/a", "/b")]
    found = _collect(*items, _ok("Say", "ansible.builtin.debug", {"msg": {"testbed_changes": told}}))
    assert [change.name for change in found] == ["/a", "/b"]


def test_a_change_that_nobody_tells_is_listed_by_its_task():
    written = _ok("Write", "ansible.builtin.template", {"censored": "…", "changed": True})
    assert _collect(written, _ok("Other", "ansible.builtin.assert", {})) == [Change("h", "task", "Write", "change")]
    assert _collect(written) == [Change("h", "task", "Write", "change")]
    assert _collect(_ok("Run", "ansible.builtin.command", {"changed": True})) == [Change("h", "task", "Run", "change")]


def test_file_tells_enough_itself():
    def diff(before, after):
        return {"changed": True, "path": "/x", "diff": {"before": {"state": before}, "after": {"state": after}}}

    for before, after, wanted in [
        ("absent", "directory", ("folder", "add")),
        ("file", "absent", ("file", "remove")),
        ("directory", "absent", ("folder", "remove")),
    ]:
        [found] = _collect(_ok("F", "ansible.builtin.file", diff(before, after)))
        assert (found.kind, found.action) == wanted


def test_what_stays_as_it_is_is_not_listed():
    kept = Change("h", "service", "testbed-x", "keep", files=("/etc/x",))
    assert resolve([kept]) == []
    assert _collect(_ok("Write", "ansible.builtin.template", {"changed": False})) == []


def test_a_service_restarts_when_a_file_of_its_changes_in_the_same_run():
    kept = Change("h", "service", "testbed-x", "keep", needs=("path /etc/x",), files=("/etc/x",))
    file = Change("h", "file", "/etc/x", "change")
    [_, service] = resolve([file, kept])
    assert (service.action, service.needs) == ("restart", ("file /etc/x",))
    elsewhere = Change("other", "file", "/etc/x", "change")
    assert resolve([elsewhere, kept]) == [elsewhere]


def test_after_names_only_what_is_to_come_itself():
    needs = ("package supervisor", "account bob", "path /opt/venv/bin/run", "path /etc/x", "service testbed-s")
    service = Change("h", "service", "testbed-x", "add", needs=needs)
    others = [
        Change("h", "package", "supervisor", "add"),
        Change("h", "environment", "/opt/venv", "add"),
        Change("other", "account", "bob", "add"),
        Change("other", "service", "testbed-s", "add"),
        Change("h", "file", "/etc/y", "add"),
    ]
    found = resolve([service, *others])
    told = next(change for change in found if change.name == "testbed-x")
    assert told.needs == ("package supervisor", "environment /opt/venv", "service testbed-s")


def test_each_thing_is_listed_once_and_by_kind():
    key = Change("", "key", "user/alice", "add")
    package = Change("h", "package", "git", "add")
    assert resolve([key, package, package]) == [package, key]


def test_a_text_diff_is_shown_only_where_there_is_a_text():
    assert text_diff(Change("h", "file", "/x", "change")) == ""
    shown = text_diff(Change("h", "file", "/x", "change", diff=("a\nb\n", "a\nc\n")))
    assert "-b" in shown
    assert "+c" in shown


def test_of_a_removal_the_folders_are_told_that_it_could_only_empty():
    emptied = Change("h", "folder", "/disk", "change", "emptied, /disk is mounted")
    gone = [Change("h", "folder", "/data", "remove"), Change("h", "file", "/etc/hosts", "change")]
    assert staying([*gone, emptied, emptied]) == [emptied]
