"""events.*: plots and debug images: the latest, those before them, one sample after the other."""

from typing import Any

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.encoding import decode
from clearml_lite.errors import validation_error
from clearml_lite.query import new_scroll_id, scroll_offset
from clearml_lite.services.entities import require
from clearml_lite.services.event_batch import IMAGE, PLOT
from clearml_lite.services.event_queries import collection, of_metrics, of_type, owner, scroll_id, scroll_state, select
from clearml_lite.storage import Document, Transaction


@endpoint("events.debug_images")
def debug_images(call: Call) -> Document:
    """Debug images of the last `iters` iterations of the metrics asked for; with the scroll ID those before."""
    return _by_iterations(call, IMAGE)


@endpoint("events.plots")
def plots(call: Call) -> Document:
    """Plots of the last `iters` iterations of the metrics asked for; with the scroll ID those before."""
    return _by_iterations(call, PLOT)


@endpoint("events.get_task_plots")
def get_task_plots(call: Call) -> Document:
    """The plots of the last `iters` iterations of every metric and variant, all in the first answer of a scroll."""
    task = owner(call, call.data["task"])
    found = _plots(call, [task], call.data.get("metrics") or [])
    return {"plots": found} | _scrolled(call, found)


@endpoint("events.get_multi_task_plots")
def get_multi_task_plots(call: Call) -> Document:
    """The plots of the last `iters` iterations of several tasks: by metric, variant, task and iteration."""
    names = {task: require(call, collection(call), task)["name"] for task in call.data["tasks"]}
    found = _plots(call, list(names), [])
    by_metric: Document = {}
    for plot in found:
        by_task = by_metric.setdefault(plot["metric"], {}).setdefault(plot["variant"], {})
        by_iteration = by_task.setdefault(plot["task"], {})
        name = names[plot["task"]]
        by_iteration.setdefault(str(plot.get("iter") or 0), {"name": name, "plots": []})["plots"].append(plot)
    return {"plots": by_metric} | _scrolled(call, found)


@endpoint("events.get_debug_image_sample")
def get_debug_image_sample(call: Call) -> Document:
    """A debug image of a metric and variant, of the last iteration or of the one asked for."""
    return _image_answer(call, _sample(call, IMAGE), _wanted(call))


@endpoint("events.next_debug_image_sample")
def next_debug_image_sample(call: Call) -> Document:
    """The debug image before or after the one that the scroll ID stands for."""
    state = _known(call)
    return _image_answer(call, _neighbour(call, IMAGE, state, ("metric", "variant")), state)


@endpoint("events.get_plot_sample")
def get_plot_sample(call: Call) -> Document:
    """The plots of a metric, of the last iteration or of the one asked for."""
    return _plot_answer(call, _sample(call, PLOT), _wanted(call))


@endpoint("events.next_plot_sample")
def next_plot_sample(call: Call) -> Document:
    """The plots before or after those that the scroll ID stands for."""
    state = _known(call)
    return _plot_answer(call, _neighbour(call, PLOT, state, ("metric",)), state)


def _plots(call: Call, tasks: list[str], items: list[Document]) -> list[Document]:
    if scroll_offset(call.data.get("scroll_id")):
        return []
    count = call.data.get("iters") or 1
    most = call.data.get("most")  # the pages show no more; the SDK does not know it
    if most is not None and not (isinstance(most, int) and most > 0):
        raise validation_error("most", "must be a positive number")
    return [plot for task in tasks for plot in _last_iterations(call.transaction, task, count, items, most)]


def _scrolled(call: Call, found: list[Document]) -> Document:
    scroll = None if call.data.get("no_scroll") else new_scroll_id(max(len(found), 1))
    return {"returned": len(found), "total": len(found), "scroll_id": scroll}


def _last_iterations(
    transaction: Transaction, task: str, count: int, items: list[Document], most: int | None
) -> list[Document]:
    """Plots of the last `count` iterations of each metric and variant: the first of them where there is a limit."""
    condition, params = of_type(task, PLOT)
    wanted, names = of_metrics(items)
    rows = transaction.execute(
        f"""SELECT doc FROM (
                SELECT doc, metric, variant, iter,
                    dense_rank() OVER (PARTITION BY metric, variant ORDER BY iter DESC) AS age
                FROM events WHERE {condition} AND ({wanted}))
            WHERE age <= ? ORDER BY metric, variant, iter DESC LIMIT ?""",  # noqa: S608
        (*params, *names, count, -1 if most is None else most),
    )
    return [decode(row[0]) for row in rows]


def _by_iterations(call: Call, kind: str) -> Document:
    """Events grouped by task and iteration, page by page in either direction.

    The scroll ID holds the first and last iteration that were shown of each task.
    """
    items: dict[str, list[Document]] = {}
    for item in call.data["metrics"]:
        items.setdefault(owner(call, item["task"]), []).append(item)
    shown = scroll_state(call)
    earlier = call.data.get("navigate_earlier", True)
    metrics = []
    for task, of_task in items.items():
        condition, params = of_type(task, kind)
        wanted, names = of_metrics(of_task)
        condition, params = f"{condition} AND ({wanted})", (*params, *names)
        numbers = _iterations(call, condition, params, shown.get(task), earlier)
        if numbers:
            shown[task] = [min(numbers), max(numbers)]
        iterations = [
            {
                "iter": number,
                "events": select(
                    call.transaction, f"{condition} AND coalesce(iter, 0) = ?", (*params, number), "metric, variant, id"
                ),
            }
            for number in numbers
        ]
        metrics.append({"task": task, "iterations": iterations})
    return {"metrics": metrics, "scroll_id": scroll_id(shown)}


