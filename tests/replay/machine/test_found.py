"""What the machine found, as small as it gets."""

from __future__ import annotations

from moqtrio.errors import StreamCode
from moqtrio.model.group import FINISHED
from moqtrio.model.log import LogLimits, TrackLog
from moqtrio.replay import Dropped, Resolver
from moqtrio.replay.memory import MemoryTrack


def publish(log: TrackLog, count: int, size: int = 100) -> None:
    for _ in range(count):
        group = log.create_group()
        log.write_frame(group, bytes(size), 0)
        log.end_group(group, FINISHED)


async def test_a_drop_of_lost_groups_ends_at_the_edge() -> None:
    """What is beyond is not reserved: after a kill it is published anew, with other content."""
    log = TrackLog(LogLimits(max_bytes=150))
    log.begin_recording(0, 2)
    publish(log, 4)  # 0 to 2 are lost, and 2 is not reserved
    resolver = Resolver(log, MemoryTrack(), start=0, end=None)
    assert resolver.poll_next() == Dropped(0, 2, StreamCode.EVICTED)


async def test_a_drop_of_what_is_absent_ends_at_what_is_lost() -> None:
    """Absent and lost are different news, and have different codes."""
    log = TrackLog(LogLimits(max_bytes=150))
    log.begin_recording(0, 100)
    publish(log, 1)
    absent, lost = 1, 2
    group = log.create_group(lost)
    log.write_frame(group, bytes(100), 0)
    log.end_group(group, FINISHED)
    publish(log, 1)
    assert log.lost_until(lost) is not None
    resolver = Resolver(log, MemoryTrack(), start=0, end=None)
    resolver.cursor = absent
    first, second = resolver.poll_next(), resolver.poll_next()
    assert first == Dropped(absent, lost, 0)
    assert second == Dropped(lost, lost + 1, StreamCode.EVICTED)


async def test_the_hard_cap_holds_below_a_larger_cache() -> None:
    log = TrackLog(LogLimits(cache_bytes=10**6, max_bytes=150))
    publish(log, 3)
    assert log.statistics().bytes <= 150
