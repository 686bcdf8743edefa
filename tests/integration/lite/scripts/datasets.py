"""Versions of datasets: made, changed, synchronised, squashed, verified, described, moved, deleted."""

import json
import os
from pathlib import Path

import pandas
from clearml import Dataset, Task

folder = Path(os.environ["TESTS_FOLDER"], "measurements")
folder.mkdir()
seen = {}


def write(name, text):
    (folder / name).write_text(text)


def contents(path):
    return {each.name: each.read_text() for each in sorted(Path(path).iterdir()) if each.is_file()}


write("a.csv", "1\n")
write("b.csv", "2\n")
first = Dataset.create(dataset_name="kpi", dataset_project="sets/ran", dataset_tags=["raw"], description="by hand")
first.add_files(str(folder))
first.set_metadata(pandas.DataFrame({"cell": [1, 2]}), metadata_name="cells")
first.upload(show_progress=False)
first.get_logger().report_scalar("rows", "all", iteration=0, value=2)
first.finalize()

write("b.csv", "changed\n")
write("c.csv", "3\n")
second = Dataset.create(dataset_name="kpi", dataset_project="sets/ran", parent_datasets=[first.id])
second.add_files(str(folder))
second.remove_files("a.csv")
second.upload(show_progress=False)
second.finalize()

(folder / "c.csv").unlink()
(folder / "a.csv").unlink()
write("d.csv", "4\n")
third = Dataset.create(dataset_name="kpi", dataset_project="sets/ran", parent_datasets=[second.id])
seen["sync"] = third.sync_folder(str(folder))
third.upload(show_progress=False)
third.finalize()

latest = Dataset.get(dataset_name="kpi", dataset_project="sets/ran")
seen["latest"] = [latest.id == third.id, latest.version, latest.is_final(), latest.get_num_chunks()]
seen["graph"] = [latest.get_dependency_graph()[third.id] == [second.id], len(latest.get_dependency_graph())]
seen["changes"] = {
    "added": latest.list_added_files(),
    "removed": latest.list_removed_files(),
    "modified": latest.list_modified_files(),
    "files": latest.list_files(),
}
copy = latest.get_local_copy()
seen["copy"] = contents(copy)
seen["verified"] = latest.verify_dataset_hash(local_copy_path=copy)
own = latest.get_mutable_local_copy(str(Path(os.environ["TESTS_FOLDER"], "own")))
Path(own, "d.csv").write_text("spoilt\n")
seen["spoilt"] = latest.verify_dataset_hash(local_copy_path=own)
old = Dataset.get(dataset_name="kpi", dataset_project="sets/ran", dataset_version="1.0.0")
seen["old"] = [old.id == first.id, contents(old.get_local_copy()), old.tags, old.get_metadata("cells")["cell"].tolist()]
seen["tagged"] = Dataset.get(dataset_project="sets/ran", dataset_name="kpi", dataset_tags=["raw"]).id == first.id

squashed = Dataset.squash(dataset_name="squashed", dataset_ids=[first.id, second.id, third.id])
seen["squashed"] = contents(Dataset.get(dataset_id=squashed.id).get_local_copy())
links = Dataset.create(dataset_name="links", dataset_project="sets/ran")
(Path(os.environ["TESTS_FOLDER"]) / "outside.txt").write_text("outside")
links.add_external_files((Path(os.environ["TESTS_FOLDER"]) / "outside.txt").as_uri())
links.upload(show_progress=False)
links.finalize()
seen["links"] = [entry.link.rpartition("/")[2] for entry in Dataset.get(dataset_id=links.id).link_entries]

writable = Dataset.get(dataset_id=third.id, writable_copy=True)
seen["writable"] = writable.get_dependency_graph()[writable.id] == [third.id]
Dataset.delete(dataset_id=writable.id, force=True)
third.publish()
seen["published"] = Task.get_task(task_id=third.id).get_status()
Dataset.move_to_project(new_dataset_project="sets/moved", dataset_project="sets/ran", dataset_name="links")
Dataset.rename(new_dataset_name="renamed", dataset_project="sets/moved", dataset_name="links")
seen["moved"] = [entry["name"] for entry in Dataset.list_datasets(dataset_project="sets/moved")]
seen["renamed"] = Dataset.get(dataset_id=links.id).name
seen["listed"] = sorted(
    [entry["name"], entry["version"]]
    for entry in Dataset.list_datasets(dataset_project="sets/ran", only_completed=True)
)
Dataset.delete(dataset_project="sets/ran", dataset_name="kpi", dataset_version="1.0.0")  # it has children
seen["kept"] = Dataset.get(dataset_project="sets/ran", dataset_name="kpi", dataset_version="1.0.0").id == first.id
Dataset.delete(dataset_id=squashed.id)
Dataset.delete(dataset_project="sets/ran", dataset_name="kpi", entire_dataset=True, force=True)
seen["left"] = [entry["name"] for entry in Dataset.list_datasets()]
print(json.dumps(seen))
