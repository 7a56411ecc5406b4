"""Origins, broadcasts, announcements and their paths; the clock."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from moqtrio.errors import ProtocolError, StreamCode
from moqtrio.model.clock import MediaClock
from moqtrio.model.origin import Announcement, Origin, OriginAnnouncements
from moqtrio.model.path import join, strip_prefix


def told(announcements: OriginAnnouncements) -> list[tuple[str, bool]]:
    found = []
    while True:
        try:
            announcement = announcements.receive_nowait()
        except trio.WouldBlock:
            return found
        found.append((announcement.path, announcement.active))


# Paths


@pytest.mark.parametrize(
    ("path", "prefix", "suffix"),
    [
        ("room/cam", "", "room/cam"),
        ("room/cam", "room", "cam"),
        ("room/cam", "room/", "cam"),
        ("room/cam", "/room", "cam"),
        ("room/cam", "room/cam", ""),
        ("rooms", "room", None),
        ("room", "room/cam", None),
        ("a/b/c", "a/b", "c"),
        ("a/bc", "a/b", None),
        ("", "", ""),
    ],
)
def test_prefixes_are_whole_segments(path: str, prefix: str, suffix: str | None) -> None:
    assert strip_prefix(path, prefix) == suffix
    if suffix is not None:
        assert join(prefix, suffix) == path


segments = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4)


@given(segments, segments)
def test_strip_and_join_are_inverse(path: list[str], prefix: list[str]) -> None:
    suffix = strip_prefix("/".join(path), "/".join(prefix))
    assert (suffix is not None) == (path[: len(prefix)] == prefix)
    if suffix is not None:
        assert suffix == "/".join(path[len(prefix) :])
        assert join("/".join(prefix), suffix) == "/".join(path)


@pytest.mark.parametrize("path", ["/room", "room/", "room//cam", "/"])
def test_a_path_that_announcements_could_not_tell_from_another_is_refused(path: str) -> None:
    """Below the prefix "room", both "room" and "room/" would be announced as ""."""
    with pytest.raises(ValueError, match="empty segment"):
        Origin().create_broadcast(path)


# Broadcasts


async def test_names_are_unique_until_closed() -> None:
    origin = Origin()
    broadcast = origin.create_broadcast("a")
    with pytest.raises(ProtocolError, match="already is a broadcast 'a'"):
        origin.create_broadcast("a")
    track = broadcast.create_track("t")
    with pytest.raises(ProtocolError, match="already has a track 't'"):
        broadcast.create_track("t")
    broadcast.close()
    broadcast.close()
    assert broadcast.closed
    assert track.log.aborted == StreamCode.CANCEL
    assert "a" not in origin.broadcasts
    with pytest.raises(ProtocolError, match="is closed"):
        broadcast.create_track("u")
    again = origin.create_broadcast("a")
    broadcast.close()
    assert origin.broadcasts["a"] is again, "a late close of the old one takes nothing away"


async def test_closing_leaves_finished_tracks_as_they_are() -> None:
    broadcast = Origin().create_broadcast("a")
    track = broadcast.create_track("t")
    track.finish()
    broadcast.close()
    assert track.log.aborted is None


def test_origins_have_different_hop_ids_the_wire_can_carry() -> None:
    ids = {Origin().hop_id for _ in range(100)}
    assert len(ids) == 100
    assert all(0 < hop_id < 2**62 for hop_id in ids)


# Announcements


async def test_what_is_there_comes_first_then_changes() -> None:
    origin = Origin()
    first = origin.create_broadcast("room/a")
    origin.create_broadcast("other")
    async with origin.announced("room") as announcements:
        assert told(announcements) == [("room/a", True)]
        origin.create_broadcast("room/b")
        first.close()
        assert told(announcements) == [("room/a", False), ("room/b", True)]
        assert told(announcements) == []


async def test_what_came_and_went_unseen_is_not_told_and_a_restart_is() -> None:
    origin = Origin()
    old = origin.create_broadcast("a")
    async with origin.announced() as announcements:
        assert told(announcements) == [("a", True)]
        for _ in range(1000):
            origin.create_broadcast("short").close()
        assert told(announcements) == []
        old.close()
        origin.create_broadcast("a")
        assert told(announcements) == [("a", False), ("a", True)]


async def test_receive_waits_and_cancelling_loses_nothing() -> None:
    origin = Origin()
    async with origin.announced() as announcements:
        with trio.CancelScope() as scope:
            scope.cancel()
            origin.create_broadcast("a")
            await announcements.receive()
        assert scope.cancelled_caught
        with assert_checkpoints():
            assert await announcements.receive() == Announcement("a", active=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announcements.receive)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        origin.create_broadcast("b")
        assert (await announcements.receive()).path == "b"


async def test_closing_wakes_the_reader_and_lets_go_of_the_origin() -> None:
    origin = Origin()
    announcements = origin.announced()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await announcements.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await announcements.aclose()
    with pytest.raises(trio.ClosedResourceError):
        announcements.receive_nowait()
    assert len(origin._watchers) == 0


# The clock


async def test_the_clock_starts_where_it_is_told_and_moves_with_trio(
    autojump_clock: MockClock,
) -> None:
    clock = MediaClock(1_000)
    await trio.sleep(5)
    assert clock.now_us() == 1_000, "the first reading is the origin"
    await trio.sleep(0.25)
    assert clock.now_us() == 251_000


def test_the_clock_never_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = [5_000_000_000]
    monkeypatch.setattr("time.time_ns", lambda: wall[0])

    async def main() -> None:
        clock = MediaClock()
        readings = [clock.now_us()]
        for _ in range(100):
            wall[0] -= 10**9  # somebody sets the system's clock back
            await trio.sleep(0.000_000_7)
            readings.append(clock.now_us())
        assert readings == sorted(readings)
        assert readings[0] == 5_000_000
        assert 5_000_069 <= readings[-1] <= 5_000_071

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_frames_are_stamped_by_the_origins_clock(autojump_clock: MockClock) -> None:
    origin = Origin(clock=MediaClock(7_000_000))
    track = origin.create_broadcast("b").create_track("t")
    track.write_frame(b"")
    await trio.sleep(1)
    track.write_frame(b"")
    groups = [track.log.get(0), track.log.get(1)]
    assert [g.frames[0].timestamp_us for g in groups if g] == [7_000_000, 8_000_000]
