"""What turns rows of telemetry into a model's inputs, in training and in inference alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scaler:
    """x -> (x - center) / scale, column by column, after `fill` took the place of what is missing."""

    columns: list[str]
    fill: list[float]
    center: list[float]
    scale: list[float]

    def apply(self, table: Any) -> np.ndarray:
        """float32, rows x columns, ready for the model. table: a DataFrame, or anything that has these columns."""
        return self.scaled(np.column_stack([np.asarray(table[name], dtype="float64") for name in self.columns]))

    def rows(self, inputs: np.ndarray) -> list[dict[str, float]]:
        """Of a model's inputs, rows x columns: the values by name that `scaled` made them from."""
        values = np.asarray(inputs, dtype="float64") * self.scale + self.center
        return [dict(zip(self.columns, row)) for row in values.tolist()]

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Of rows x columns; NaN is what is missing."""
        values = np.where(np.isnan(values), self.fill, values)
        return np.asarray((values - self.center) / self.scale, dtype="float32")
