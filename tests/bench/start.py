"""How long the command takes to start, beside the Python that it runs on: medians, and the ratio to `python -c pass`.

Run it in a checkout: `.venv/bin/python -P tests/bench/start.py`. Rounds take turns, so that a busy machine slows all.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 20
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "testbed version": [sys.executable, "-P", "-m", "provision", "version"],
    "./testbed version": [str(ROOT / "testbed"), "version"],
    "./testbed --help": [str(ROOT / "testbed"), "--help"],
}


def main() -> None:
    """Measure and print."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - began)
    least = statistics.median(seconds["python -c pass"])
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:<20} {median * 1000:6.0f} ms   {median / least:5.1f}")


if __name__ == "__main__":
    main()