def _iterations(call: Call, condition: str, params: tuple[Any, ...], shown: Any, earlier: bool) -> list[int]:
    """The next iterations to show, in the order in which they are shown."""
    if shown is not None and not _is_range(shown):
        raise validation_error("scroll_id", "was not given by this server")
    beyond = ""
    if shown:
        beyond = f"AND coalesce(iter, 0) {'<' if earlier else '>'} {int(shown[0] if earlier else shown[1])}"
    rows = call.transaction.execute(
        f"""SELECT DISTINCT coalesce(iter, 0) AS number FROM events WHERE {condition} {beyond}
            ORDER BY number {"DESC" if earlier else "ASC"} LIMIT ?""",  # noqa: S608
        (*params, max(call.data.get("iters") or 1, 1)),
    )
    return [row[0] for row in rows]


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)


def _wanted(call: Call) -> Document:
    """The state of a walk that begins at what the request names."""
    return {"within": [call.data["metric"]] if call.data.get("navigate_current_metric", True) else []}


def _known(call: Call) -> Document:
    """The state of a walk that goes on.

    Raises:
        ApiError: 400/12 when the scroll ID is not that of a sample.
    """
    state = scroll_state(call)
    position, within = state.get("at"), state.get("within")
    if not (isinstance(within, list) and isinstance(position, list) and position and isinstance(position[0], int)):
        raise validation_error("scroll_id", "is not that of a sample")
    if not all(isinstance(name, str) for name in [*within, *position[1:]]):
        raise validation_error("scroll_id", "is not that of a sample")
    return state


def _sample(call: Call, kind: str) -> list[Any] | None:
    """Where the sample is that the request names: iteration and metric, for an image the variant, too."""
    names = ("metric", "variant") if kind == IMAGE else ("metric",)
    condition, params = of_type(owner(call, call.data["task"]), kind)
    condition += "".join(f" AND {name} = ?" for name in names)
    params = (*params, *(call.data[name] for name in names))
    if (iteration := call.data.get("iteration")) is not None:
        condition, params = f"{condition} AND coalesce(iter, 0) = ?", (*params, iteration)
    row = call.transaction.execute(
        f"SELECT max(coalesce(iter, 0)) FROM events WHERE {condition}",  # noqa: S608
        params,
    ).fetchone()
    return None if row[0] is None else [row[0], *(call.data[name] for name in names)]


def _neighbour(call: Call, kind: str, state: Document, names: tuple[str, ...]) -> list[Any] | None:
    """Where the sample before or after the present one is."""
    earlier = call.data.get("navigate_earlier", True)
    sign, direction = ("<", "DESC") if earlier else (">", "ASC")
    columns = ("coalesce(iter, 0)", *names)
    at = state["at"]
    if len(at) != len(columns):
        raise validation_error("scroll_id", "is that of another kind of sample")
    condition, params = of_type(owner(call, call.data["task"]), kind)
    condition += " AND metric = ?" if state["within"] else ""
    params = (*params, *state["within"][:1])
    if call.data.get("next_iteration"):
        condition, params = f"{condition} AND coalesce(iter, 0) {sign} ?", (*params, at[0])
    else:
        condition = f"{condition} AND ({', '.join(columns)}) {sign} ({', '.join('?' * len(columns))})"
        params = (*params, *at)
    order = ", ".join(f"{column} {direction}" for column in columns)
    row = call.transaction.execute(
        f"SELECT {', '.join(columns)} FROM events WHERE {condition} ORDER BY {order} LIMIT 1",  # noqa: S608
        params,
    ).fetchone()
    return list(row) if row else None


def _image_answer(call: Call, found: list[Any] | None, state: Document) -> Document:
    events, answer = _sample_answer(call, IMAGE, found, state, ("metric", "variant"))
    return {"event": events[-1] if events else None} | answer


def _plot_answer(call: Call, found: list[Any] | None, state: Document) -> Document:
    events, answer = _sample_answer(call, PLOT, found, state, ("metric",))
    return {"events": events} | answer


def _sample_answer(
    call: Call, kind: str, found: list[Any] | None, state: Document, names: tuple[str, ...]
) -> tuple[list[Document], Document]:
    """The events of a sample, with the range of iterations there are and the scroll ID for its neighbours."""
    if found is None:
        return [], {"min_iteration": None, "max_iteration": None, "scroll_id": call.data.get("scroll_id")}
    condition, params = of_type(call.data["task"], kind)
    condition += "".join(f" AND {name} = ?" for name in names)
    params = (*params, *found[1:])
    low, high = call.transaction.execute(
        f"SELECT min(coalesce(iter, 0)), max(coalesce(iter, 0)) FROM events WHERE {condition}",  # noqa: S608
        params,
    ).fetchone()
    events = select(call.transaction, f"{condition} AND coalesce(iter, 0) = ?", (*params, found[0]), "variant, id")
    scroll = scroll_id({"at": found, "within": state["within"]})
    return events, {"min_iteration": low, "max_iteration": high, "scroll_id": scroll}
