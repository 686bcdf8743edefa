"""A model in the server with all that a consumer needs: weights, scaler, label map, and the hash of the file.

The weights are the model's file (.keras: no pickle in it, and none is loaded). The scaler, the scale of a number that
it predicts, and the hash are its configuration, and the label map is its own: so one ID is enough.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from workload.errors import ModelError, ServerError
from workload.scaler import Scaler

CLASSIFIER, REGRESSION = "classifier", "regression"
# artifacts of the task that registers a model
MODEL, SAMPLE, ANSWERS = "Trained Model", "prediction_sample", "answers"
ANSWERED = 16  # rows


@dataclass(frozen=True)
class Output:
    """What a regression's result means: y -> y * scale + center, in `unit`."""

    name: str
    unit: str
    center: float
    scale: float


@dataclass(frozen=True)
class Card:
    """What is registered beside the file. labels: of a classifier, by the number of the class."""

    kind: str
    sha256: str
    inputs: Scaler
    labels: tuple[str, ...] = ()
    output: Output | None = None


def register(
    task: Any, file: Path, name: str, inputs: Scaler, labels: Sequence[str] = (), output: Output | None = None
) -> Any:
    """Make the file an output model of the task, whole in itself. With labels it is a classifier, else a regression."""
    from clearml import OutputModel

    card = {
        "kind": CLASSIFIER if labels else REGRESSION,
        "sha256": sha256(file),
        "inputs": asdict(inputs),
        **({"output": asdict(output)} if output else {}),
    }
    model = OutputModel(
        task=task,
        name=name,
        framework="Keras",
        label_enumeration={label: number for number, label in enumerate(labels)},
        config_text=json.dumps(card),  # a dictionary would become HOCON, and numbers text
    )
    model.update_weights(str(file), auto_delete_file=False, async_enable=False)
    return model


