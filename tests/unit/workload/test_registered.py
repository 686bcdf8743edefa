"""A registered model is whole in itself, and what it is not is refused."""

import hashlib
import json
import math
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import clearml
import numpy as np
import pytest
from clearml.storage import StorageManager
from clearml.storage.cache import CacheManager
from workload import registered, serve
from workload.errors import ModelError
from workload.registered import Card, Output, Predictor
from workload.scaler import Scaler

SCALER = Scaler(["a", "b"], [1.0, 2.0], [0.0, 2.0], [1.0, 4.0])
CONFIG = {"kind": "classifier", "sha256": "00", "inputs": asdict(SCALER)}
LABELS = {"eMBB": 0, "mMTC": 2, "URLLC": 1}
LOSS = Output("loss", "dB", 40.0, 80.0)


def test_a_card_is_read_as_it_was_written():
    assert registered.card(json.dumps(CONFIG), LABELS, "m1") == Card(
        "classifier", "00", SCALER, ("eMBB", "URLLC", "mMTC")
    )
    regression = {**CONFIG, "kind": "regression", "output": asdict(LOSS)}
    assert registered.card(json.dumps(regression), {}, "m1") == Card("regression", "00", SCALER, (), LOSS)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, LABELS),
        ({**CONFIG, "inputs": {"columns": []}}, LABELS),
        (CONFIG, {}),
        ({**CONFIG, "kind": "regression"}, {}),
        ({**CONFIG, "kind": "forest"}, LABELS),
        ("text", LABELS),
    ],
)
def test_a_model_without_its_scaler_labels_or_hash_is_refused(config, labels):
    with pytest.raises(ModelError, match="model m1 has no scaler, label map and hash"):
        registered.card(config if isinstance(config, str) else json.dumps(config), labels, "m1")


def test_rows_become_numbers_in_the_order_of_the_model():
    rows = [{"b": "3.5", "a": 1}, {"a": None}, {"a": math.nan, "b": True}]
    found = registered.table(rows, ["a", "b"])
    assert np.array_equal(found, [[1, 3.5], [np.nan, np.nan], [np.nan, 1]], equal_nan=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"c": 1}, r"row 0: the model has no input 'c' \(it has: a, b\)"),
        ({"a": "x"}, "row 0: 'a' is no number: 'x'"),
        ({"a": [1]}, "'a' is no number"),
        ({"a": 10**400}, "row 0: 'a' is too large a number"),
        ({"a": math.inf}, "row 0: 'a' is no finite number"),
        ({"a": "-1e999"}, "row 0: 'a' is no finite number"),
    ],
)
def test_a_row_that_the_model_cannot_take_is_named(row, message):
    with pytest.raises(ModelError, match=message):
        registered.table([row], ["a", "b"])


def predictor(card, raw):
    """Without Keras: what the network gives is given."""
    found = Predictor.__new__(Predictor)
    found.card = card
    found.raw = raw
    return found


def test_a_classifier_answers_with_labels_and_probabilities():
    seen = []

    def raw(inputs):
        seen.extend(inputs.tolist())
        return np.array([[0.1, 0.7, 0.2]])

    found = predictor(registered.card(json.dumps(CONFIG), LABELS, "m1"), raw).predict([{"b": 6}])
    assert found == [{"label": "URLLC", "probabilities": {"eMBB": 0.1, "URLLC": 0.7, "mMTC": 0.2}}]
    assert seen == [[1.0, 1.0]]  # what is missing is filled, and all is scaled


def test_a_regression_answers_in_its_unit():
    card = Card("regression", "00", SCALER, (), LOSS)
    assert predictor(card, lambda inputs: np.array([[0.5]])).predict([{"a": 1}]) == [{"loss": 80.0}]


@pytest.mark.parametrize("card", [Card("regression", "00", SCALER, (), LOSS), Card("classifier", "00", SCALER, ("x",))])
def test_a_value_that_the_network_cannot_hold_is_refused_by_its_row(card):
    found = predictor(card, lambda inputs: np.tanh(inputs[:, :1]))
    with pytest.raises(ModelError, match="row 1: the model has no finite answer"):
        found.predict([{"a": 1}, {"a": 1e300}])


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert registered.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Register bytes in a folder of this machine, and have the SDK's own storage give the file."""

    def store(sha256, url=str):
        file = tmp_path / "models" / "model.keras"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"abc")
        text = json.dumps({**CONFIG, "sha256": sha256})

        def get_weights(raise_on_error, force_download):
            return StorageManager.get_local_copy(url(file), force_download=force_download)

        model = SimpleNamespace(config_text=text, labels=LABELS, get_weights=get_weights)
        monkeypatch.setattr(clearml, "InputModel", lambda model_id: model)
        return file

    return store


