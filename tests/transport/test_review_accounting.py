"""After any mixture of streams, over a bad network, every credit is back where it was."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from moqtrio.errors import StreamReset
from moqtrio.transport.connection import URGENT, Connection, ReceiveStream, SendStream

from .network import Network, simulated_pair
from .pairs import plain_settings

LIMITS = {"stream_window": 3000, "connection_window": 8000, "max_streams_uni": 5}
LIMITS |= {"max_streams_bidi": 3, "stream_send_high": 4000, "stream_send_low": 1000}
LIMITS |= {"connection_send_high": 9000, "connection_send_low": 3000}


async def write_somehow(stream: SendStream, chance: random.Random) -> None:
    """Send, and end, give up or be stopped, in some order."""
    if chance.random() < 0.3:
        stream.set_priority(chance.choice([1, 5, URGENT]))
    try:
        for _ in range(chance.randrange(8)):
            with trio.move_on_after(chance.choice([0.02, 30])) as scope:
                await stream.send_all(bytes(chance.choice([0, 1, 700, 5000])))
            if scope.cancelled_caught or chance.random() < 0.1:
                return stream.reset(3)
        if chance.random() < 0.3:
            await trio.sleep(chance.random() / 10)
        stream.finish()
        if chance.random() < 0.2:
            stream.reset(4)
    except StreamReset:
        stream.reset(5)


async def read_somehow(stream: ReceiveStream, chance: random.Random) -> None:
    """Read to the end, or give up somewhere."""
    patience = chance.choice([0, 1, 1000, 1000, 1000])
    try:
        for _ in range(patience):
            if chance.random() < 0.2:
                await trio.sleep(chance.random() / 20)
            if not await stream.receive_some(chance.choice([1000, 2000, 50_000])):
                return
    except StreamReset:
        return
    stream.stop(6)


def settled(connection: Any) -> tuple[Any, ...]:
    """What must be as it was at first; ours and the peer's view of data must agree too."""
    engine = connection._engine
    uni, bidi = engine._local_max_streams_uni, engine._local_max_streams_bidi
    return (
        engine._data_consumed - engine._local_max_data.used,
        engine.unsent,
        engine.stuck,
        engine.streams_open,
        engine._pieces.held,
        len(engine._out_of_data_credit),
        len(engine._control),
        uni.value - uni.used,
        bidi.value - bidi.used,
        len(connection._starved_streams),
    )


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("seed", range(6))
async def test_every_credit_comes_back(
    autojump_clock: MockClock, seed: int, fast_path: bool
) -> None:
    chance = random.Random(seed)
    network = Network(seed=seed, loss=0.08, jitter=0.02, duplication=0.02)
    settings = plain_settings(fast_path=fast_path, **LIMITS)
    async with simulated_pair(network, client=settings, server=settings) as (near, far):

        async def open_some(connection: Connection, nursery: trio.Nursery) -> None:
            for _ in range(25):
                if chance.random() < 0.7:
                    nursery.start_soon(write_somehow, await connection.open_uni(), chance)
                else:
                    both = await connection.open_bidi()
                    nursery.start_soon(write_somehow, both.send, chance)
                    nursery.start_soon(read_somehow, both.receive, chance)
                await trio.sleep(chance.random() / 50)

        async def accept_uni(connection: Connection, nursery: trio.Nursery) -> None:
            while True:
                stream = await connection.accept_uni()
                nursery.start_soon(read_somehow, stream, chance)

        async def accept_bidi(connection: Connection, nursery: trio.Nursery) -> None:
            while True:
                both = await connection.accept_bidi()
                nursery.start_soon(read_somehow, both.receive, chance)
                nursery.start_soon(write_somehow, both.send, chance)

        with trio.fail_after(600):
            async with trio.open_nursery() as acceptors, trio.open_nursery() as streams:
                for connection in (near, far):
                    acceptors.start_soon(accept_uni, connection, acceptors)
                    acceptors.start_soon(accept_bidi, connection, acceptors)
                    streams.start_soon(open_some, connection, streams)
                await trio.sleep(60)
                acceptors.cancel_scope.cancel()
        assert near.closed is None
        await trio.sleep(60)
        for ours, theirs in ((near, far), (far, near)):
            assert settled(ours) == (0, 0, 0, 0, 0, 0, 0, 5, 3, 0)
            sent: int = ours._engine._remote_max_data_used  # type: ignore[attr-defined]
            received: int = theirs._engine._local_max_data.used  # type: ignore[attr-defined]
            assert sent == received
