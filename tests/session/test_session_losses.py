"""Long runs of groups that are known to be lost, and waits for a store that has an answer."""

from __future__ import annotations

from typing import Any

import trio
from session_pairs import payload_of, publish, see, session_pair, stored_track
from trio.testing import wait_all_tasks_blocked

from moqtrio.errors import StreamCode
from moqtrio.model import Origin
from moqtrio.replay import Pending
from moqtrio.replay.target import GapWrite
from moqtrio.session import Gap
from moqtrio.session.control import ControlStream
from moqtrio.session.serving import SubscriptionServer
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_05
from moqtrio.wire.lite import Subscribe


async def test_a_long_run_of_losses_leaves_others_their_turn() -> None:
    """An hour of a dead disk is one recorded gap of a million groups. Each is asked for."""
    origin = Origin()
    track, target = await stored_track(origin, [])
    await target.write_gaps([GapWrite(0, 20_000, StreamCode.EVICTED)])
    track.log.begin_at(20_000)
    asked = 0
    poll_group = target.poll_group

    def count(sequence: int, *, priority: int = 0) -> Any:
        nonlocal asked
        asked += 1
        return poll_group(sequence, priority=priority)

    async def watch() -> None:
        while True:
            before = asked
            await trio.lowlevel.checkpoint()
            turns.append(asked - before)

    turns: list[int] = []
    target.poll_group = count  # type: ignore[method-assign]  # what it does is not changed
    async with session_pair(origin) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        publish(track)
        async with pair.client.subscribe("b", "t", start=0) as subscription:
            end = 0
            while end < 20_000:
                gap = await subscription.receive()
                assert isinstance(gap, Gap)
                assert (gap.start, gap.code) == (end, StreamCode.EVICTED)
                end = gap.end
            assert await see(subscription) == (20_000, [payload_of(20_000)])
        nursery.cancel_scope.cancel()
    assert asked >= 20_000
    assert max(turns) <= 4096


async def test_an_update_as_the_store_answers_leaves_one_wait() -> None:
    """The wait that is over must not be taken for the one that has just begun."""
    origin = Origin()
    track, _ = await stored_track(origin, [])
    here, _ = memory_connection_pair()
    stream = await here.open_bidi()
    request = Subscribe(1, "b", "t", start=0)
    server = SubscriptionServer(here, ControlStream(stream, LITE_05), track, request)
    first, second = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        server._resolver_wait(Pending(first.wait), nursery)
        await wait_all_tasks_blocked()
        first.set()
        server._stop_waiting_for_resolver()
        server._resolver_wait(Pending(second.wait), nursery)
        await wait_all_tasks_blocked()
        assert server._resolver_waits is not None
        server._stop_waiting_for_resolver()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
