"""Streams that are over are freed at once, not when the garbage collector comes by."""

from __future__ import annotations

import gc

import trio

from moqtrio.transport.connection import Connection
from moqtrio.transport.quic.engine.stream import EngineStream
from moqtrio.transport.quic.streams import QuicReceiveHalf, QuicSendHalf

from .pairs import quic_pair

_STREAMS = 200


def alive() -> int:
    kinds = (EngineStream, QuicReceiveHalf, QuicSendHalf)
    return sum(isinstance(each, kinds) for each in gc.get_objects())


async def take(connection: Connection) -> None:
    for _ in range(_STREAMS):
        stream = await connection.accept_uni()
        while await stream.receive_some():
            pass


async def test_streams_that_are_over_leave_no_cycles() -> None:
    async with quic_pair() as (near, far):
        gc.collect()
        before = alive()
        gc.disable()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take, far)
                for _ in range(_STREAMS):
                    stream = await near.open_uni()
                    await stream.send_all(b"a small group")
                    stream.finish()
                    await stream.wait_stopped()
            assert alive() - before < _STREAMS // 10
        finally:
            gc.enable()
