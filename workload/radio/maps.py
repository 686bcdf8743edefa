"""Values at places -> a grid that can be drawn."""

from __future__ import annotations

import numpy as np


def gridded(places: np.ndarray, values: np.ndarray, cell: float) -> tuple[list[float], list[float], list[list]]:
    """The middle of each column and row (m), and rows x columns: the mean of the values there, or None.

    places: points x 2, X and Y in m. cell: edge of a cell in m.
    """
    low = np.floor(places.min(axis=0) / cell)
    at = (np.floor(places / cell) - low).astype(int)
    columns, rows = at.max(axis=0) + 1
    number = at[:, 1] * columns + at[:, 0]
    counts = np.bincount(number, minlength=rows * columns)
    sums = np.bincount(number, weights=values, minlength=rows * columns)
    means = [round(total / count, 2) if count else None for total, count in zip(sums.tolist(), counts.tolist())]
    middles = [((np.arange(size) + start + 0.5) * cell).tolist() for size, start in ((columns, low[0]), (rows, low[1]))]
    return middles[0], middles[1], [means[row * columns : (row + 1) * columns] for row in range(rows)]
