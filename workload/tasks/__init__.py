"""Where the steps were before: tasks that the server has from then, and their clones, import them from here."""

from workload import consume, evaluate, prepare, train

__all__ = ["consume", "evaluate", "prepare", "train"]
