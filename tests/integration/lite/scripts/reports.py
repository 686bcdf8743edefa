"""All kinds of reports, read back by another session of the SDK."""

import io
import json

import numpy
import pandas
from clearml import Logger, Task

task = Task.init(
    "reports",
    "many kinds",
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
    auto_resource_monitoring=False,
)
logger = task.get_logger()
for epoch in range(30):
    logger.report_scalar("loss", "train", iteration=epoch, value=float(epoch))
    logger.report_scalar("loss", "test", iteration=epoch, value=float(-epoch))
logger.report_single_value("accuracy", 0.5)
logger.report_histogram("histogram", "bars", iteration=0, values=[1, 2, 3])
logger.report_table("table", "rows", iteration=0, table_plot=pandas.DataFrame({"a": [1]}))
logger.report_line_plot("lines", [{"name": "one", "data": [[0, 1], [1, 2]]}], "x", "y", iteration=0)
logger.report_scatter2d("scatter", "points", [[0, 1], [1, 2]], iteration=0)
logger.report_scatter3d("space", "points", [[0, 1, 2]], iteration=0)
logger.report_confusion_matrix("confusion", "test", numpy.eye(2), iteration=0)
logger.report_surface("surface", "test", numpy.eye(2), iteration=0)
for step in range(4):
    logger.report_confusion_matrix("steps", "matrix", numpy.eye(2) * step, iteration=step)
    logger.report_image("image", "square", iteration=step, image=numpy.full((4, 4, 3), step, dtype=numpy.uint8))
logger.report_media("media", "text", iteration=0, stream=io.StringIO("shown"), file_extension="txt")
logger.report_text("a line of the console", level=20)
Logger.current_logger().report_text("another line of the console")
task.flush(wait_for_uploads=True)
task.close()

again = Task.get_task(task_id=task.id)
loss = again.get_last_scalar_metrics()["loss"]
everything = again.get_all_reported_scalars()["loss"]["train"]
by_time = again.get_reported_scalars(x_axis="timestamp")["loss"]["train"]["x"]
console = "\n".join(again.get_reported_console_output(number_of_reports=100))
plots = again.get_reported_plots()
print(
    json.dumps(
        {
            "last": {name: loss["train"][name] for name in ("last", "min", "max")},
            "scalars": again.get_reported_scalars(max_samples=10)["loss"]["test"],
            "all": [everything["x"] == list(range(30)), everything["y"] == [float(value) for value in range(30)]],
            "by time": by_time == sorted(by_time) and by_time[0] > 1_600_000_000_000,
            "single": [again.get_reported_single_values(), again.get_reported_single_value("accuracy")],
            "plots": sorted({plot["metric"] for plot in plots}),
            "steps": sorted(
                plot["iter"] for plot in again.get_reported_plots(max_iterations=3) if plot["metric"] == "steps"
            ),
            "latest step": [plot["iter"] for plot in plots if plot["metric"] == "steps"],
            "drawn": all(json.loads(plot["plot_str"])["data"] for plot in plots),
            "images": [image["iter"] for image in again.get_debug_samples("image", "square")],
            "latest image": [
                image["iter"] for image in again.get_debug_samples("image", "square", n_last_iterations=1)
            ],
            "media": [sample["url"].rpartition(".")[2] for sample in again.get_debug_samples("media", "text")],
            "console": [text in console for text in ("a line of the console", "another line of the console")],
            "last iteration": again.get_last_iteration(),
        }
    )
)
