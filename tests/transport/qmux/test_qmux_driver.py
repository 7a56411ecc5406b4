"""Time, ends and writes of a qmux connection that is carried by a WebSocket in memory."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import SessionClosed, SessionCode
from moqtrio.transport.connection import URGENT
from moqtrio.transport.qmux import QmuxVersion
from moqtrio.transport.qmux.versions import QMUX_00, QMUX_01, QMUX_02

from ..pairs import read_all
from .qmux_tools import linked

EVERY_DRAFT = pytest.mark.parametrize(
    "version", [QMUX_02, QMUX_01, QMUX_00], ids=lambda version: str(version.name)
)


@EVERY_DRAFT
async def test_every_draft_carries_streams(version: QmuxVersion) -> None:
    async with linked(version=version) as pair:
        pair.drive_near()
        pair.drive_far()
        bidi = await pair.near.open_bidi()
        payload = bytes(range(256)) * 1000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bidi.send.send_all, payload)
            other = await pair.far.accept_bidi()
            assert await other.receive.receive_some(1) == payload[:1]
            bidi.send.finish()
            assert await read_all(other.receive) == payload[1:]
            other.send.send_nowait(b"back", finish=True)
            assert await read_all(bidi.receive) == b"back"


@EVERY_DRAFT
async def test_who_is_there_and_silent_is_kept(
    version: QmuxVersion, autojump_clock: MockClock
) -> None:
    async with linked(version=version) as pair:
        pair.drive_near()
        pair.drive_far()
        await trio.sleep(3600)
        assert pair.near.closed is None
        assert pair.far.closed is None
        stream = await pair.near.open_uni()
        stream.send_nowait(b"still here", finish=True)
        assert await read_all(await pair.far.accept_uni()) == b"still here"


@EVERY_DRAFT
async def test_who_falls_silent_is_given_up(
    version: QmuxVersion, autojump_clock: MockClock
) -> None:
    async with linked(version=version, client={"idle_timeout": 8.0, "keep_alive": 3.0}) as pair:
        pair.drive_near()
        pair.drive_far()
        await pair.near.ready.wait()

        # The other end's machine is gone: nothing says so.
        async def mute(packed: bytes) -> None:
            await trio.sleep_forever()

        pair.far_link.send = mute  # type: ignore[method-assign]  # as a cut wire is
        start = trio.current_time()
        end = await pair.near.wait_closed()
        assert "nothing was heard for 8 s" in end.reason
        assert not end.remote
        assert 5 <= trio.current_time() - start <= 8


async def test_without_pings_what_is_sent_counts_for_silence_too(
    autojump_clock: MockClock,
) -> None:
    alone = {"idle_timeout": 8.0, "keep_alive": None}
    async with linked(client=alone, server=alone) as pair:
        pair.drive_near()
        pair.drive_far()
        stream = await pair.near.open_uni()
        await trio.sleep(6)
        stream.send_nowait(b"x")
        await pair.near.wait_closed()
        assert trio.current_time() == pytest.approx(14)


async def test_pings_measure_the_round_trip(autojump_clock: MockClock) -> None:
    async with linked() as pair:
        send = pair.far_link.send

        async def send_late(packed: bytes) -> None:
            await trio.sleep(0.08)
            await send(packed)

        pair.far_link.send = send_late  # type: ignore[method-assign]  # a longer way
        pair.drive_near()
        pair.drive_far()
        await trio.sleep(1000)
        assert pair.near.statistics().smoothed_rtt == pytest.approx(0.08, abs=0.01)


async def test_who_never_declares_anything_is_given_up(autojump_clock: MockClock) -> None:
    async with linked(server={"connect_timeout": 4.0}) as pair:
        pair.drive_far()
        end = await pair.far.wait_closed()
        assert trio.current_time() == pytest.approx(4.0)
        assert "no transport parameters" in end.reason


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_the_peer_hears_of_the_end(how: str) -> None:
    async with linked() as pair:
        near = pair.drive_near()
        pair.drive_far()
        stream = await pair.near.open_uni()
        stream.send_nowait(b"before", finish=True)
        receiver = await pair.far.accept_uni()
        if how == "close":
            pair.near.close(7, "enough")
        else:
            near.cancel()
        end = await pair.far.wait_closed()
        assert (end.remote, end.code) == (True, 7 if how == "close" else SessionCode.NO_ERROR)
        assert await read_all(receiver) == b"before"
        with pytest.raises(SessionClosed):
            await pair.far.accept_uni()


async def test_both_ends_let_go_of_the_stream() -> None:
    async with linked() as pair:
        async with trio.open_nursery() as nursery:
            pair._nursery, outer = nursery, pair._nursery
            pair.drive_near()
            pair.drive_far()
            await pair.near.ready.wait()
            pair.near.close()
        pair._nursery = outer
        for stream in (pair.near_stream, pair.far_stream):
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")


async def test_who_does_not_read_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with linked(lockstep=True) as pair:
        async with trio.open_nursery() as nursery:
            pair._nursery, outer = nursery, pair._nursery
            pair.drive_near()
            await wait_all_tasks_blocked()  # its first message is not taken
            pair.near.close()
        pair._nursery = outer
        assert trio.current_time() == pytest.approx(2.0)


async def test_what_carries_it_may_end_without_a_word() -> None:
    async with linked() as pair:
        pair.drive_near()
        await wait_all_tasks_blocked()
        await pair.far_stream.aclose()
        end = await pair.near.wait_closed()
        assert (end.remote, end.code) == (True, SessionCode.INTERNAL)
        assert "closed what carried it" in end.reason


async def test_a_thousand_small_groups_take_few_writes() -> None:
    writes = []
    async with linked() as pair:
        pair.drive_near()
        pair.drive_far()
        await pair.near.ready.wait()
        await wait_all_tasks_blocked()
        send = pair.near_link.send

        async def count(packed: bytes) -> None:
            writes.append(len(packed))
            await send(packed)

        pair.near_link.send = count  # type: ignore[method-assign]  # to count
        for _ in range(1000):
            pair.near.open_uni_nowait().send_nowait(bytes(100), finish=True)
        for _ in range(1000):
            assert len(await read_all(await pair.far.accept_uni())) == 100
    assert sum(writes) > 100_000
    assert len(writes) < 10


async def test_what_is_urgent_overtakes_what_waits(autojump_clock: MockClock) -> None:
    async with linked(lockstep=True) as pair:
        pair.drive_near()
        pair.drive_far()
        bulk = await pair.near.open_uni()
        for _ in range(20):
            bulk.send_nowait(bytes(10_000))
        receiver = await pair.far.accept_uni()
        urgent = pair.near.open_uni_nowait()
        urgent.set_priority(URGENT)
        urgent.send_nowait(b"now", finish=True)
        assert await read_all(await pair.far.accept_uni()) == b"now"
        # What had come, what was on its way, and what shares a write with it.
        assert pair.far.statistics().receive_buffered <= 3 * 32 * 1024
        bulk.finish()
        assert len(await read_all(receiver)) == 200_000
