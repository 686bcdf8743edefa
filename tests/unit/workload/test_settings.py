"""Settings of the source: what is read from where, and what an error says."""

from pathlib import Path

import pytest
from workload.errors import SettingsError
from workload.settings import load_settings, read_env_file, source

ONE = {
    "INFLUXDB_URL": "http://influx:8086/",
    "INFLUXDB_DATABASE": "ran",
    "INFLUXDB_USER": "reader",
    "INFLUXDB_PASSWORD": "pass word",
}
TWO = {"INFLUXDB_URL": "https://influx", "TOKEN": "t-1", "ORG": "lab", "BUCKET": "ran/autogen"}


def env_file(folder: Path, text: str) -> Path:
    path = folder / "telemetry.env"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_dialect_1_has_user_password_and_database():
    found = source(ONE)
    assert (found.dialect, found.url, found.database, found.user, found.secret) == (
        1,
        "http://influx:8086",
        "ran",
        "reader",
        "pass word",
    )
    assert found.measurement == "randata"


def test_dialect_2_has_token_org_and_bucket_under_the_names_of_the_documents_too():
    found = source(TWO)
    assert (found.dialect, found.database, found.org, found.secret) == (2, "ran/autogen", "lab", "t-1")


def test_a_secret_is_not_shown():
    assert "pass word" not in repr(source(ONE))


@pytest.mark.parametrize("missing", ["INFLUXDB_URL", "INFLUXDB_DATABASE", "INFLUXDB_USER", "INFLUXDB_PASSWORD"])
def test_what_is_missing_is_named_1(missing):
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        source({key: value for key, value in ONE.items() if key != missing})


@pytest.mark.parametrize("missing", ["ORG", "BUCKET", "TOKEN"])
def test_what_is_missing_is_named_2(missing):
    with pytest.raises(SettingsError, match=f"INFLUXDB_{missing} is not set"):
        source({"INFLUXDB_DIALECT": "2", **{key: value for key, value in TWO.items() if key != missing}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INFLUXDB_DIALECT", "3", "1 .* or 2"),
        ("INFLUXDB_URL", "influx:8086", "no URL of a server"),
        ("INFLUXDB_URL", "http://", "no URL of a server"),
        ("INFLUXDB_URL", "http://reader:hidden@influx", "carries credentials"),
    ],
)
def test_what_cannot_be_is_refused_without_showing_a_secret(key, value, message):
    with pytest.raises(SettingsError, match=message) as error:
        source({**ONE, key: value})
    assert "hidden" not in str(error.value)


def test_an_env_file_is_read_as_a_shell_would(tmp_path):
    path = env_file(tmp_path, "# how to read\n\nA='x y'\nexport B=\"z\"\nC=a=b\n")
    assert read_env_file(path) == {"A": "x y", "B": "z", "C": "a=b"}


def test_a_named_file_goes_before_the_environment_and_the_environment_before_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INFLUXDB_USER", "environment")
    env_file(tmp_path, "INFLUXDB_USER=default\nINFLUXDB_DATABASE=default\n")
    settings = load_settings()
    assert (settings["INFLUXDB_USER"], settings["INFLUXDB_DATABASE"]) == ("environment", "default")
    (tmp_path / "named").mkdir()
    assert load_settings(env_file(tmp_path / "named", "INFLUXDB_USER=named"))["INFLUXDB_USER"] == "named"


@pytest.mark.parametrize(
    ("mode", "text", "message"), [(0o644, "A=1", "chmod 600"), (0o600, "A=1\nno value\n", "line 2")]
)
def test_a_bad_env_file_is_one_message(tmp_path, mode, text, message):
    path = env_file(tmp_path, text)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=message):
        read_env_file(path)


def test_an_env_file_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "none.env")
