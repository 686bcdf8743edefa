"""The radio map on a real agent: the same steps, errors that beat the mean, and a model that is whole in itself."""

import json

import pytest

from tests.integration.workload.conftest import results, start

pytestmark = pytest.mark.long
STEPS = ["ingest", "prepare", "train", "evaluate", "consume"]


@pytest.fixture(scope="module")
def radio(conf, agent, tmp_path_factory):
    """Results of one run, by step."""
    home = tmp_path_factory.mktemp("home")
    process = start(home, "radio", f"--queue={agent}", "--timeout=1500", "--json-lines", conf=conf)
    return {result["step"]: result for result in results(process, timeout=1560)}


def test_every_step_completes_and_names_the_one_before_as_its_parent(radio, server):
    assert list(radio) == STEPS
    for before, step in zip(STEPS, STEPS[1:], strict=False):
        task = server.call("tasks.get_by_id", {"task": radio[step]["id"]})["task"]
        assert (task["status"], task["parent"]) == ("completed", radio[before]["id"])
    assert radio["ingest"]["details"]["rows"] == 6700


def test_what_was_not_received_is_left_out(radio):
    details = radio["prepare"]["details"]
    assert details["Rows without signal"] == 335
    assert details["Rows test"] == 6365 - round(0.7 * 6365)


def test_errors_are_reported_and_beat_the_mean_clearly(radio):
    details = radio["evaluate"]["details"]
    assert details["Test RMSE"] == pytest.approx(details["Test MSE"] ** 0.5, rel=1e-3)
    assert 0 < details["Test MAE"] < details["Test RMSE"] < 0.6 * details["Mean Predictor RMSE"]
    assert details["Mean Predictor RMSE"] == pytest.approx(0.14, abs=0.03)
    assert 1 < details["Test RMSE (dB)"] < 8
    assert radio["train"]["details"]["Training Time"] > 0
    assert radio["consume"]["details"]["Network RMSE"] == pytest.approx(details["Test RMSE"], abs=1e-4)


def test_the_map_is_drawn_measured_predicted_and_its_error(radio, server):
    plots = server.call("events.get_task_plots", {"task": radio["evaluate"]["id"]})["plots"]
    maps = {plot["variant"]: json.loads(plot["plot_str"]) for plot in plots if plot["metric"] == "Path loss map"}
    assert set(maps) == {"measured", "predicted", "error"}
    assert all(found["data"][0]["type"] == "heatmap" for found in maps.values())


def test_the_model_has_its_scalers_beside_it(radio, server, conf):
    (model,) = server.call("models.get_all", {"task": [radio["evaluate"]["id"]]})["models"]
    script = f"""
import json
from dataclasses import asdict
from workload.registered import fetch
print("CARD", json.dumps(asdict(fetch({model["id"]!r})[0])))
"""
    said = server.run_python(script, conf)
    card = json.loads(next(line for line in said.splitlines() if line.startswith("CARD "))[5:])
    assert card["kind"] == "regression"
    assert card["inputs"]["columns"] == ["X(m)", "Y(m)"]
    assert card["output"]["unit"] == "dB"