def hand_over(
    task: Any,
    file: Path,
    name: str,
    inputs: Scaler,
    sample: tuple[np.ndarray, np.ndarray],
    labels: Sequence[str] = (),
    output: Output | None = None,
) -> None:
    """Register a trained file, and store what it is to give elsewhere, too, as artifacts of the task.

    sample: the model's inputs, and what it gave here for them. With `ANSWERS` is how a consumer asks, by name and in
    units, and is answered.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "trained_model.keras")
        model.write_bytes(file.read_bytes())
        task.upload_artifact(MODEL, model, wait_on_upload=True)
        register(task, model, name, inputs, labels, output)
        path = Path(folder, "prediction_sample.npz")
        np.savez(path, inputs=sample[0], predictions=sample[1])
        task.upload_artifact(SAMPLE, path, wait_on_upload=True)
        kind = CLASSIFIER if labels else REGRESSION
        predictor = Predictor(Card(kind, sha256(model), inputs, tuple(labels), output), model)
        rows = inputs.rows(sample[0][:ANSWERED])
        path = Path(folder, "answers.json")
        path.write_text(json.dumps({"rows": rows, "predictions": predictor.predict(rows)}))
        task.upload_artifact(ANSWERS, path, wait_on_upload=True)


def card(text: str, labels: Mapping[str, int], model_id: str) -> Card:
    """Read what `register` wrote. Raises ModelError when it was something else."""
    try:
        config = json.loads(text)
        output = Output(**config["output"]) if config.get("output") else None
        ordered = tuple(sorted(labels, key=lambda label: labels[label]))
        found = Card(str(config["kind"]), str(config["sha256"]), Scaler(**config["inputs"]), ordered, output)
        usable = bool(ordered) if found.kind == CLASSIFIER else found.kind == REGRESSION and bool(output)
    except (KeyError, TypeError, ValueError, AttributeError):
        usable = False
    if not usable:
        raise ModelError(
            f"model {model_id} has no scaler, label map and hash beside it: register it with workload.registered"
        )
    return found


def fetch(model_id: str) -> tuple[Card, Path]:
    """A registered model's card, and its file, which has the hash of the card: a copy, or where it is registered.

    Raises ModelError when the model is none to use, ServerError when it was not to be had.
    """
    from clearml import InputModel

    try:
        model = InputModel(model_id=model_id)
        found = card(model.config_text or "", model.labels or {}, model_id)
        file = Path(model.get_weights(raise_on_error=True, force_download=True))
    except ModelError:
        raise
    except Exception as error:  # the SDK raises what its storage raises
        raise ServerError(
            f"cannot get model {model_id} ({' '.join(str(error).split())}): check its ID, the key and the file server"
        ) from error
    there = sha256(file)
    if there != found.sha256:
        discard(file)
        raise ModelError(
            f"the file of model {model_id} is not what was registered (SHA-256 {there[:12]}…, expected"
            f" {found.sha256[:12]}…): it was changed on the file server; register the model again"
        )
    return found, file


def discard(file: Path) -> None:
    """Delete a copy that the SDK fetched. Of a model on a disk of this machine it makes none: that file stays."""
    from clearml.storage.cache import CacheManager

    copies = Path(CacheManager.get_cache_manager().get_cache_folder()).resolve()
    if copies in file.resolve().parents:
        with contextlib.suppress(OSError):
            file.unlink()


class Predictor:
    """A loaded model. Raises ModelError when the file cannot be loaded, or TensorFlow is not there."""

    def __init__(self, found: Card, file: Path) -> None:
        try:
            from tensorflow import keras
        except ImportError as error:
            raise ModelError(
                f"{error.name or error} is not installed here: install tensorflow-cpu, and start this again"
            ) from error
        self.card = found
        try:
            # Safe mode is the default: what would run code of the file's own is refused
            self._model = keras.models.load_model(file, compile=False)
        except Exception as error:  # Keras raises what is wrong with the archive, the layers or the version
            raise ModelError(f"Keras cannot load {file.name} ({' '.join(str(error).split())[:200]})") from error

    def raw(self, inputs: np.ndarray) -> np.ndarray:
        """What the network gives for scaled inputs: rows x outputs."""
        return np.asarray(self._model(inputs, training=False))

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each row of values by name, as they come out of the source; what is missing is filled.

        Of a classifier: `label`, and `probabilities` by label. Of a regression: the value by its name. Raises
        ModelError for a row that has a name which the model does not know, or a value that is no number or too large.
        """
        with np.errstate(over="ignore"):  # what comes of it is looked at
            inputs = self.card.inputs.scaled(table(rows, self.card.inputs.columns))
        raw = self.raw(inputs)
        finite = np.isfinite(inputs).all(axis=1) & np.isfinite(raw).all(axis=1)
        if not finite.all():
            raise ModelError(
                f"row {int(finite.argmin())}: the model has no finite answer: give values as the source has them"
            )
        output = self.card.output
        if output:
            return [{output.name: float(value) * output.scale + output.center} for value in raw[:, 0]]
        return [
            {
                "label": self.card.labels[int(row.argmax())],
                "probabilities": dict(zip(self.card.labels, (round(float(value), 6) for value in row))),
            }
            for row in raw
        ]


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> np.ndarray:
    """rows x columns; NaN where a row lacks a value. Numbers may be strings. Raises ModelError."""
    values = np.full((len(rows), len(columns)), np.nan)
    where = {name: number for number, name in enumerate(columns)}
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in where:
                raise ModelError(f"row {number}: the model has no input {name!r} (it has: {', '.join(columns)})")
            try:
                values[number, where[name]] = np.nan if value is None else float(value)
            except (TypeError, ValueError):
                raise ModelError(f"row {number}: {name!r} is no number: {str(value)[:40]!r}") from None
            except OverflowError:
                raise ModelError(f"row {number}: {name!r} is too large a number") from None
            if np.isinf(values[number, where[name]]):
                raise ModelError(f"row {number}: {name!r} is no finite number")
    return values


def sha256(file: Path) -> str:
    """Of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        for block in iter(lambda: data.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
