"""The radio map: a floor like the published one, split and scaled without a look at the test part."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from workload import unfinished
from workload.errors import ServerError, StepError
from workload.radio import floor, ingest
from workload.radio.evaluate import errors
from workload.radio.maps import gridded
from workload.radio.prepare import prepare

COLUMNS = ["", "Rx#", "X(m)", "Y(m)", "Z(m)", "Distance (m)", "Path Loss (dB)"]


@pytest.fixture(scope="module")
def measured():
    return pd.DataFrame(floor.measure(), columns=COLUMNS)


def test_the_same_seed_gives_the_same_floor_and_another_seed_another():
    assert np.array_equal(floor.measure(500, 3), floor.measure(500, 3))
    assert not np.array_equal(floor.measure(500, 3), floor.measure(500, 4))


def test_a_floor_has_the_published_shape(measured, tmp_path):
    lost = measured[COLUMNS[-1]] == 250
    assert len(measured) == 6700
    assert lost.mean() == pytest.approx(0.05, abs=0.001)
    heard = measured[~lost]
    assert heard[COLUMNS[-1]].between(30, 180).all()
    assert heard["Distance (m)"].min() > 0.9  # receivers are below the transmitter
    assert np.corrcoef(np.log10(heard["Distance (m)"]), heard[COLUMNS[-1]])[0, 1] > 0.7
    floor.write(floor.measure(20), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS
    assert [row[:2] for row in rows[1:3]] == [["0", "1"], ["1", "2"]]
    assert len(rows) == 21


def test_what_was_not_received_is_left_out_and_the_rest_is_split_70_to_30(measured):
    found = prepare(measured, 0.7, 0.15, 250.0, 0)
    sizes = {part: len(found.arrays[f"{part}_inputs"]) for part in ("train", "validation", "test")}
    heard = 6700 - 335
    rest = round(0.7 * heard)
    assert sizes == {"train": round(0.85 * rest), "validation": rest - round(0.85 * rest), "test": heard - rest}
    assert prepare(measured, 0.7, 0.15, 251.0, 0).output.scale > found.output.scale + 100


def test_a_mean_predictor_is_about_as_far_off_as_in_the_published_experiment(measured):
    found = prepare(measured, 0.7, 0.15, 250.0, 0).arrays
    mean = np.full_like(found["test_losses"], found["train_losses"].mean())
    assert errors(found["test_losses"], mean)["RMSE"] == pytest.approx(0.14, abs=0.03)


def test_the_scaler_knows_the_training_part_only(measured):
    found = prepare(measured, 0.7, 0.15, 250.0, 0)
    train = found.arrays["train_inputs"]
    assert (train.min(), train.max()) == (0, 1)
    assert found.arrays["train_losses"].min() == 0
    assert found.arrays["train_losses"].max() == 1
    again = prepare(measured, 0.7, 0.15, 250.0, 0)
    other = prepare(measured, 0.7, 0.15, 250.0, 1)
    assert all(np.array_equal(found.arrays[name], again.arrays[name]) for name in found.arrays)
    assert not np.array_equal(found.arrays["train_inputs"], other.arrays["train_inputs"])
    # the largest loss of all is somewhere in the other parts with some seed: then they reach beyond 1
    parts = [prepare(measured.head(60), 0.5, 0.5, 250.0, seed).arrays["test_losses"] for seed in range(9)]
    assert max(part.max() for part in parts) > 1


@pytest.mark.parametrize(
    ("frame", "shares", "message"),
    [
        (pd.DataFrame({"X(m)": [1.0]}), (0.7, 0.15), r"no column Y\(m\), Path Loss \(dB\) \(it has: X\(m\)\)"),
        (pd.DataFrame([[0, 1, 1, 1, 1, 1, 250.0]] * 9, columns=COLUMNS), (0.7, 0.15), "0 rows with a signal"),
        (pd.DataFrame([[0, 1, 1, 1, 1, 1, 80.0]] * 9, columns=COLUMNS), (1.0, 0.15), "train_share 1.0"),
    ],
)
def test_what_cannot_be_prepared_is_named(frame, shares, message):
    with pytest.raises(StepError, match=message):
        prepare(frame, *shares, 250.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*none.csv .No such file"),
        ("X(m),Y(m)\n1,2\n", r"has no column Path Loss \(dB\): expected Rx#, X"),
        (",".join(COLUMNS) + "\n", "no rows below its header"),
        ("X(m),Y(m)\n\xff", "has no column"),
    ],
)
def test_a_file_that_is_no_measurement_is_one_line(tmp_path, text, message):
    file = tmp_path / "none.csv"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(StepError, match=message) as error:
        ingest.check(file)
    assert "\n" not in str(error.value)


def test_rows_of_a_file_are_counted(tmp_path):
    floor.write(floor.measure(7), tmp_path / "a.csv")
    assert ingest.check(tmp_path / "a.csv") == 7


def test_errors_are_those_of_the_differences():
    assert errors(np.array([0.0, 1.0]), np.array([1.0, 1.0])) == {"MSE": 0.5, "RMSE": 0.5**0.5, "MAE": 0.5}


def test_a_map_has_the_mean_of_each_cell_and_nothing_where_nothing_is():
    places = np.array([[0.5, 0.5], [1.5, 1.0], [5.0, 3.0]])
    x, y, cells = gridded(places, np.array([1.0, 3.0, 7.0]), 2.0)
    assert (x, y) == ([1.0, 3.0, 5.0], [1.0, 3.0])
    assert cells == [[2.0, None, None], [None, None, 7.0]]


class Server:
    """As the SDK shows a ClearML server with one dataset."""

    def __init__(self):
        self.made = []
        self.unfinished = []
        self.deleted = []
        self.fails = None

    def sdk(self):
        server = self

        class Dataset:
            id = "d1"
            version = "1.0.0"

            def set_metadata(self, found, name, ui_visible):
                self.metadata = found

            def get_metadata(self, name):
                return self.metadata

            def add_files(self, file):
                self.rows = ingest.check(file)

            def get_logger(self):
                return SimpleNamespace(report_single_value=lambda name, value: None)

            def upload(self, **more):
                print("Uploading")  # as the SDK does
                if server.fails:
                    raise server.fails

            def finalize(self):
                server.unfinished = []
                server.made.append(self)

            @classmethod
            def create(cls, dataset_tags, **more):
                server.unfinished = [("d1", dataset_tags)]
                return cls()

            @classmethod
            def get(cls, **more):
                return server.made[-1]

        task = SimpleNamespace(get_output_log_web_page=lambda: "http://web", delete=self.delete)
        return SimpleNamespace(
            Dataset=Dataset,
            Task=SimpleNamespace(query_tasks=self.query_tasks, get_task=lambda found: task),
        )

    def query_tasks(self, project_name, tags, task_filter):
        if "completed" in task_filter["status"]:
            return [version.id for version in self.made]
        return [found for found, its_tags in self.unfinished if its_tags == tags]

    def delete(self, raise_on_error):
        self.deleted += [found for found, _ in self.unfinished]
        self.unfinished = []


@pytest.fixture
def lab(monkeypatch, tmp_path):
    server = Server()
    monkeypatch.setattr(unfinished, "WORK", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "clearml", server.sdk())
    monkeypatch.setattr(ingest, "login", lambda: None)
    return server


def test_the_same_measurements_make_no_second_version(lab):
    first = ingest.ingest("p", "d", None, 50, 0)
    assert (first.rows, lab.made[0].rows) == (50, 50)
    assert ingest.ingest("p", "d", None, 50, 0) == first
    assert len(lab.made) == 1
    ingest.ingest("p", "d", None, 50, 1)
    assert len(lab.made) == 2


def test_a_version_that_cannot_be_uploaded_is_deleted(lab):
    lab.fails = OSError(28, "No space left on device")
    with pytest.raises(ServerError, match="dataset p/d .No space left on device.: nothing is left of it; check the"):
        ingest.ingest("p", "d", None, 50, 0)
    assert (lab.deleted, lab.unfinished) == (["d1"], [])


def test_a_run_that_is_stopped_deletes_its_version_and_stays_stopped(lab):
    lab.fails = SystemExit(143)
    with pytest.raises(SystemExit) as ended:
        ingest.ingest("p", "d", None, 50, 0)
    assert (ended.value.code, lab.deleted) == (143, ["d1"])


def test_what_a_killed_run_left_is_deleted_by_the_next_and_what_others_make_is_not(lab):
    lab.unfinished = [("left", [unfinished.mark()])]
    ingest.ingest("p", "d", None, 50, 0)
    assert lab.deleted == ["left"]
    lab.unfinished = [("other", ["ingest by other@host"])]
    ingest.ingest("p", "d", None, 50, 0)
    assert lab.deleted == ["left"]


def test_there_is_json_and_nothing_else_on_stdout(lab, capsys):
    assert ingest.main(["--project=p", "--dataset=d", "--points=50"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["rows"] == 50
    assert "Uploading" in said.err


@pytest.mark.parametrize("option", ["--seed=-1", "--points=-1", "--points=0", "--points=x"])
def test_a_number_that_cannot_be_is_a_usage_error(option, capsys):
    with pytest.raises(SystemExit) as ended:
        ingest.main([option])
    assert ended.value.code == 2
    assert f"argument {option.partition('=')[0]}: " in capsys.readouterr().err
