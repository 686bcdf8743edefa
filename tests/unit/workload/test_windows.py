"""Windows: together they are all of the time asked for, and their bounds stay where they are."""

import random

import pytest
from workload.windows import DAY, ROWS, SECOND, cut, grain, missing


@pytest.mark.parametrize(
    ("covered", "gaps"),
    [
        ([], [(10, 20)]),
        ([(0, 30)], []),
        ([(10, 20)], []),
        ([(0, 5), (25, 30)], [(10, 20)]),
        ([(15, 17), (8, 12)], [(12, 15), (17, 20)]),
        ([(12, 15), (13, 14)], [(10, 12), (15, 20)]),
        ([(20, 30)], [(10, 20)]),
    ],
)
def test_what_is_missing_is_what_is_not_covered(covered, gaps):
    assert missing(10, 20, covered) == gaps


def counts(start, end, narrow, each):
    return dict.fromkeys(range(start - start % narrow, end, narrow), {"a": each, "b": each // 2})


@pytest.mark.parametrize("seed", range(20))
def test_windows_follow_each_other_and_count_every_point(seed):
    chance = random.Random(seed)
    start = chance.randrange(10**18, 2 * 10**18)
    end = start + chance.choice([1, SECOND, 90 * SECOND, DAY, 40 * DAY, 4000 * DAY]) + chance.randrange(SECOND)
    narrow = grain(start, end)
    counted = counts(start, end, narrow, chance.choice([1, 1000, 200_000]))
    windows = cut(start, end, start, counted, narrow)
    assert windows[0].start == start
    assert windows[-1].end == end
    assert all(one.end == other.start for one, other in zip(windows, windows[1:]))
    assert all(window.start < window.end for window in windows)
    assert sum(window.count for window in windows) == sum(found["a"] for found in counted.values())
    assert sum(window.counts.get("b", 0) for window in windows) == sum(found["b"] for found in counted.values())
    assert len(windows) <= 1002


def test_a_window_is_a_day_and_less_where_points_lie_close():
    start, end = 100 * DAY, 110 * DAY
    assert len(cut(start, end, start, counts(start, end, 3600 * SECOND, 10), 3600 * SECOND)) == 10
    close = cut(start, end, start, counts(start, end, 3600 * SECOND, ROWS // 4), 3600 * SECOND)
    assert len(close) == 240
    assert max(window.count for window in close) <= ROWS


def test_bounds_stay_while_the_window_moves():
    narrow = 3600 * SECOND
    one = cut(0, 110 * DAY, 100 * DAY + 5, counts(100 * DAY, 110 * DAY, narrow, 10), narrow)
    other = cut(50, 110 * DAY + 77, 100 * DAY + 5, counts(100 * DAY, 110 * DAY, narrow, 10), narrow)
    assert {window.start for window in one} <= {window.start for window in other}
    assert one[:9] == other[:9]


def test_nothing_is_read_before_the_oldest_point_but_the_rest_of_its_window():
    windows = cut(0, 101 * DAY, 100 * DAY + 5, {100 * DAY: {"a": 1}}, 3600 * SECOND)
    assert (windows[0].start, windows[-1].end) == (100 * DAY, 101 * DAY)
