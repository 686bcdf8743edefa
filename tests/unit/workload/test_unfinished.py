"""A version that cannot be finished is deleted; where that fails, too, the message says what failed first."""

import sys
from types import SimpleNamespace

import pytest
from workload import ingest, unfinished
from workload.columns import Column
from workload.errors import ServerError
from workload.parts import Part

WANTED = ingest.Wanted("project", "dataset", 1, 9)
READ = [Part(1, 9, 2, "a.parquet", "", 1, 2, {"a": {"count": 2}})]
BEFORE = {"newest": 0, "rows": 0, "windows": []}


class Server:
    """As the SDK shows a ClearML server: a version is begun, and then it or its file server is down."""

    def __init__(self):
        self.raised = OSError(28, "No space left on device")
        self.versions = []
        self.keeps = True  # the version, when it cannot delete its files
        self.down = True

    def create(self, **more):
        self.versions = ["v1"]
        raise self.raised

    def query_tasks(self, **more):
        return list(self.versions)

    def get_task(self, task_id):
        return SimpleNamespace(delete=self.delete)

    def delete(self, raise_on_error):
        assert raise_on_error
        if not (self.down and self.keeps):
            self.versions = []
        if self.down:
            raise RuntimeError("Failed deleting the following URIs:\nhttp://files/a.parquet")


@pytest.fixture
def sdk(monkeypatch):
    running = Server()
    module = SimpleNamespace(
        Dataset=SimpleNamespace(create=running.create),
        Task=SimpleNamespace(query_tasks=running.query_tasks, get_task=running.get_task),
    )
    monkeypatch.setitem(sys.modules, "clearml", module)
    return running


def publish(two, folder):
    ingest._publish(folder, two, WANTED, [Column("a", "float")], None, BEFORE, [], READ)


@pytest.mark.parametrize(
    ("down", "keeps", "left"),
    [
        (False, True, "nothing is left of it"),
        (True, True, "the next run deletes what is left of it"),
        (True, False, "files of it may be left on the file server"),
    ],
)
def test_the_message_is_what_failed_first_and_says_what_is_left(sdk, two, tmp_path, down, keeps, left):
    sdk.down, sdk.keeps = down, keeps
    with pytest.raises(ServerError) as error:
        publish(two, tmp_path)
    said = str(error.value)
    assert said.startswith(f"could not make a version of dataset project/dataset (No space left on device): {left}; ")
    assert "\n" not in said


def test_a_run_that_is_stopped_stays_stopped(sdk, two, tmp_path):
    sdk.raised = SystemExit(143)
    with pytest.raises(SystemExit) as error:
        publish(two, tmp_path)
    assert error.value.code == 143


def test_what_an_earlier_run_left_and_cannot_be_deleted_is_one_line(sdk):
    sdk.versions = ["v1"]
    with pytest.raises(ServerError) as error:
        unfinished.delete_unfinished("project", "dataset")
    assert str(error.value) == (
        "cannot delete an unfinished version of dataset project/dataset (Failed deleting the following URIs:"
        " http://files/a.parquet): check the ClearML server and its file server, then run this again"
    )
