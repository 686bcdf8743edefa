"""The version of a clone, an archive, a source distribution, and of what is none of these."""

from __future__ import annotations

import subprocess

import pytest

from provision import version
from provision.paths import ROOT


class Repository:
    def __init__(self, folder):
        self.folder = folder
        self.git("init", "-q")
        self.commit()

    def git(self, *arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", *who, "-C", str(self.folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self):
        (self.folder / "file").write_text(str(len(list(self.folder.iterdir()))))
        self.git("add", ".")
        self.git("commit", "-q", "--allow-empty", "-m", "a commit")

    @property
    def node(self):
        return self.git("rev-parse", "HEAD")[:7]


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "a clone").mkdir()
    return Repository(tmp_path / "a clone")


def test_commits_are_counted_until_there_is_a_tag(repository):
    assert version.find(repository.folder) == f"0.1.0.dev1+g{repository.node}"
    repository.commit()
    assert version.find(repository.folder) == f"0.1.0.dev2+g{repository.node}"


@pytest.mark.parametrize(
    ("tag", "at", "after"),
    [("v1.2.3", "1.2.3", "1.2.4"), ("v2.0", "2.0", "2.1"), ("v1.0.0rc1", "1.0.0rc1", "1.0.0rc2")],
)
def test_a_tag_is_a_release_and_what_follows_leads_to_the_next(repository, tag, at, after):
    repository.git("tag", tag)
    assert version.find(repository.folder) == at
    (repository.folder / "file").write_text("changed")
    assert version.find(repository.folder) == f"{after}.dev0+g{repository.node}.dirty"
    repository.commit()
    assert version.find(repository.folder) == f"{after}.dev1+g{repository.node}"


def test_a_tag_that_is_no_version_is_none(repository):
    repository.git("tag", "vnext")
    assert version.find(repository.folder) == f"0.1.0.dev1+g{repository.node}"


def test_a_change_without_a_commit_is_dirty(repository):
    (repository.folder / "file").write_text("changed")
    assert version.find(repository.folder) == f"0.1.0.dev1+g{repository.node}.dirty"


def test_a_shallow_clone_does_not_pretend_to_know_how_many(repository, tmp_path):
    repository.commit()
    source = f"file://{repository.folder}"
    subprocess.run(["git", "clone", "-q", "--depth=1", source, tmp_path / "shallow"], check=True)
    assert version.find(tmp_path / "shallow") == f"0.1.0.dev0+g{repository.node}"


def test_a_repository_around_the_sources_is_none_of_theirs(repository):
    (repository.folder / "unpacked").mkdir()
    assert version.find(repository.folder / "unpacked") == version.UNKNOWN


@pytest.mark.parametrize(("tag", "described"), [(None, "0.1.0.dev0+g{}"), ("v1.2.3", "1.2.3")])
def test_an_archive_of_git_knows_its_commit(repository, tmp_path, tag, described):
    (repository.folder / "provision").mkdir()
    (repository.folder / "provision" / "version.py").write_text((ROOT / "provision" / "version.py").read_text())
    (repository.folder / ".gitattributes").write_text((ROOT / ".gitattributes").read_text())
    repository.commit()
    if tag:
        repository.git("tag", tag)
    repository.git("archive", "--prefix=unpacked/", "-o", str(tmp_path / "archive.tar"), "HEAD")
    subprocess.run(["tar", "xf", "archive.tar"], cwd=tmp_path, check=True)
    names = {"__file__": str(tmp_path / "unpacked" / "provision" / "version.py"), "__name__": "archived"}
    exec((tmp_path / "unpacked" / "provision" / "version.py").read_text(), names)  # noqa: S102
    assert names["find"]() == described.format(repository.node)


def test_a_source_distribution_tells_its_own(tmp_path):
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: clearml-testbed\nVersion: 1.2.3\n")
    assert version.find(tmp_path) == "1.2.3"


def test_no_git_and_no_record_is_said(tmp_path, repository, monkeypatch):
    assert version.find(tmp_path) == version.UNKNOWN
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.find(repository.folder) == version.UNKNOWN
