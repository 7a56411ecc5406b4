"""When a group is too old to be sent (draft-lcurley-moq-lite, "Expiration")."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from moqtrio.model.log import TrackLog
from moqtrio.replay import Expiry

SECOND = 1_000_000


def publish(log: TrackLog, *timestamps: float) -> None:
    """One group for each of the timestamps, in seconds; none at all for a negative one."""
    for timestamp in timestamps:
        group = log.create_group()
        if timestamp >= 0:
            log.write_frame(group, b"x", int(timestamp * SECOND))


@pytest.mark.parametrize("by_clock", [True, False])
async def test_by_timestamp(mock_clock: MockClock, by_clock: bool) -> None:
    log = TrackLog()
    publish(log, 0, 6, 9.9, 10)
    expiry = Expiry(log, 2.0, by_clock=by_clock)
    assert [expiry.is_expired(sequence) for sequence in range(4)] == [True, True, False, False]
    assert expiry.expired_until(0) == 2


@pytest.mark.parametrize("by_clock", [True, False])
async def test_by_clock(mock_clock: MockClock, by_clock: bool) -> None:
    """Timestamps that look fresh keep nothing alive up to draft 05; since 06 they do."""
    log = TrackLog()
    publish(log, 100)
    mock_clock.jump(3)
    publish(log, 100.1)
    expiry = Expiry(log, 2.0, by_clock=by_clock)
    assert expiry.is_expired(0) == by_clock
    assert not expiry.is_expired(1), "the latest never is"


async def test_an_empty_group_has_only_the_clock(mock_clock: MockClock) -> None:
    log = TrackLog()
    publish(log, -1)
    mock_clock.jump(3)
    publish(log, 100)
    assert Expiry(log, 2.0).is_expired(0)
    assert not Expiry(log, 2.0, by_clock=False).is_expired(0)


async def test_a_latest_group_without_frames_is_no_reference(mock_clock: MockClock) -> None:
    log = TrackLog()
    publish(log, 0, 1, -1)
    expiry = Expiry(log, 2.0)
    assert not expiry.is_expired(0)
    publish(log, 5)
    assert expiry.is_expired(0)


async def test_history_that_was_asked_for_never_is(mock_clock: MockClock) -> None:
    log = TrackLog()
    publish(log, 0, 1, 100)
    expiry = Expiry(log, 2.0)
    expiry.exempt_end = 1
    assert [expiry.is_expired(sequence) for sequence in range(3)] == [False, True, False]
