"""The whole chain, on a real agent: every step completes, and the server has what each of them promises."""

import hashlib
import json
import time
from importlib.metadata import version

import httpx
import pytest

from tests.integration.workload.conftest import refusal, results, start

STEPS = ["ingest", "prepare", "train", "evaluate", "consume"]


@pytest.fixture(scope="module")
def chain(influx, filled, conf, agent, tmp_path_factory):
    """Results of one run, by step."""
    home = tmp_path_factory.mktemp("home")
    influx.env_file(home, INFLUXDB_MEASUREMENT=filled)
    process = start(home, "chain", f"--queue={agent}", "--timeout=1800", "--json-lines", conf=conf)
    return {result["step"]: result for result in results(process, timeout=1860)}


@pytest.fixture
def task(chain, server):
    """The server's record of a step's task."""
    return lambda step: server.call("tasks.get_by_id", {"task": chain[step]["id"]})["task"]


def sha256(server, url):
    answer = httpx.get(url, headers={"Authorization": f"Bearer {server.token()}"})
    assert answer.status_code == 200, url
    return hashlib.sha256(answer.content).hexdigest()


def test_every_step_completes_and_names_the_one_before_as_its_parent(chain, task, server):
    assert list(chain) == STEPS
    for before, step in zip(STEPS, STEPS[1:], strict=False):
        assert (task(step)["status"], task(step)["parent"]) == ("completed", chain[before]["id"])
        assert chain[step]["url"].startswith(server.urls["web"])


def test_prepare_stores_the_scaler_and_shows_the_data(chain, task, server):
    rows = chain["ingest"]["details"]["rows"]
    first, second = int(0.7 * rows), int(0.85 * rows)
    expected = {"Rows train": first, "Rows validation": second - first, "Rows test": rows - second}
    assert chain["prepare"]["details"] == expected
    assert {artifact["key"] for artifact in task("prepare")["execution"]["artifacts"]} == {"prepared", "scaler"}
    plots = server.call("events.get_task_plots", {"task": chain["prepare"]["id"]})["plots"]
    assert ("Dataset", "describe") in {(plot["metric"], plot["variant"]) for plot in plots}


def test_training_reports_every_epoch_and_its_curves(chain, server):
    epochs = chain["train"]["details"]["Epochs"]
    scalars = server.call("events.scalar_metrics_iter_histogram", {"task": chain["train"]["id"]})
    for metric in ("loss", "accuracy"):
        for part in ("train", "validation"):
            assert scalars[metric][part]["x"] == list(range(int(epochs)))
    plots = server.call("events.get_task_plots", {"task": chain["train"]["id"]})["plots"]
    assert {plot["metric"] for plot in plots} >= {"loss curve", "accuracy curve"}


def test_the_evaluated_model_is_an_artifact_and_a_registered_model_of_the_same_bytes(chain, task, server):
    details = chain["evaluate"]["details"]
    assert details["Test Accuracy"] > 0.85
    assert details["Test Loss"] < 0.5
    plots = server.call("events.get_task_plots", {"task": chain["evaluate"]["id"]})["plots"]
    assert "Confusion matrix" in {plot["metric"] for plot in plots}
    artifacts = {artifact["key"]: artifact for artifact in task("evaluate")["execution"]["artifacts"]}
    assert artifacts["Trained Model"]["uri"].endswith("trained_model.keras")
    (model,) = server.call("models.get_all", {"task": [chain["evaluate"]["id"]]})["models"]
    assert model["labels"] == {"eMBB": 0, "URLLC": 1, "mMTC": 2}
    expected = artifacts["Trained Model"]["hash"]
    assert sha256(server, artifacts["Trained Model"]["uri"]) == sha256(server, model["uri"]) == expected


@pytest.mark.parametrize("step", ["prepare", "train", "evaluate"])
def test_artifacts_are_what_their_hashes_say(task, server, step):
    for artifact in task(step)["execution"]["artifacts"]:
        assert sha256(server, artifact["uri"]) == artifact["hash"]


def test_the_model_from_the_server_predicts_as_recorded_and_beats_a_linear_model(chain):
    details = chain["consume"]["details"]
    assert details["Largest Difference"] < 1e-5
    assert details["Network Accuracy"] == pytest.approx(chain["evaluate"]["details"]["Test Accuracy"], abs=1e-4)
    assert details["Linear Accuracy"] < 0.75 < details["Network Accuracy"]


def test_a_clone_runs_with_the_values_that_were_changed(chain, server, agent):
    clone = server.call("tasks.clone", {"task": chain["prepare"]["id"], "new_task_name": "clone"})["id"]
    changed = {"section": "General", "name": "fill_strategy", "value": "guess", "type": "str"}
    server.call("tasks.edit_hyper_params", {"task": clone, "hyperparams": [changed]})
    queue = server.call("queues.get_all", {"name": f"^{agent}$"})["queues"][0]["id"]
    server.call("tasks.enqueue", {"task": clone, "queue": queue})
    status = server.wait_for_end(clone, 600)["status"]
    assert status == "failed"
    log = server.wait_for_log(clone, "unknown fill strategy 'guess': one of mean, median, zero, ffill, bfill")
    assert "Traceback" not in log


@pytest.mark.long
def test_a_step_that_fails_on_an_agent_says_why_in_one_line(influx, conf, agent, tmp_path):
    now = int(time.time())
    influx.client("plain").write(f"plain,ue=ue-1 a={number} {now - number}" for number in range(100))
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="plain")
    process = start(tmp_path, "chain", f"--queue={agent}", "--dataset=plain", "--json-lines", conf=conf)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1
    ingest, prepare = map(json.loads, out.splitlines())
    assert (ingest["status"], prepare["status"]) == ("completed", "failed")
    assert prepare["details"] == {"reason": "no column 'ue_slice' in the dataset: set `label` to one of time, a, ue"}
    assert prepare["details"]["reason"] in err
    assert "Traceback" not in err


def test_a_probe_runs_with_the_package_that_it_asks_for(agent, conf, workload):
    command = ("probe", f"--queue={agent}", f"--package=requests=={version('requests')}", "--json")
    (result,) = results(workload(*command, conf=conf))
    assert (result["step"], result["status"]) == ("probe", "completed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chain", "--queue=nowhere"), "no queue 'nowhere'"),
        (("probe", "--queue=nowhere", "--package=a==1"), "no queue 'nowhere'"),
        (("probe", "--package=a"), "expected NAME==VERSION"),
    ],
)
def test_what_cannot_run_is_one_line(influx, filled, conf, workload, tmp_path, arguments, message):
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    assert message in refusal(workload(*arguments, conf=conf))
