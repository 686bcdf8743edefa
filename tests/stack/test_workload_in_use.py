"""The inference service follows what is published, with a key of its own, and answers as the training host."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from provision import drain, hosts, inventory, status
from provision.credentials import ensure
from provision.smoke.models import published_copy, trained
from provision.smoke.problem import Broken, need
from provision.spec import AGENT_USER

pytestmark = [pytest.mark.hosts, pytest.mark.of("inference")]

CONF = "/etc/testbed/inference.conf"
NOTHING_YET = "no published model yet"
LOG = "`testbed logs inference` says why; `testbed up` starts it anew."
# of a network on two machines, and of probabilities that are rounded
LARGEST_DIFFERENCE = 1e-4
WAIT_S = 180
# asks the service on its own host: for its health, or again and again until another model than the one named answers
ASK = """
import json, sys, time, urllib.error, urllib.parse, urllib.request
given = json.loads(sys.argv[1])
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(path, body=None):
    query = "?" + urllib.parse.urlencode({"project": given["project"]}) if given.get("project") else ""
    data = json.dumps(body).encode() if body else None
    try:
        with direct.open(urllib.request.Request(given["url"] + path + query, data), timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError as error:
        return 0, {"error": str(error)}
if "rows" not in given:
    print(json.dumps(ask("/health")))
else:
    end, seen, found = time.monotonic() + given["seconds"], {}, {}
    while time.monotonic() < end:
        code, found = ask("/predict", {"rows": given["rows"]})
        model = (found.get("model") or {}).get("id")
        kind = "%s %s" % (code, model)
        seen[kind] = seen.get(kind, 0) + 1
        if code == 200 and model != given["unlike"]:
            break
        time.sleep(0.05)
    print(json.dumps([seen, found, ask("/health")[1].get("problem")]))
"""


@pytest.fixture(scope="module")
def ask(on, stack):
    """A function that asks the service of a host: for its health, or `rows` until not model `unlike` answers."""
    wanted = stack.testbed.inference
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(wanted.bind, wanted.bind)  # noqa: S104
    url = f"http://{f'[{address}]' if ':' in address else address}:{wanted.port}"

    def run(host: str, **given: object) -> list:
        done = on(host).run("/usr/bin/python3 -I -c %s %s", ASK, json.dumps({"url": url, **given}))
        need(
            done.rc == 0,
            f"{host}: the service at {url} cannot be asked: {' '.join(done.stderr.split())[-200:]}",
            expected=f"{host}: {url} answers",
            remedy=LOG,
        )
        return json.loads(done.stdout)

    return run


@pytest.mark.of("api", "inference")
def test_inference_key_logs_in(on, stack, inference_host, record_property):
    """The inference service has a key of its own, which logs in, and nobody else can read it."""
    file = on(inference_host).file(CONF)
    need(file.exists, f"{inference_host}: {CONF} is not there", remedy="Run `testbed up`, which writes it.")
    need(
        (file.user, file.mode) == ("clearml-inference", 0o600),
        f"{inference_host}: {CONF}: owner {file.user}, mode {file.mode:o}",
        expected=f"{CONF}: owner clearml-inference, mode 600",
        remedy="Run `testbed up`, which sets them right; who could read the file may have the key: "
        "`testbed credentials rotate --all`.",
    )
    key = ensure.parse_key(file.content_string)
    record_property("reference", key.access_key if key else "")
    theirs, url = stack.testbed.server.is_external, stack.testbed.server.url("api")
    need(
        key is not None and ensure.works(url, key, None if theirs else AGENT_USER),
        f"{inference_host}: {url} does not take the key in {CONF}",
        expected=f"the key in {CONF} logs in",
        remedy="Run `testbed up`, which issues another key and writes the file anew.",
    )


def test_inference_follows_the_server(ask, inference_host, record_property):
    """The inference service reaches the server, and its newest published model, if there is one, answers."""
    code, found = ask(inference_host)
    model, problem = found.get("model") or {}, found.get("problem") or found.get("error")
    record_property("reference", model.get("id", problem or ""))
    need(
        code == 200 and not problem or problem == NOTHING_YET,
        f"{inference_host}: {problem}",
        expected="it follows the newest published model of its project",
        remedy=LOG,
    )


@pytest.fixture(scope="module")
def published(on, stack, api, http, own_project, ask, tell_step):
    """Publish the model that was trained in this run, then a copy of it; what each service answered meanwhile."""
    services = inventory.hosts(stack.inventory, "inference")
    found = trained(api, http, own_project)
    if found is None:  # this check was asked for alone
        queue, user = stack.testbed.agents.prepared_queue, stack.testbed.users[0].name
        why = drain.nobody_takes(queue, status.workers(stack, api, status.away(stack)))
        need(not why, why, expected=f"a worker takes tasks from queue {queue}")
        client = on(inventory.hosts(stack.inventory, "clients")[0])
        venv = f"{client.user(user).home}/clearml-venv"
        done = hosts.run_as(
            client, user, f"{venv}/bin/testbed-workload", "chain", "--queue", queue, "--project", own_project
        )
        need(done.rc == 0, f"no model was trained: {done.stderr.strip()[-500:]}", expected="the chain completes")
        found = trained(api, http, own_project)
    if found is None:
        raise Broken("no task has registered a model and its answers", expected="the chain leaves a model")
    asked = {"project": own_project, "rows": found.rows, "seconds": WAIT_S}
    api.call("models.set_ready", model=found.model, force_publish_task=False, publish_task=False)
    tell_step(f"inference: model {found.model} is published")
    with ThreadPoolExecutor(len(services)) as pool:
        first = dict(zip(services, pool.map(lambda host: ask(host, **asked, unlike=None), services), strict=True))
        asking = {host: pool.submit(ask, host, **asked, unlike=found.model) for host in services}
        copy = published_copy(api, found.model)
        second = {host: each.result() for host, each in asking.items()}
    return found, copy, first, second


@pytest.mark.full
def test_inference_answers_as_the_training_host(published, inference_host, record_property):
    """The model that this run trained, once published, answers what it answered on the host that trained it."""
    found, _, first, _ = published
    seen, answer, problem = first[inference_host]
    need(
        "predictions" in answer and answer["model"]["id"] == found.model,
        f"{inference_host}: {WAIT_S} s after model {found.model} was published: {problem or answer}",
        expected=f"model {found.model} answers",
        remedy=LOG,
    )
    difference = _difference(answer["predictions"], found.predictions)
    record_property("reference", f"{found.model}: largest difference {difference:.1e}, {answer['milliseconds']} ms")
    need(
        difference <= LARGEST_DIFFERENCE,
        f"{inference_host}: its answers differ from the training host's by {difference:.1e}",
        expected=f"≤ {LARGEST_DIFFERENCE:.0e}",
        remedy="Both hosts need the same TensorFlow and Keras: `testbed up` makes their environments alike.",
    )


@pytest.mark.full
def test_inference_swaps_without_dropping_a_request(published, inference_host, record_property):
    """While a newer published model takes over, every question is answered, by the one or the other."""
    found, copy, _, second = published
    seen, answer, problem = second[inference_host]
    need(
        (answer.get("model") or {}).get("id") == copy,
        f"{inference_host}: {WAIT_S} s after model {copy} was published: {problem or answer}",
        expected=f"model {copy} takes over from {found.model}",
        remedy=LOG,
    )
    record_property("reference", f"{sum(seen.values())} questions")
    lost = {kind: count for kind, count in seen.items() if kind not in (f"200 {found.model}", f"200 {copy}")}
    need(not lost, f"{inference_host}: {lost} (HTTP status and model: how often)", expected="HTTP 200 each time")


def _difference(these: list[dict], those: list[dict]) -> float:
    """The largest between two lists of predictions; infinite where they are not of one form."""
    if len(these) != len(those):
        return math.inf
    found = 0.0
    for one, other in zip(these, those, strict=True):
        left, right = one.get("probabilities", one), other.get("probabilities", other)
        if left.keys() != right.keys():
            return math.inf
        found = max([found, *(abs(left[name] - right[name]) for name in left)])
    return found
