"""Every request, cancelled at every checkpoint: nothing is left of it on either side, and the
publisher has nothing to complain of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import session_pairs
import trio
from session_pairs import assert_nothing_left, publish, session_pair
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.model import Origin
from moqtrio.session import Gap, Session
from moqtrio.wire import VERSIONS, Version


async def subscribe(session: Session) -> None:
    async with session.subscribe("b", "t", start=0) as subscription:
        group = await subscription.receive()
        assert not isinstance(group, Gap)
        await group.read_all()
        await subscription.update(priority=3)
        await subscription.receive()


async def subscribe_to_latest(session: Session) -> None:
    async with session.subscribe("b", "t", max_latency=3.0) as subscription:
        await subscription.receive()


async def announced(session: Session) -> None:
    async with session.announced() as announcements:
        await announcements.receive()


async def wait_announced(session: Session) -> None:
    await session.wait_announced("b")


async def fetch(session: Session) -> None:
    group = await session.fetch("b", "t", 1)
    await group.read_all()


async def track_info(session: Session) -> None:
    await session.track_info("b", "t")


async def find_time(session: Session) -> None:
    await session.find_time("b", "t", 0.0)


OLDER = [subscribe, subscribe_to_latest, announced, wait_announced]


@pytest.mark.parametrize(
    "ask", [*OLDER, fetch, track_info, find_time], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_at_every_checkpoint(
    version: Version, ask: Callable[[Session], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_pairs, "spoken", version)
    if version.draft < 5 and ask not in OLDER:
        return
    after = 1
    while not trio.run(cancel, ask, after, clock=MockClock(autojump_threshold=0)):
        after += 1
        assert after < 100
    assert after > 3


async def cancel(ask: Callable[[Session], Awaitable[None]], after: int) -> bool:
    """Cancel a request after so many checkpoints; whether it was over by then."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3, frames=2)
    finished = False
    scope = trio.CancelScope()

    async def cancel_later() -> None:
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with session_pair(origin) as pair:
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later)
            with scope:
                await ask(pair.client)
                finished = True
            nursery.cancel_scope.cancel()
        await trio.sleep(15)
        assert not pair.client._subscriptions
        assert not pair.server._publisher._subscribe_ids
        assert not +pair.server._guard._served
        assert not pair.server._guard._offences
        assert_nothing_left(track, pair.client_connection, pair.server_connection)
        assert pair.client.closed is pair.server.closed is None
    return finished
