"""What the SDK stored under one URL of the file server: read, added to and deleted when that has another URL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest

from provision import inventory, spec
from tests.integration.conftest import LiteServer, free_ports
from tests.integration.tls.nginx import NAME, Proxy, services_at

TEMPLATES = Path(__file__).parents[3] / "templates"
SERVICES = ("api", "web", "files")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="nginx gives up root, which it has to have first")

BEGIN = """
import json, os
from pathlib import Path
from clearml import Dataset, InputModel, OutputModel, StorageManager, Task
for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
    os.environ.pop(name, None)
folder = Path(os.environ["TESTS_FOLDER"])
kept = folder / "stored.json"
options = {"auto_connect_frameworks": False, "auto_resource_monitoring": False, "reuse_last_task_id": False}
"""
STORE = """
import numpy
for name in ("weights.bin", "cells.csv"):
    (folder / name).write_text(f"this is {name}")
task = Task.init("tls tests", "stored before", output_uri=True, **options)
task.upload_artifact("numbers", {"a": [1, 2, 3]}, wait_on_upload=True)
model = OutputModel(task=task, name="classifier", framework="Keras")
model.update_weights(str(folder / "weights.bin"), auto_delete_file=False, async_enable=False)
task.get_logger().report_image("image", "series", iteration=0, image=numpy.zeros((4, 4, 3), dtype="uint8"))
task.flush(wait_for_uploads=True)
task.close()
data = Dataset.create(dataset_name="cells", dataset_project="tls tests", use_current_task=False)
data.add_files(str(folder / "cells.csv"))
data.upload()
data.finalize()
kept.write_text(json.dumps({"task": task.id, "model": model.id, "dataset": data.id}))
print("URLS", json.dumps([task.artifacts["numbers"].url, model.url]))
"""
READ = """
ids = json.loads(kept.read_text())
task = Task.get_task(task_id=ids["task"])
[sample] = task.get_debug_samples("image", "series", n_last_iterations=1)
print("READ", json.dumps({
    "artifact": task.artifacts["numbers"].get(),
    "model": Path(InputModel(ids["model"]).get_weights(raise_on_error=True)).read_text(),
    "dataset": (Path(Dataset.get(dataset_id=ids["dataset"]).get_local_copy()) / "cells.csv").read_text(),
    "image": Path(StorageManager.get_local_copy(sample["url"])).stat().st_size > 0,
}))
"""
ADD = """
task = Task.init("tls tests", "says where it stores", output_uri=before, **options)
task.upload_artifact("later", {"b": 1}, wait_on_upload=True)
task.close()
(folder / "more.csv").write_text("this is more.csv")
child = Dataset.create(
    dataset_name="cells", dataset_project="tls tests", parent_datasets=[ids["dataset"]], use_current_task=False
)
child.add_files(str(folder / "more.csv"))
child.upload()
child.finalize()
copy = Path(Dataset.get(dataset_id=child.id).get_local_copy())
print("ADDED", json.dumps({
    "artifact": Task.get_task(task_id=task.id).artifacts["later"].get(),
    "files": sorted(path.name for path in copy.iterdir()),
}))
"""
DELETE = """
task = Task.get_task(task_id=ids["task"])
assert task.delete(delete_artifacts_and_models=True, raise_on_error=True)
Task.get_task(project_name="tls tests", task_name="says where it stores").delete(raise_on_error=True)
for dataset in Dataset.list_datasets(dataset_project="tls tests"):
    Dataset.delete(dataset_id=dataset["id"], force=True)
"""


class Place:
    """A clearml-lite and what is in front of it; `move` gives it other URLs, and its data stay."""

    def __init__(self, server: LiteServer, nginx: Path, render: Any, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._nginx, self._render = nginx, render
        self.ports = {name: server.config[f"{name}_port"] for name in SERVICES}
        self.behind = dict(zip(SERVICES, free_ports(3), strict=True))
        self.proxy: Proxy | None = None
        self.had: list[str] = []

    def move(self, *, tls: bool, host: str = NAME) -> None:
        """Have the server answer by https under `localhost`, or by http under `host`, on the same ports."""
        self.end()
        listens = self.behind if tls else self.ports
        said: dict[str, Any] = {"host": NAME if tls else host, "ports": self.ports}
        if tls:
            said["tls"] = {"upstream_ports": self.behind}
        self.spec = spec.Server.model_validate(said)
        self.urls = {name: self.spec.url(name) for name in SERVICES}
        self.server.config |= {f"{name}_port": port for name, port in listens.items()} | {"urls": self.urls}
        if tls:
            below = self.folder / str(len(self.had))
            below.mkdir()
            services = services_at([*self.ports.values()], self.behind)
            self.proxy = Proxy(below, self._nginx, self._render, services)
            self.proxy.start()
        self.server.start()
        self.had.append(self.urls["files"])
        shutil.rmtree(self.server.folder / ".clearml", ignore_errors=True)  # the SDK's cache

    def run(self, script: str, had: Sequence[str] = ()) -> str:
        """Run a script with a clearml.conf of the toolkit's, which knows of the URLs `had`; what it printed."""
        keys = self.server.call("auth.create_credentials", {"label": "sdk"})["credentials"]
        conf = {f"{name}_url": url for name, url in self.urls.items()} | keys
        conf["former_files_urls"] = inventory.former_files_urls(self.spec, had)
        if self.proxy:
            authority = self.folder / "ca.pem"
            authority.write_text(self.proxy.authority.certificate)
            conf["ca_file"] = str(authority)
        template = jinja2.Template((TEMPLATES / "clearml.conf.j2").read_text(), trim_blocks=True)
        path = self.folder / "clearml.conf"
        path.write_text(template.render(conf=conf))
        return self.server.run_python(f"{BEGIN}before = {self.had[0]!r}\n{script}", path)

    def files(self) -> list[str]:
        """The files that the file server keeps."""
        kept = Path(self.server.config["data_dir"]) / "files"
        return sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file())

    def end(self) -> None:
        if self.proxy is not None:
            self.proxy.stop()
            self.proxy = None
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.stop()


def said(output: str, word: str) -> Any:
    [line] = [line for line in output.splitlines() if line.startswith(f"{word} ")]
    return json.loads(line.removeprefix(f"{word} "))


@pytest.fixture
def place(make_server, nginx, render_role, tmp_path) -> Iterator[Place]:
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)  # nginx' workers look for their folder below it
    found = Place(make_server(), nginx, render_role, tmp_path)
    yield found
    found.end()


@pytest.mark.parametrize(
    ("before", "after", "is_known"),
    [
        ({"tls": False}, {"tls": True}, False),
        pytest.param({"tls": True}, {"tls": False}, False, marks=pytest.mark.long),
        pytest.param({"tls": False, "host": "127.0.0.1"}, {"tls": True}, True, marks=pytest.mark.long),
    ],
    ids=["TLS comes", "TLS goes", "TLS comes with another name"],
)
def test_what_is_stored_under_another_url_is_read_added_to_and_deleted(place, before, after, is_known):
    place.move(**before)
    first = place.urls["files"]
    had = [first] if is_known else []
    assert all(url.startswith(f"{first}/") for url in said(place.run(STORE), "URLS"))
    assert place.files()
    place.move(**after)
    output = place.run(READ + ADD + DELETE, had)
    assert said(output, "READ") == {
        "artifact": {"a": [1, 2, 3]},
        "model": "this is weights.bin",
        "dataset": "this is cells.csv",
        "image": True,
    }
    assert said(output, "ADDED") == {"artifact": {"b": 1}, "files": ["cells.csv", "more.csv"]}
    assert place.files() == []
