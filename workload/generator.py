"""Synthetic RAN telemetry: KPIs per cell and UE, as a gNB would report them over O1. Nothing here was measured.

Each UE belongs to one slice, and the slice shows only in how KPIs move *together with the load of the cell*:

- eMBB is best effort: it takes the carrier when the cell is quiet, and is squeezed and delayed when the cell is busy;
- URLLC is prioritised: its share of the carrier grows with the load, and its latency stays low;
- mMTC takes a steady share, and its latency is long in quiet hours (sleep cycles), short in busy ones.

So no single KPI, and no weighted sum of them, tells the slices apart; their interplay with the load does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator

import numpy as np

MEASUREMENT = "randata"
TAGS = ("cell", "ue")
# The label sorts behind every field and tag, so that it is the last column of `SELECT *`
LABEL = "ue_slice"
SLICES = ("eMBB", "URLLC", "mMTC")

# Field -> (decimals; 0 writes an integer, description). Names of 3GPP TS 28.552 where it has one.
FIELDS = {
    "rsrp": (1, "SS-RSRP, dBm (TS 28.552 L1M.SS-RSRP)"),
    "rsrq": (1, "SS-RSRQ, dB"),
    "sinr": (1, "SS-SINR, dB"),
    "cqi": (0, "wideband CQI, 0 to 15 (CARR.WBCQIDist)"),
    "mcs": (0, "PDSCH MCS index, 0 to 28 (CARR.PDSCHMCSDist)"),
    "prb_used_dl": (1, "PRB use DL, % (RRU.PrbTotDl)"),
    "prb_used_ul": (1, "PRB use UL, % (RRU.PrbTotUl)"),
    "pdcp_bytes_dl": (0, "PDCP SDU volume DL in the reporting period, bytes (DRB.PdcpSduVolumeDL)"),
    "pdcp_bytes_ul": (0, "PDCP SDU volume UL in the reporting period, bytes (DRB.PdcpSduVolumeUL)"),
    "thp_dl": (2, "UE throughput DL, Mbit/s (DRB.UEThpDl)"),
    "thp_ul": (2, "UE throughput UL, Mbit/s (DRB.UEThpUl)"),
    "bler_dl": (2, "BLER DL, % (from TB.ErrTotalNbrDl, TB.TotNbrDl)"),
    "latency_dl": (2, "DL delay in the RAN, ms (DRB.RlcSduDelayDl, DRB.AirIfDelayDl)"),
    "connected_ues": (0, "RRC connected UEs of the cell (RRC.ConnMean)"),
}

DAY = 86400
TICKS_PER_CHUNK = 1440  # reporting periods worked out at once: bounds the memory
SESSION = 30  # reporting periods after which a UE's activity and radio position have changed
UES_PER_CELL = 12  # a multiple of the number of slices
MISSING = 0.02  # share of single values that a report lacks
OUTLIERS = 0.004  # share of reports with an implausible value


@dataclass(frozen=True)
class Reports:
    """A chunk of reports in order of time: one array element per report."""

    time: np.ndarray  # s since the epoch, int64
    cell: np.ndarray
    ue: np.ndarray
    fields: dict[str, np.ndarray]  # float64; NaN where the report lacks the value
    label: np.ndarray  # 0, 1, 2: index into SLICES

    def __len__(self) -> int:
        return len(self.time)


def generate(start: int, end: int, points: int, seed: int, period: int = 60, first_ue: int = 0) -> Iterator[Reports]:
    """Yield exactly `points` reports of times in (start, end], in order of time; the same arguments give the same ones.

    start, end: s since the epoch; period: reporting period, 1 to 60 s; first_ue: number of the first UE.
    Raises ValueError when the period or the range cannot be.
    """
    if not 1 <= period <= 60:
        raise ValueError(f"reporting period {period} s: must be 1 to 60 s")
    first, last = start // period + 1, end // period
    ticks = last - first + 1
    if ticks < 1 or points < 0:
        raise ValueError(f"no reporting period of {period} s between {start} and {end}")
    cells = max(3, math.ceil(points / ticks / 4))  # with UES_PER_CELL: a UE is connected a third of the time at most
    done = 0
    for low in range(first, last + 1, TICKS_PER_CHUNK):
        high = min(low + TICKS_PER_CHUNK, last + 1)
        due = points * (high - first) // ticks - done
        done += due
        if due:
            yield _chunk(np.arange(low, high), due, cells, seed, period, first_ue)


def _chunk(ticks: np.ndarray, due: int, cells: int, seed: int, period: int, first_ue: int) -> Reports:
    rng = np.random.default_rng((seed, first_ue, int(ticks[0])))
    traits = np.random.default_rng((seed, first_ue))  # what stays from chunk to chunk
    ues = cells * UES_PER_CELL
    ue_cell = np.arange(ues) // UES_PER_CELL
    ue_label = np.arange(ues) % len(SLICES)
    cell_phase = traits.uniform(0, 1, cells)
    n = len(ticks)

    load = _load(ticks * period, cell_phase, rng)  # cells x ticks
    position = _wander(n, ues, rng)  # ues x ticks, about N(0, 1)
    activity = _wander(n, ues, rng) + rng.normal(0, 0.5, (ues, n))
    outage = (rng.uniform(size=cells) < 0.1)[:, None] & (np.arange(n) // (2 * SESSION) == rng.integers(n))
    activity[outage[ue_cell]] -= 100  # a cell that is down reports nothing
    chosen = np.argpartition(-activity, due - 1, axis=None)[:due]
    ue, tick = np.unravel_index(chosen, activity.shape)
    order = np.lexsort((ue, tick))
    ue, tick = ue[order], tick[order]

    cell, label = ue_cell[ue], ue_label[ue]
    fields = _kpis(load[cell, tick], position[ue, tick], label, period, rng)
    return Reports(ticks[tick] * period, cell, ue + first_ue, fields, label)


def _load(seconds: np.ndarray, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Load of each cell, 0 to 1: quiet and busy hours by a daily cycle that each cell has at its own time."""
    daily = np.sin(2 * np.pi * (seconds[None, :] / DAY + phase[:, None]))
    return 1 / (1 + np.exp(-4 * (1.6 * daily + 0.4 * _wander(len(seconds), len(phase), rng))))


