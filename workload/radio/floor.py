"""A synthetic measurement of path loss on a floor, in the shape of the testbed's published experiment.

Nothing here was measured. One transmitter, receivers all over an office floor: a log-distance model, so many dB for
each wall between, and shadowing that changes slowly with the place. Where nothing was received, path loss is NO_SIGNAL.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLUMNS = ("", "Rx#", "X(m)", "Y(m)", "Z(m)", "Distance (m)", "Path Loss (dB)")
INPUTS = ("X(m)", "Y(m)")
LOSS = "Path Loss (dB)"
NO_SIGNAL = 250.0  # dB, in place of a value
POINTS = 6700

SIZE = (60.0, 36.0)  # m
TRANSMITTER = (33.0, 17.0, 2.5)  # m
HEIGHT = 1.5  # m, of the receivers
# x, or y, of walls that cross the floor (m), and what each takes (dB)
WALLS_X = ((6.0, 4.0), (22.0, 6.0), (30.0, 4.0), (38.0, 6.0), (50.0, 5.0))
WALLS_Y = ((15.0, 5.0), (19.0, 5.0), (28.0, 4.0))
AT_1_M = 43.3  # dB, free space at 3.5 GHz
EXPONENT = 2.2
SHADOWING = 4.0  # dB
CORRELATION = 6.0  # m, over which shadowing stays about the same
NOISE = 1.0  # dB
LOST = 0.05  # share of places where nothing was received


def measure(points: int = POINTS, seed: int = 0) -> np.ndarray:
    """points x columns, as in COLUMNS; the same seed gives the same measurement."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SIZE[0], points), rng.uniform(0, SIZE[1], points)
    x, y = np.round(x, 2), np.round(y, 2)
    distance = np.sqrt((x - TRANSMITTER[0]) ** 2 + (y - TRANSMITTER[1]) ** 2 + (HEIGHT - TRANSMITTER[2]) ** 2)
    walls = sum(_between(x, TRANSMITTER[0], at) * loss for at, loss in WALLS_X)
    walls = walls + sum(_between(y, TRANSMITTER[1], at) * loss for at, loss in WALLS_Y)
    loss = AT_1_M + 10 * EXPONENT * np.log10(distance) + walls + _shadowing(x, y, rng) + rng.normal(0, NOISE, points)
    # Nothing is received where the loss is large, though not only there
    weakest = np.argsort(loss + rng.normal(0, 6, points))[points - round(LOST * points) :]
    loss[weakest] = NO_SIGNAL
    number = np.arange(points)
    return np.column_stack(
        [number, number + 1, x, y, np.full(points, HEIGHT), np.round(distance, 3), np.round(loss, 2)]
    )


def write(table: np.ndarray, file: Path) -> None:
    """As a CSV file in the experiment's form."""
    with file.open("w", encoding="utf-8") as out:
        print(*COLUMNS, sep=",", file=out)
        for row in table.tolist():
            print(int(row[0]), int(row[1]), *row[2:], sep=",", file=out)


def _between(values: np.ndarray, one: float, wall: float) -> np.ndarray:
    return ((values - wall) * (one - wall) < 0).astype(float)


def _shadowing(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal at the corners of a grid, and smooth between them (dB)."""
    across, along = (int(length // CORRELATION) + 2 for length in SIZE)
    knots = rng.normal(0, SHADOWING, (across, along))
    column, row = (x / CORRELATION).astype(int), (y / CORRELATION).astype(int)
    u, v = _smooth(x / CORRELATION - column), _smooth(y / CORRELATION - row)
    left = knots[column, row] * (1 - v) + knots[column, row + 1] * v
    right = knots[column + 1, row] * (1 - v) + knots[column + 1, row + 1] * v
    return np.asarray(left * (1 - u) + right * u)


def _smooth(share: np.ndarray) -> np.ndarray:
    return share * share * (3 - 2 * share)
