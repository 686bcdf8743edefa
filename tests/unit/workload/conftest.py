"""The workload is a distribution of its own beside the project: put it on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "workload"))