def _wander(n: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Slow random movement: rows x n, normal at knots SESSION apart and straight between them."""
    knots = rng.normal(size=(rows, n // SESSION + 2))
    at = np.arange(n) / SESSION
    low = at.astype(int)
    return knots[:, low] * (1 - (at - low)) + knots[:, low + 1] * (at - low)


def _kpis(
    load: np.ndarray, position: np.ndarray, label: np.ndarray, period: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    n = len(load)

    def noise(sigma: float) -> np.ndarray:
        return rng.normal(0, sigma, n)

    rsrp = -95 + 11 * position + noise(2)
    sinr = 11 + 7 * position - 5 * load + noise(2)
    rsrq = np.clip(-10.5 + 2 * position - 3 * load + noise(0.7), -20, -3)
    cqi = np.clip(np.round(0.45 * sinr + 4 + noise(0.7)), 1, 15)
    mcs = np.clip(np.round(1.8 * cqi + noise(1.2)), 0, 28)

    share = np.choose(label, (72 - 54 * load, 18 + 54 * load, 45 + 0 * load))
    prb_dl = np.clip(share + noise(7), 0.5, 100)
    prb_ul = np.clip(0.5 * share + 12 + noise(9), 0.5, 100)
    delay = np.choose(label, (6 + 30 * load, 9 + 3 * load, 36 - 30 * load))
    latency = delay * np.exp(noise(0.25))

    efficiency = 0.15 + 0.35 * cqi  # bit/s/Hz
    thp_dl = prb_dl / 100 * 40 * efficiency * np.exp(noise(0.3))  # 40 MHz carrier
    thp_ul = prb_ul / 100 * 20 * efficiency * np.exp(noise(0.3))
    fields = {
        "rsrp": rsrp,
        "rsrq": rsrq,
        "sinr": sinr,
        "cqi": cqi,
        "mcs": mcs,
        "prb_used_dl": prb_dl,
        "prb_used_ul": prb_ul,
        "pdcp_bytes_dl": np.round(thp_dl * 1e6 / 8 * period * rng.uniform(0.7, 1, n)),
        "pdcp_bytes_ul": np.round(thp_ul * 1e6 / 8 * period * rng.uniform(0.7, 1, n)),
        "thp_dl": thp_dl,
        "thp_ul": thp_ul,
        "bler_dl": np.clip(8 - 0.3 * sinr + noise(2), 0, 100),
        "latency_dl": latency,
        "connected_ues": np.maximum(1, np.round(6 + 70 * load + noise(3))),
    }
    odd = rng.uniform(size=n) < OUTLIERS
    fields["latency_dl"][odd] *= 30  # a stuck timer
    odd = rng.uniform(size=n) < OUTLIERS
    fields["rsrp"][odd] = -156  # the lowest value that can be reported
    odd = rng.uniform(size=n) < OUTLIERS
    for name in ("pdcp_bytes_dl", "thp_dl"):
        fields[name][odd] *= 20  # a counter that was not reset
    for values in fields.values():
        values[rng.uniform(size=n) < MISSING] = np.nan
    return fields
