"""A hundred who join late at once: one read for all of them, and none is left behind."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import trio
from session_pairs import groups, publish, see, session_pair

from moqtrio.model import Origin
from moqtrio.replay import SqliteStore
from moqtrio.session import Subscription
from moqtrio.transport.settings import TransportSettings

JOINERS = 100
GROUPS = 80
SIZE = 8000
# A small part of the history at a time, so that it shows who is served.
WINDOWS = TransportSettings(
    connection_window=10 * SIZE, connection_send_high=10 * SIZE, connection_send_low=5 * SIZE
)


@attrs.define
class Joiner:
    subscription: Subscription
    read: int = 0

    async def follow(self) -> None:
        for sequence in range(GROUPS):
            assert await see(self.subscription) == groups(sequence, size=SIZE)[0]
            self.read += 1


async def test_a_hundred_joiners_share_reads_and_keep_up_with_each_other(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        track = Origin().create_broadcast("b").create_track("t", store=store)
        publish(track, GROUPS, size=SIZE)
        await track.wait_durable()

    origin = Origin()
    async with SqliteStore.open(tmp_path) as store, AsyncExitStack() as stack:
        origin.create_broadcast("b").create_track("t", store=store)
        joiners = []
        for _ in range(JOINERS):
            pair = await stack.enter_async_context(session_pair(origin, transport=WINDOWS))
            subscription = pair.client.subscribe("b", "t", start=0)
            joiners.append(Joiner(await stack.enter_async_context(subscription)))
        slowest_when_the_first_was_done: list[int] = []

        async def follow(joiner: Joiner) -> None:
            await joiner.follow()
            if not slowest_when_the_first_was_done:
                slowest_when_the_first_was_done.append(min(each.read for each in joiners))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for joiner in joiners:
                    nursery.start_soon(follow, joiner)
        assert {joiner.read for joiner in joiners} == {GROUPS}
        statistics = store.statistics()
        assert statistics.loaded_bytes < 2 * GROUPS * SIZE, "read once, not a hundred times"
        assert slowest_when_the_first_was_done[0] > GROUPS // 2
