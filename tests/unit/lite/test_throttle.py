"""How often somebody may guess."""

from clearml_lite import throttle
from clearml_lite.throttle import Throttle


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_one_an_interval() -> None:
    clock = Clock()
    tries = Throttle(3, 2.0, clock)
    assert [tries.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert tries.take("a") == 2.0
    clock.now += 1.5
    assert tries.take("a") == 0.5
    clock.now += 0.5
    assert tries.take("a") == 0.0
    assert tries.take("a") == 2.0


def test_a_refused_try_costs_nothing() -> None:
    clock = Clock()
    tries = Throttle(1, 1.0, clock)
    tries.take("a")
    assert {tries.take("a") for _ in range(100)} == {1.0}


def test_others_are_not_concerned_and_right_ones_are_forgiven() -> None:
    tries = Throttle(1, 1.0, Clock())
    tries.take("a")
    assert tries.take("b") == 0.0
    tries.forgive("a")
    tries.forgive("nobody")
    assert tries.take("a") == 0.0


def test_memory_is_bounded() -> None:
    tries = Throttle(1, 1.0, Clock())
    for number in range(throttle.REMEMBERED + 10):
        tries.take(number)
    assert len(tries._full_at) == throttle.REMEMBERED
    assert tries.take(throttle.REMEMBERED + 9) == 1.0
