"""Streams behave alike over every binding."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from moqtrio.errors import SessionClosed, StreamReset
from moqtrio.transport.connection import ReceiveStream, SendStream

from .pairs import plain_settings, read_all, until

Pair = Callable[..., Any]


def fill(sender: SendStream, chunk: bytes) -> int:
    """Write until a write would have to wait; returns how much was taken."""
    taken = 0
    while True:
        try:
            sender.send_nowait(chunk)
        except trio.WouldBlock:
            return taken
        taken += len(chunk)


@asynccontextmanager
async def one_way_streams(pair: Pair, **settings: Any) -> AsyncIterator[Callable[..., Any]]:
    """Makes connected (send, receive) streams, all on one connection."""
    async with pair(client=plain_settings(**settings), server=plain_settings(**settings)) as (
        near,
        far,
    ):

        async def make() -> tuple[SendStream, ReceiveStream]:
            sender = await near.open_uni()
            sender.send_nowait(b"!")  # a stream the peer hears of only with its first byte
            receiver = await far.accept_uni()
            assert await receiver.receive_some(1) == b"!"
            return sender, receiver

        yield make


async def test_streams_keep_trios_promises(pair: Pair) -> None:
    async with one_way_streams(
        pair, stream_window=5000, stream_send_high=5000, stream_send_low=1000
    ) as make:

        async def make_clogged() -> tuple[SendStream, ReceiveStream]:
            sender, receiver = await make()
            while True:
                fill(sender, bytes(1000))
                with trio.move_on_after(0.05) as scope:
                    await sender.wait_send_all_might_not_block()
                if scope.cancelled_caught:
                    return sender, receiver

        await trio.testing.check_one_way_stream(make, make_clogged)


async def test_bytes_arrive_whole_and_in_order(pair: Pair) -> None:
    payload = bytes(range(256)) * 2000
    async with pair() as (near, far), trio.open_nursery() as nursery:
        bidi = await near.open_bidi()

        async def send() -> None:
            await bidi.send.send_all(payload)
            bidi.send.finish()

        nursery.start_soon(send)
        other = await far.accept_bidi()
        assert await read_all(other.receive) == payload
        other.send.send_nowait(b"done", finish=True)
        assert await read_all(bidi.receive) == b"done"
        assert other.send.stream_id == bidi.receive.stream_id


async def test_either_side_opens_streams(pair: Pair) -> None:
    async with pair() as (near, far):
        for opener, accepter in ((near, far), (far, near)):
            opener.open_uni_nowait().send_nowait(b"one", finish=True)
            assert await read_all(await accepter.accept_uni()) == b"one"


async def test_a_sender_stalls_at_exactly_the_window_and_resumes(pair: Pair) -> None:
    settings = plain_settings(stream_window=40_000, stream_send_high=10_000, stream_send_low=5_000)
    async with pair(client=settings, server=settings) as (near, far):
        sender = await near.open_uni()
        taken = 0
        with trio.move_on_after(0.3):
            while True:
                taken += fill(sender, bytes(1000))
                await sender.wait_send_all_might_not_block()
        assert far.statistics().receive_buffered == 40_000
        unsent = near.statistics().send_buffered
        assert unsent == taken - 40_000
        # Above the low-water mark nobody is woken, and a write is taken whole or not at all.
        assert 5_000 < unsent < 11_000

        receiver = await far.accept_uni()
        got = 0
        while got < taken:
            got += len(await receiver.receive_some())
        await until(lambda: near.statistics().send_buffered == 0)
        sender.send_nowait(b"more", finish=True)
        assert await read_all(receiver) == b"more"


async def test_all_streams_share_the_connection_window(pair: Pair) -> None:
    settings = plain_settings(connection_window=50_000, stream_window=30_000)
    async with pair(client=settings, server=settings) as (near, far):
        senders = [await near.open_uni() for _ in range(3)]
        for sender in senders:
            sender.send_nowait(bytes(30_000), finish=True)
        await until(lambda: far.statistics().receive_buffered == 50_000)
        await trio.sleep(0.05)
        assert far.statistics().receive_buffered == 50_000
        for _ in senders:
            assert len(await read_all(await far.accept_uni())) == 30_000


async def test_unsent_bytes_of_the_connection_hold_writers_back(pair: Pair) -> None:
    settings = plain_settings(
        connection_window=1000, connection_send_high=50_000, connection_send_low=20_000
    )
    async with pair(client=settings, server=settings) as (near, far):
        first, second = near.open_uni_nowait(), near.open_uni_nowait()
        first.send_nowait(bytes(60_000), finish=True)
        await until(lambda: far.statistics().receive_buffered == 1000)
        calls: list[None] = []
        near.on_writable(lambda: calls.append(None))
        with pytest.raises(trio.WouldBlock):
            second.send_nowait(b"late")
        assert not calls
        receiver = await far.accept_uni()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.send_all, b"late")
            assert len(await read_all(receiver)) == 60_000
        assert calls
        second.finish()
        assert await read_all(await far.accept_uni()) == b"late"


async def test_opening_waits_for_the_peer_to_be_done_with_a_stream(pair: Pair) -> None:
    settings = plain_settings(max_streams_uni=2)
    async with pair(client=settings, server=settings) as (near, far):
        for text in (b"a", b"b"):
            near.open_uni_nowait().send_nowait(text, finish=True)
        with pytest.raises(trio.WouldBlock):
            near.open_uni_nowait()
        # They arrived, and are acknowledged, but nobody took them.
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
            await near.open_uni()
        order: list[int] = []

        async def open_and_send(number: int) -> None:
            stream = await near.open_uni()
            order.append(number)
            stream.send_nowait(b"%d" % number, finish=True)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(open_and_send, number)
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(6):
                await read_all(await far.accept_uni())
        # Two that get credit at the same time run in either order: that is Trio's choice.
        assert all(abs(place - number) <= 1 for place, number in enumerate(order)), order


async def test_accepting_without_reading_gives_no_credit(pair: Pair) -> None:
    settings = plain_settings(max_streams_uni=1)
    async with pair(client=settings, server=settings) as (near, far):
        near.open_uni_nowait().send_nowait(b"unread", finish=True)
        receiver = await far.accept_uni()
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
            await near.open_uni()
        receiver.stop(1)
        with trio.fail_after(2):
            await near.open_uni()


async def test_a_cancelled_opener_takes_no_credit(pair: Pair) -> None:
    settings = plain_settings(max_streams_bidi=1)
    async with pair(client=settings, server=settings) as (near, far):
        first = await near.open_bidi()
        with trio.move_on_after(0.05) as scope:
            await near.open_bidi()
        assert scope.cancelled_caught
        first.send.finish()
        other = await far.accept_bidi()
        other.send.finish()
        assert await read_all(other.receive) == b""
        assert await read_all(first.receive) == b""
        with trio.fail_after(2):
            second = await near.open_bidi()
        assert second.send.stream_id != first.send.stream_id


async def test_a_reset_carries_its_code(pair: Pair) -> None:
    async with pair() as (near, far):
        sender = await near.open_uni()
        sender.send_nowait(b"lost")
        receiver = await far.accept_uni()
        sender.reset(0x34)
        sender.reset(0x35)
        with pytest.raises(StreamReset) as raised:
            await read_all(receiver)
        assert raised.value.code == 0x34
        with pytest.raises(trio.ClosedResourceError):
            sender.send_nowait(b"more")
        with trio.fail_after(2):
            await sender.wait_stopped()


async def test_a_stop_carries_its_code_and_wakes_the_writer(pair: Pair) -> None:
    settings = plain_settings(stream_window=1000, stream_send_high=2000, stream_send_low=1000)
    async with pair(client=settings, server=settings) as (near, far):
        sender = await near.open_uni()
        fill(sender, bytes(1000))
        receiver = await far.accept_uni()
        calls: list[None] = []
        near.on_writable(lambda: calls.append(None))
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(StreamReset) as raised:
                    await sender.send_all(bytes(100_000))
                assert raised.value.code == 7

            nursery.start_soon(write)
            nursery.start_soon(sender.wait_stopped)
            await trio.testing.wait_all_tasks_blocked()
            receiver.stop(7)
        assert calls
        with pytest.raises(StreamReset):
            sender.send_nowait(b"x")
        with pytest.raises(trio.ClosedResourceError):
            receiver.receive_nowait()
        sender.reset(1)  # over already: nothing happens


async def test_stopping_returns_the_connection_credit(pair: Pair) -> None:
    settings = plain_settings(connection_window=10_000, stream_window=10_000)
    async with pair(client=settings, server=settings) as (near, far):
        for _ in range(5):
            sender = await near.open_uni()
            sender.send_nowait(bytes(9_000))
            receiver = await far.accept_uni()
            await until(lambda: far.statistics().receive_buffered == 9_000)
            receiver.stop(1)
            await sender.wait_stopped()
        sender = await near.open_uni()
        sender.send_nowait(bytes(9_000), finish=True)
        assert len(await read_all(await far.accept_uni())) == 9_000


async def test_resetting_returns_the_connection_credit(pair: Pair) -> None:
    settings = plain_settings(connection_window=10_000, stream_window=10_000)
    async with pair(client=settings, server=settings) as (near, far):
        for _ in range(5):
            sender = await near.open_uni()
            sender.send_nowait(bytes(9_000))
            await until(lambda: far.statistics().receive_buffered == 9_000)
            sender.reset(2)
            receiver = await far.accept_uni()
            with pytest.raises(StreamReset):
                await read_all(receiver)
        sender = await near.open_uni()
        sender.send_nowait(bytes(9_000), finish=True)
        assert len(await read_all(await far.accept_uni())) == 9_000


async def test_wait_stopped_returns_once_everything_arrived(pair: Pair) -> None:
    async with pair() as (near, far):
        sender = await near.open_uni()
        with trio.move_on_after(0.02) as scope:
            await sender.wait_stopped()
        assert scope.cancelled_caught
        sender.send_nowait(b"all", finish=True)
        with trio.fail_after(2):
            await sender.wait_stopped()
        assert await read_all(await far.accept_uni()) == b"all"


async def test_reading_in_pieces(pair: Pair) -> None:
    async with pair() as (near, far):
        sender = await near.open_uni()
        sender.send_nowait(b"abc")
        sender.send_nowait(b"defgh", finish=True)
        receiver = await far.accept_uni()
        await until(lambda: far.statistics().receive_buffered == 8)
        with pytest.raises(ValueError, match="at least 1"):
            receiver.receive_nowait(0)
        assert receiver.receive_nowait(2) == b"ab"
        assert receiver.receive_nowait(4) == b"cdef"
        assert receiver.receive_nowait() == b"gh"
        assert receiver.receive_nowait() == b""


async def test_an_aclose_that_is_cancelled_does_not_pretend_the_end(pair: Pair) -> None:
    async with pair() as (near, far):
        sender = await near.open_uni()
        sender.send_nowait(b"half")
        receiver = await far.accept_uni()
        with trio.CancelScope() as scope:
            scope.cancel()
            await sender.aclose()
        with pytest.raises(StreamReset):
            await read_all(receiver)


async def test_higher_priority_first_then_the_older_stream(pair: Pair) -> None:
    settings = plain_settings(connection_window=2000, stream_window=100_000)
    async with pair(client=settings, server=settings) as (near, far):
        plug = near.open_uni_nowait()
        plug.send_nowait(bytes(2000), finish=True)
        plug_receiver = await far.accept_uni()
        await until(lambda: far.statistics().receive_buffered == 2000)
        streams = [near.open_uni_nowait() for _ in range(4)]
        streams[2].set_priority(5)
        for number in (3, 1, 2, 0):
            streams[number].send_nowait(b"%d" % number * 2000, finish=True)
        assert len(await read_all(plug_receiver)) == 2000
        arrived: list[int] = []

        async def read(stream: ReceiveStream) -> None:
            data = await read_all(stream)
            assert len(data) == 2000
            arrived.append(int(data[:1]))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read, await far.accept_uni())
        assert arrived == [2, 0, 1, 3]


async def test_a_thousand_streams_at_once(pair: Pair) -> None:
    async with pair() as (near, far):
        senders = [near.open_uni_nowait() for _ in range(1000)]
        for number, sender in enumerate(senders):
            sender.send_nowait(b"%d:" % number)
        for number, sender in enumerate(senders):
            sender.send_nowait(b"%d" % (number * number), finish=True)
        seen = set()
        for _ in senders:
            number, square = (await read_all(await far.accept_uni())).split(b":")
            assert int(number) ** 2 == int(square)
            seen.add(int(number))
        assert seen == set(range(1000))
        await until(lambda: near.statistics().streams_open == 0)
        assert far.statistics().streams_open == 0


async def test_waiting_is_cancelled_without_loss(pair: Pair) -> None:
    settings = plain_settings(stream_window=100, stream_send_high=200, stream_send_low=100)
    async with pair(client=settings, server=settings) as (near, far):
        sender = await near.open_uni()
        fill(sender, bytes(100))
        full = await far.accept_uni()
        await until(lambda: far.statistics().receive_buffered == 100)
        fill(sender, bytes(100))
        bidi = await near.open_bidi()
        waits: list[Callable[[], Any]] = [
            far.accept_uni,
            near.accept_bidi,
            near.receive_datagram,
            near.wait_closed,
            sender.wait_stopped,
            sender.wait_send_all_might_not_block,
            lambda: sender.send_all(bytes(1000)),
            bidi.receive.receive_some,
        ]
        for wait in waits:
            with trio.move_on_after(0.02) as scope:
                await wait()
            assert scope.cancelled_caught, wait
        bidi.send.send_nowait(b"in", finish=True)
        other = await far.accept_bidi()
        other.send.send_nowait(b"out", finish=True)
        assert await read_all(bidi.receive) == b"out"
        assert len(await full.receive_some()) == 100


async def test_a_local_close_ends_every_wait(pair: Pair) -> None:
    async with pair() as (near, far):
        sender, bidi = await near.open_uni(), await near.open_bidi()
        ended: list[int] = []

        async def expect_the_end(wait: Callable[[], Any]) -> None:
            with pytest.raises(SessionClosed) as raised:
                await wait()
            assert not raised.value.remote
            ended.append(raised.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_the_end, near.accept_uni)
            nursery.start_soon(expect_the_end, near.accept_bidi)
            nursery.start_soon(expect_the_end, near.receive_datagram)
            nursery.start_soon(expect_the_end, bidi.receive.receive_some)
            nursery.start_soon(sender.wait_stopped)
            nursery.start_soon(near.wait_closed)
            await trio.testing.wait_all_tasks_blocked()
            near.close(3, "enough")
            near.close(4, "twice")
        assert ended == [3] * 4
        for attempt in (near.open_uni_nowait, near.accept_uni_nowait):
            with pytest.raises(SessionClosed):
                attempt()
        with pytest.raises(SessionClosed):
            sender.send_nowait(b"x")
        with pytest.raises(SessionClosed):
            await near.open_bidi()

        end = await far.wait_closed()
        assert (end.code, end.reason, end.remote) == (3, "enough", True)
        with pytest.raises(SessionClosed, match="enough"):
            await far.open_uni()


async def test_what_arrived_before_the_peer_closed_can_be_read(pair: Pair) -> None:
    async with pair() as (near, far):
        near.open_uni_nowait().send_nowait(b"last words", finish=True)
        open_sender = near.open_uni_nowait()
        open_sender.send_nowait(b"unfinished")
        await until(lambda: far.statistics().receive_buffered == 20)
        near.close()
        await far.wait_closed()
        assert await read_all(await far.accept_uni()) == b"last words"
        unfinished = await far.accept_uni()
        assert await unfinished.receive_some() == b"unfinished"
        with pytest.raises(SessionClosed):
            await unfinished.receive_some()
        with pytest.raises(SessionClosed):
            await far.accept_uni()


async def test_datagrams_are_bounded_and_checked(pair: Pair) -> None:
    settings = plain_settings(datagram_queue=4)
    async with pair(client=settings, server=settings) as (near, far):
        limit = near.max_datagram_size
        assert limit is not None
        assert limit > 1000
        near.send_datagram_nowait(bytes(limit))
        assert len(await far.receive_datagram()) == limit
        with pytest.raises(ValueError, match="at most"):
            near.send_datagram_nowait(bytes(limit + 1))
        for number in range(4):
            near.send_datagram_nowait(b"%d" % number)
        with pytest.raises(trio.WouldBlock):
            near.send_datagram_nowait(b"one too many")
        assert [await far.receive_datagram() for _ in range(4)] == [b"0", b"1", b"2", b"3"]


async def test_statistics_count_what_is_buffered(pair: Pair) -> None:
    async with pair() as (near, far):
        assert near.is_client
        assert not far.is_client
        assert near.alpn == far.alpn == "moq-lite-05"
        sender = await near.open_uni()
        sender.send_nowait(bytes(5000))
        await until(lambda: far.statistics().receive_buffered == 5000)
        assert near.statistics().bytes_sent >= 5000
        assert near.statistics().streams_open == far.statistics().streams_open == 1
        receiver = await far.accept_uni()
        receiver.receive_nowait(3000)
        assert far.statistics().receive_buffered == 2000


async def test_peeking_after_a_part_was_taken(pair: Pair) -> None:
    async with pair() as (near, far):
        sender = await near.open_uni()
        await sender.send_all(b"0123456789")
        receiver = await far.accept_uni()
        assert await receiver.receive_some(4) == b"0123"
        assert receiver.peek_nowait() == b"456789"
        assert receiver.receive_nowait(2) == b"45"
        assert receiver.peek_nowait() == b"6789"
        assert receiver.receive_nowait() == b"6789"


async def test_crumbs_nobody_reads_are_joined(pair: Pair) -> None:
    async with pair() as (near, far):
        sender = await near.open_uni()
        sender.send_nowait(b"ab")
        receiver = await far.accept_uni()
        for number in range(500):
            sender.send_nowait(b"%04d" % number)
            await trio.testing.wait_all_tasks_blocked()
        await until(lambda: far.statistics().receive_buffered == 2002)
        assert len(receiver._chunks) < 10  # each object takes some 40 bytes by itself
        sender.finish()
        expected = b"ab" + b"".join(b"%04d" % number for number in range(500))
        assert await receiver.receive_some(3) + await read_all(receiver) == expected
