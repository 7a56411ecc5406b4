"""How long is waited before something is tried again."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from moqtrio import Backoff
from moqtrio.backoff import Tries


async def test_delays_grow_to_the_longest_one() -> None:
    backoff = Backoff(initial=1, factor=3, maximum=20, jitter=0)
    assert [backoff.delay(failures) for failures in (1, 2, 3, 4, 1000)] == [1, 3, 9, 20, 20]


async def test_part_of_a_delay_is_left_to_chance() -> None:
    delays = {Backoff(initial=10, jitter=0.3).delay(1) for _ in range(200)}
    assert 7 <= min(delays) < 7.5
    assert 9.5 < max(delays) <= 10


async def test_there_is_an_end(mock_clock: MockClock) -> None:
    tries = Tries(Backoff(initial=4, factor=1, jitter=0, seconds=10))
    start = trio.current_time()
    assert tries.failed() == start + 4
    mock_clock.jump(4)
    assert tries.failed() == start + 8
    mock_clock.jump(4)
    assert tries.failed() is None  # it would be at 12
    tries.succeeded()
    assert tries.failed() == start + 12


async def test_so_many_attempts() -> None:
    tries = Tries(Backoff(attempts=2, seconds=math.inf))
    assert [tries.failed() is None for _ in range(3)] == [False, False, True]


async def test_a_success_that_does_not_last_leaves_the_delays_as_they_are(
    mock_clock: MockClock,
) -> None:
    tries = Tries(Backoff(initial=1, jitter=0, seconds=100))
    for lasting, delay in ((False, 1), (False, 2), (True, 4), (True, 1)):
        again = tries.failed()
        assert again is not None
        assert again - trio.current_time() == delay
        mock_clock.jump(90)  # the budget begins with each first failure
        tries.succeeded(lasting=lasting)


@pytest.mark.parametrize(
    "bad",
    [
        {"initial": 0},
        {"factor": 0.5},
        {"maximum": 0},
        {"jitter": 1.5},
        {"seconds": -1},
        {"attempts": 0},
    ],
)
def test_what_makes_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Backoff(**bad)  # type: ignore[arg-type]  # that is the point
