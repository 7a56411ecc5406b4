"""Whoever waits for a stream gets it, whatever lies unread on the others."""

from __future__ import annotations

import trio

from moqtrio.transport.connection import Connection, ReceiveStream, SendStream

from .pairs import plain_settings, quic_pair, until

WINDOW = 8_000
SETTINGS = plain_settings(stream_window=WINDOW // 2 + 100, connection_window=WINDOW)


async def open_streams(near: Connection, count: int) -> list[SendStream]:
    streams = []
    for number in range(count):
        stream = await near.open_uni()
        await stream.send_all(b"%d" % number)
        streams.append(stream)
    return streams


async def accept_streams(far: Connection, count: int) -> dict[bytes, ReceiveStream]:
    streams = {}
    for _ in range(count):
        stream = await far.accept_uni()
        streams[bytes(await stream.receive_some(1))] = stream
    return streams


async def fill(near: Connection, far: Connection, sent: list[SendStream]) -> None:
    """Send on two streams as much as the connection's window admits, and nobody reads it."""
    for stream in sent[:2]:
        stream.send_nowait(bytes(WINDOW // 2))
    await until(lambda: far.statistics().receive_buffered > WINDOW - 100)
    for stream in sent[2:]:
        stream.send_nowait(bytes(WINDOW), finish=True)


async def read_all(stream: ReceiveStream) -> int:
    size = 0
    while data := await stream.receive_some():
        size += len(data)
    return size


async def test_unread_streams_do_not_keep_a_reader_waiting_for_ever() -> None:
    async with quic_pair(client=plain_settings(), server=SETTINGS) as (near, far):
        sent = await open_streams(near, 3)
        received = await accept_streams(far, 3)
        with trio.fail_after(10):
            await fill(near, far, sent)
            assert await read_all(received[b"2"]) == WINDOW
            for number, stream in enumerate(sent[:2]):
                stream.finish()
                assert await read_all(received[b"%d" % number]) == WINDOW // 2
        assert far.statistics().receive_buffered == 0


async def test_what_is_lent_is_bounded() -> None:
    """A peer that uses it for more streams nobody reads gets no more than one window."""
    async with quic_pair(client=plain_settings(), server=SETTINGS) as (near, far):
        sent = await open_streams(near, 9)
        received = await accept_streams(far, 9)
        await fill(near, far, sent[:-1])
        with trio.move_on_after(1):
            await received[b"8"].receive_some()  # on which nothing comes
        assert WINDOW < far.statistics().receive_buffered <= 2 * WINDOW


async def test_little_is_lent_to_who_waits_for_an_answer() -> None:
    async with quic_pair(client=plain_settings(), server=SETTINGS) as (near, far):
        sent = await open_streams(near, 9)
        await accept_streams(far, 9)
        control = await near.open_bidi()
        await control.send.send_all(b"?")
        request = await far.accept_bidi()
        assert await request.receive.receive_some() == b"?"
        await fill(near, far, sent)
        control.send.set_priority(1)
        control.send.send_nowait(b"!")
        with trio.fail_after(10):
            assert await request.receive.receive_some() == b"!"
        assert far.statistics().receive_buffered <= WINDOW + 16 * 1024
