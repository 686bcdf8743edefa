"""What every step begins with: its ClearML task, and its hyper-parameters.

A step is a module with a `main`. An agent runs it as a task, and a person as `python -m workload.prepare --help`.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from workload.errors import StepError, WorkloadError

# No screen on a host, whatever the user's shell says; and TensorFlow's start-up notes are not news
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

PROJECT = "rapp_examples"
DEBUG = "debug"
FAILED = "error"  # reason of the status of a task that has said in its message why it failed


def start(name: str, kind: str, parameters: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The ClearML task, and its hyper-parameters: what was set on the task goes before the defaults given here.

    Where a person runs the step, options of the command line go before the defaults, and with --queue the process ends
    here and an agent goes on. Raises StepError for a parameter that has no default and was not set, ServerError.
    """
    from clearml import Task

    parameters = {**parameters, DEBUG: 0}
    alone = Task.running_locally()
    options = _options(sys.argv[1:] if alone else [], name, parameters)
    if alone:
        from workload.server import login, need_queue

        if options["queue"]:
            need_queue(options["queue"])  # before a task is made, which nobody would take
        else:
            login()
        Task.force_store_standalone_script()  # the same task, from a checkout as from an installed package
    task = Task.init(
        project_name=options.pop("project"),
        task_name=options.pop("task_name"),
        task_type=kind,
        reuse_last_task_id=False,
        output_uri=True,
        auto_connect_frameworks=False,  # what is reported is reported on purpose, once
        auto_connect_arg_parser=False,
        auto_resource_monitoring=False,
    )
    queue = options.pop("queue")
    found = dict(task.connect({key: options[key] for key in parameters}))
    found.pop(DEBUG)
    unset = [key for key, default in parameters.items() if default == "" and not found[key]]
    if unset:
        raise StepError(
            f"{', '.join(unset)} not set: give {', '.join(map(_option, unset))}, or set it in the task's"
            " hyper-parameters"
        )
    if queue:
        task.execute_remotely(queue_name=queue)
    return task, found


def run(main: Callable[[], None]) -> None:
    """Run a step as a command: what the user can mend is one line, and the task fails with it.

    With the hyper-parameter `debug` (1), the traceback stands above it.
    """
    try:
        main()
    except WorkloadError as error:
        _fail(str(error))
    except ImportError as error:
        _fail(
            f"{error.name or error} is not installed here: install what the step needs (clearml, pandas, scikit-learn,"
            " tensorflow-cpu), or give --queue with a queue whose agents have it"
        )


def _fail(words: str) -> None:
    sdk = sys.modules.get("clearml")  # without it there is no task
    task = sdk.Task.current_task() if sdk else None
    if task:
        if task.get_parameter(f"General/{DEBUG}", "0") != "0":
            traceback.print_exc()
        task.close()  # first: what the SDK does at the end of a process makes the task `completed`
        task.mark_failed(ignore_errors=True, status_reason=FAILED, status_message=words[:1000], force=True)
    print(f"{Path(sys.argv[0]).name}: {words}", file=sys.stderr)
    raise SystemExit(1) from None


def dataset(dataset_id: str, alias: str) -> Path:
    """Folder with a local copy of a dataset. Raises StepError when there is none."""
    from clearml import Dataset

    try:
        return Path(Dataset.get(dataset_id=dataset_id, alias=alias).get_local_copy())
    except Exception as error:  # the SDK raises ValueError, and what its storage raises
        raise StepError(
            f"cannot get dataset {dataset_id!r} ({_words(error)}): check its ID, and the file server"
        ) from error


def registered_model(task_id: str) -> str:
    """ID of the model that another task registered last. Raises StepError when there is none."""
    models = _other(task_id).models["output"]
    if not models:
        raise StepError(f"task {task_id} has registered no model: give the ID of an evaluate task that is completed")
    return str(models[-1].id)


def artifact(task_id: str, name: str) -> str:
    """Path of a local copy of another task's artifact. Raises StepError when there is none."""
    artifacts = _other(task_id).artifacts
    if name not in artifacts:
        raise StepError(
            f"task {task_id} has no artifact {name!r} (it has: {', '.join(artifacts) or 'none'}): check its ID"
        )
    return str(artifacts[name].get_local_copy(raise_on_error=True))


def _other(task_id: str) -> Any:
    from clearml import Task

    try:
        found = Task.get_task(task_id=task_id)
    except Exception as error:  # the SDK raises ValueError, and what the connection raises
        raise StepError(
            f"there is no task {task_id!r} that this user may read ({_words(error)}): check its ID"
        ) from error
    if found is None:
        raise StepError(f"there is no task {task_id!r} that this user may read: check its ID")
    return found


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def reproducible(seed: int) -> None:
    """Make Keras give the same numbers each time on one machine. Call it before anything else of TensorFlow's."""
    import tensorflow as tf
    from tensorflow import keras

    # The layers are so small that sharing the work between threads costs more than it gives
    tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _options(arguments: Sequence[str], name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    module = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        description=module.__doc__ if arguments else None, epilog="Each option is a hyper-parameter of the task."
    )
    parser.add_argument("--project", default=PROJECT, help="ClearML project (default: %(default)s)")
    parser.add_argument("--task-name", default=name, help="default: %(default)s")
    parser.add_argument("--queue", help="let an agent of this queue run it (default: here)")
    for key, default in parameters.items():
        shown = "must be given" if default == "" else "default: %(default)s"
        parser.add_argument(_option(key), dest=key, default=default, type=_reader(default), metavar="VALUE", help=shown)
    return vars(parser.parse_args(arguments))


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _reader(default: Any) -> Callable[[str], Any]:
    """From an option's text to a value of the default's type; a list as A,B or ['A', 'B']."""
    if isinstance(default, list):
        item = type(default[0]) if default else str

        def values(text: str) -> list[Any]:
            if text.startswith("["):
                try:
                    return [item(value) for value in ast.literal_eval(text)]
                except SyntaxError as error:
                    raise argparse.ArgumentTypeError(f"{text!r}: expected A,B or [A, B]") from error
            return [item(part.strip()) for part in text.split(",") if part.strip()]

        return values
    return type(default)
