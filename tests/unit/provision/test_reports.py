"""What scripts rely on: the keys of every JSON document, the exit codes, and that errors are documents as well."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from provision import reports
from provision.cli import main
from provision.errors import Exit

# A key that is renamed or removed breaks somebody's script. Adding one is fine: write it down here.
KEYS = {
    "CheckReport": {"testbed", "changes"},
    "ChangeReport": {"host", "kind", "name", "action", "detail", "after", "diff"},
    "UpReport": {"testbed", "healthy", "changed", "issued", "revoked", "level", "checks", "urls", "users", "log"},
    "SmokeReport": {"testbed", "healthy", "level", "checks", "log"},
    "StatusReport": {
        *(
            "testbed",
            "at",
            "healthy",
            "problems",
            "urls",
            "services",
            "versions",
            "workers",
            "queues",
            "disk",
            "clocks",
        ),
    },
    "DrainReport": {"testbed", "done", "changed", "workers"},
    "DrainState": {"name", "state", "since", "task"},
    "DownReport": {"testbed", "changed", "purged", "deleted", "log"},
    "BackupReport": {
        "testbed",
        "backup",
        "made",
        "backend",
        "server",
        "bytes",
        "files",
        "downtime",
        "elsewhere",
        "log",
    },
    "RestoreReport": {
        "testbed",
        "healthy",
        "backup",
        "made",
        "files",
        "compared",
        "kept",
        "elsewhere",
        "checks",
        "log",
    },
    "UpgradeReport": {"testbed", "healthy", "before", "server", "backup", "elsewhere", "checks", "log"},
    "PlanReport": {"testbed", "fits", "actions", "problems", "quotas", "largest"},
    "CloudAction": {"action", "kind", "name", "id", "why"},
    "PlanProblem": {"message", "remedy"},
    "QuotaReport": {"name", "before", "after", "limit", "short_by"},
    "ListReport": {"cloud", "testbeds"},
    "TestbedInProject": {"name", "servers", "floating_ips", "created", "holder", "since"},
    "SecretsReport": {"testbed", "healthy", "vault", "id", "rekeying", "rotating", "holds", "checks"},
    "VaultState": {"path", "there", "mode", "owner", "password_from"},
    "SecretsCheck": {"name", "result", "remedy"},
    "ExportReport": {"testbed", "id", "file"},
    "ImportReport": {"testbed", "id", "exported", "result", "kept"},
    "RotateReport": {
        *("testbed", "healthy", "id", "rotated", "issued", "revoked", "away_seconds", "kept", "checks", "log"),
    },
    "KeysReport": {"testbed", "keys"},
    "KeyState": {
        *("user", "purpose", "access_key", "issued", "expires", "last_used", "last_used_from", "state", "label"),
    },
    "RenewReport": {"testbed", "healthy", "renewed", "issued", "revoked", "checks", "log"},
    "IssueReport": {"testbed", "user", "purpose", "access_key", "expires", "file", "ca_file", "hosts", "revoked"},
    "RevokeReport": {"testbed", "revoked", "left", "tokens"},
    "AuditReport": {"testbed", "healthy", "keys", "findings"},
    "Finding": {"kind", "user", "access_key", "message", "remedy"},
    "OnboardReport": {"testbed", "sheet", "ca_file", "users"},
    "Onboarded": {"name", "full_name", "purpose", "access_key", "expires", "state", "file"},
    "UserState": {"name", "full_name", "state", "keys", "last_used"},
    "UsersReport": {"testbed", "users", "added", "refused"},
    "RemovedReport": {"testbed", "removed", "revoked", "login"},
    "ConfCheck": {"name", "result", "message", "remedy"},
    "VerifiedConf": {"file", "host", "checks"},
    "VerifyReport": {"healthy", "confs"},
    "VersionReport": {"version", "python", "ansible_core", "data"},
    "ErrorReport": {"error"},
    "Problem": {"message", "remedy", "exit_code"},
    "Check": {"name", "result", "seconds", "reference", "message"},
    "Urls": {"web", "api", "files", "telemetry", "outside"},
    "UserFiles": {"name", "conf", "venv"},
    "Service": {"host", "name", "running", "state"},
    "WorkerState": {"name", "queues", "task", "last_report", "drained"},
    "QueueState": {"name", "waiting"},
    "Disk": {"host", "path", "size", "free", "used", "inodes_used", "writable"},
    "Clock": {"of", "offset"},
    "CertificateState": {"url", "ends", "problem", "remedy"},
    "MirrorState": {"host", "key", "url", "problem"},
    "StoreState": {"name", "host", "port", "problem"},
    "StatusProblem": {"message", "remedy"},
}


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_that_scripts_rely_on_are_there(name):
    assert KEYS[name] <= set(getattr(reports, name).model_fields)


def test_every_document_is_among_them():
    assert {model.__name__ for model in reports.Report.__subclasses__()} == set(KEYS)


@pytest.mark.parametrize("model", reports.Report.__subclasses__())
def test_every_key_is_explained(model):
    assert model.__doc__
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["up", "--json", "--spec", "none.yaml"], Exit.BAD_INPUT),
        (["up", "--json", "--no-such-option"], Exit.BAD_INPUT),
        (["up", "--json"], Exit.DECLINED),
        (["down", "--json"], Exit.DECLINED),
        (["smoke", "--json"], Exit.FAILED),
    ],
)
def test_a_script_gets_an_error_as_a_document(arguments, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("provision.session.need_root", lambda _testbed: None)
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code
    error = reports.ErrorReport.model_validate_json(done.stdout).error
    assert error.exit_code == code
    assert error.message.splitlines()[0] in done.stderr, "people see it as well"


def test_a_mistake_of_ours_is_said_and_not_thrown(monkeypatch):
    def broken(_path):
        raise KeyError("x")

    monkeypatch.setattr("provision.spec.load", broken)
    done = CliRunner().invoke(main, ["status", "--json"])
    assert done.exit_code == Exit.FAILED
    assert "a mistake in testbed itself: KeyError: 'x'" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 1
    assert "Traceback" in CliRunner().invoke(main, ["status", "--debug"]).stderr


def _verbs(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _verbs(command, (*path, name))
        elif not command.context_settings.get("ignore_unknown_options"):  # its options are somebody else's
            yield (*path, name)


@pytest.mark.parametrize("path", [*_verbs(main)], ids=" ".join)
def test_debug_is_taken_before_and_after_a_verb(path):
    for arguments in ([*path, "--debug", "--no-such-option"], ["--debug", *path, "--no-such-option"]):
        assert "--no-such-option" in CliRunner().invoke(main, arguments).stderr


def test_help_tells_every_exit_code():
    shown = CliRunner().invoke(main, ["--help"]).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for code in Exit:
        assert any(line.startswith(f"{int(code)} {code.meaning[:20]}") for line in lines), shown