@pytest.mark.parametrize("url", [str, Path.as_uri])
def test_a_model_on_a_disk_of_this_machine_is_not_deleted_when_its_hash_is_another(stored, url):
    file = stored("00", url)
    with pytest.raises(ModelError, match="the file of model m1 is not what was registered"):
        registered.fetch("m1")
    assert file.read_bytes() == b"abc"


@pytest.mark.parametrize("url", [str, Path.as_uri])
def test_a_model_on_a_disk_of_this_machine_is_not_deleted_when_it_was_loaded(stored, url, monkeypatch):
    file = stored(hashlib.sha256(b"abc").hexdigest(), url)
    loaded = []
    monkeypatch.setattr(
        serve, "Predictor", lambda card, path: loaded.append(path) or SimpleNamespace(predict=lambda rows: [])
    )
    serve.Published.load(("m1", "model", "2026-11-01"))
    assert (loaded, file.read_bytes()) == ([file], b"abc")


def test_a_copy_that_was_fetched_is_deleted():
    folder = Path(CacheManager.get_cache_manager().get_cache_folder())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as copy:
        registered.discard(Path(copy.name))
    assert not Path(copy.name).exists()


def test_without_tensorflow_a_model_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ModelError, match="tensorflow is not installed here: install tensorflow-cpu"):
        Predictor(registered.card(json.dumps(CONFIG), LABELS, "m1"), tmp_path / "model.keras")


class Task:
    """Keeps what was stored with it: artifacts by name, read at once, for their files go."""

    def __init__(self):
        self.artifacts = {}

    def upload_artifact(self, name, path, wait_on_upload):
        assert wait_on_upload
        self.artifacts[name] = dict(np.load(path)) if path.suffix == ".npz" else path.read_bytes()


@pytest.mark.parametrize(("labels", "output"), [(("eMBB", "URLLC", "mMTC"), None), ((), LOSS)])
def test_a_trained_file_is_handed_over_with_what_its_host_answers(monkeypatch, tmp_path, labels, output):
    task, registers, asked = Task(), [], []

    class Trained(Predictor):
        def __init__(self, found, file):
            self.card = found
            assert (found.sha256, file.read_bytes()) == (hashlib.sha256(b"net").hexdigest(), b"net")

        def raw(self, inputs):
            asked.append(inputs)
            return np.full((len(inputs), 3), 0.5)

    monkeypatch.setattr(registered, "register", lambda *given: registers.append(given))
    monkeypatch.setattr(registered, "Predictor", Trained)
    file = tmp_path / "candidate.keras"
    file.write_bytes(b"net")
    inputs, predictions = np.arange(40, dtype="float32").reshape(20, 2), np.ones((20, 3))
    registered.hand_over(task, file, "rapp_model", SCALER, (inputs, predictions), labels, output)
    [(of, model, name, scaler, *rest)] = registers
    assert (of, model.name, name, scaler, rest) == (task, "trained_model.keras", "rapp_model", SCALER, [labels, output])
    assert task.artifacts["Trained Model"] == b"net"
    assert task.artifacts["prediction_sample"]["inputs"].tolist() == inputs.tolist()
    assert task.artifacts["prediction_sample"]["predictions"].tolist() == predictions.tolist()
    found = json.loads(task.artifacts["answers"])
    assert found["rows"][:2] == [{"a": 0.0, "b": 6.0}, {"a": 2.0, "b": 14.0}]  # as the source has them
    assert len(found["rows"]) == len(found["predictions"]) == registered.ANSWERED
    assert asked[0].tolist() == inputs[: registered.ANSWERED].tolist()
    assert found["predictions"][0] == (
        {"label": "eMBB", "probabilities": {"eMBB": 0.5, "URLLC": 0.5, "mMTC": 0.5}} if labels else {"loss": 80.0}
    )
