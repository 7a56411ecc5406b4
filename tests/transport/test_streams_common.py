"""What both bindings owe Trio and each other."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from moqtrio.transport.connection import ReceiveStream, SendStream
from moqtrio.transport.memory import memory_connection_pair


async def memory_stream() -> tuple[SendStream, ReceiveStream]:
    client, server = memory_connection_pair()
    sender = await client.open_uni()
    return sender, await server.accept_uni()


async def clogged_memory_stream() -> tuple[SendStream, ReceiveStream]:
    client, server = memory_connection_pair()
    sender = client.open_uni_nowait()
    with pytest.raises(trio.WouldBlock):
        while True:
            sender.send_nowait(b"x" * 10_000)
    return sender, await server.accept_uni()


async def test_memory_stream_keeps_trios_promises() -> None:
    await trio.testing.check_one_way_stream(memory_stream, clogged_memory_stream)
