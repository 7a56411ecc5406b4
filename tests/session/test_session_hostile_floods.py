"""A peer that asks for more than anybody needs, byte by byte and all at once, in every version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from session_pairs import reset_code, stop_code
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import SessionCode, StreamCode
from moqtrio.model import Origin
from moqtrio.session import SessionSettings
from moqtrio.session.limits import SessionLimits
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, VERSIONS, Version, encode_varint, lite
from moqtrio.wire.lite import (
    AnnounceRequest,
    BidiStreamType,
    Fetch,
    Goaway,
    Message,
    Probe,
    Setup,
    Subscribe,
    UniStreamType,
    encode_group_header,
)

LIMITS = SessionLimits(
    subscriptions=10, fetches=5, track_infos=5, announcements=3, probes=2, offences=50
)


def subscribe(number: int = 0) -> Subscribe:
    return Subscribe(number, "b", "t", 1, True, 2.0, 0, None)


REQUESTS: dict[int, Message] = {
    BidiStreamType.ANNOUNCE: AnnounceRequest("prefix", None),
    BidiStreamType.SUBSCRIBE: subscribe(),
    BidiStreamType.FETCH: Fetch("b", "t", 1, 70),
    BidiStreamType.PROBE: Probe(1_000_000),
    BidiStreamType.GOAWAY: Goaway("https://elsewhere"),
    BidiStreamType.TRACK: lite.Track("b", "t"),
}


@asynccontextmanager
async def served(
    version: Version = LITE_05,
    *,
    limits: SessionLimits = LIMITS,
    transport: TransportSettings | None = None,
) -> AsyncIterator[Connection]:
    """A client's connection to a session that serves the open track ``b/t``."""
    origin = Origin()
    origin.create_broadcast("b").create_track("t").append_group()
    client, server = memory_connection_pair(settings=transport)
    settings = SessionSettings(limits=limits)
    async with open_session_over(server, version, publish=origin, settings=settings):
        if Setup.exists_in(version):
            setup = await client.accept_uni()
            assert (await setup.receive_some())[0] == UniStreamType.SETUP
        yield client
        await check_alive(client, version)


async def ask(connection: Connection, data: bytes) -> BidiStream:
    stream = await connection.open_bidi()
    await stream.send.send_all(data)
    await wait_all_tasks_blocked()
    return stream


async def check_alive(connection: Connection, version: Version) -> None:
    """The session answers, if it is not over."""
    if connection.closed is None:
        stream = await ask(connection, request(REQUESTS[BidiStreamType.SUBSCRIBE], version))
        stream.send.finish()
        await wait_all_tasks_blocked()
        assert reset_code(stream.receive) is None


def request(message: Message, version: Version) -> bytes:
    (kind,) = [kind for kind, each in REQUESTS.items() if type(each) is type(message)]
    return encode_varint(kind) + message.encode(version)


@pytest.mark.parametrize("how", ["stalled", "fin", "reset", "stopped"])
@pytest.mark.parametrize("version", VERSIONS, ids=str)
async def test_every_request_cut_at_every_byte(
    autojump_clock: MockClock, version: Version, how: str
) -> None:
    async with served(version, limits=SessionLimits(offences=100_000)) as connection:
        for message in REQUESTS.values():
            if not message.exists_in(version):
                continue
            whole = request(message, version)
            for cut in range(len(whole)):
                stream = await ask(connection, whole[:cut])
                if how == "fin":
                    stream.send.finish()
                elif how == "reset":
                    stream.send.reset(9)
                elif how == "stopped":
                    stream.receive.stop(9)
                    stream.send.reset(9)
        await wait_all_tasks_blocked()
        if how == "stalled":
            await trio.sleep(15)
        # On a probe stream nobody has to say anything.
        open_probes = SessionLimits().probes if how == "stalled" else 0
        assert connection.statistics().streams_open <= open_probes


LIMITED: dict[str, Callable[[int], bytes]] = {
    "subscriptions": lambda number: request(subscribe(number), LITE_05),
    "announcements": lambda _: request(AnnounceRequest("", None), LITE_05),
    "probes": lambda _: encode_varint(BidiStreamType.PROBE),
}


@pytest.mark.parametrize("name", LIMITED)
async def test_a_limit_refuses_what_is_too_much_and_nothing_else(name: str) -> None:
    most = getattr(LIMITS, name)
    async with served() as connection:
        streams = [await ask(connection, LIMITED[name](number)) for number in range(most + 3)]
        assert [reset_code(stream.receive) for stream in streams] == [None] * most + [
            StreamCode.NO_CAPACITY
        ] * 3
        assert stop_code(streams[-1].send) == StreamCode.NO_CAPACITY
        streams[0].send.finish()
        await wait_all_tasks_blocked()
        again = await ask(connection, LIMITED[name](most))
        assert reset_code(again.receive) is None
        for stream in (*streams, again):
            stream.send.finish()
        await wait_all_tasks_blocked()


async def test_fetches_that_nobody_reads_are_limited() -> None:
    transport = TransportSettings(stream_window=1000, connection_window=100_000)
    async with served(transport=transport) as connection:
        fetch = request(Fetch("b", "t", 1, 0), LITE_05)  # a group that never ends
        streams = [await ask(connection, fetch) for _ in range(LIMITS.fetches + 1)]
        codes = [reset_code(stream.receive) for stream in streams]
        assert codes == [None] * LIMITS.fetches + [StreamCode.NO_CAPACITY]


@pytest.mark.parametrize(
    "data",
    [
        request(subscribe(), LITE_05),
        b"\x02\x00",
        b"\x06\x05abcde",
        b"\x02" + encode_varint(2**62 - 1),
    ],
    ids=["subscribe", "empty", "junk", "huge"],
)
async def test_ten_thousand_bad_requests_end_the_session_with_a_reason(data: bytes) -> None:
    async with served() as connection:
        keep = await ask(connection, request(subscribe(0), LITE_05))  # so that its id is in use
        for _ in range(10_000):
            if connection.closed is not None:
                break
            await ask(connection, data)
        end = connection.closed
        assert end is not None
        assert (end.code, end.remote) == (SessionCode.PROTOCOL_VIOLATION, True)
        assert "too many requests that cannot be served" in end.reason
        del keep


async def test_offences_are_forgiven_in_time(autojump_clock: MockClock) -> None:
    async with served() as connection:
        for _ in range(500):
            stream = await ask(connection, b"\x02\x00")
            assert reset_code(stream.receive) == StreamCode.MALFORMED
            await trio.sleep(0.2)


async def test_refusals_that_are_no_fault_are_no_offence() -> None:
    async with served() as connection:
        absent = b"\x06" + lite.Track("b", "absent").encode(LITE_05)
        for _ in range(200):
            stream = await ask(connection, absent)
            assert reset_code(stream.receive) == StreamCode.NOT_FOUND


def is_over(connection: Connection) -> bool:
    return connection.closed is not None


async def test_all_streams_opened_and_nothing_said(autojump_clock: MockClock) -> None:
    """Unidirectional and bidirectional: the transport's limits hold, then time is up."""
    transport = TransportSettings(max_streams_uni=200, max_streams_bidi=20)
    async with served(transport=transport) as connection:
        unis = []
        with suppress(trio.WouldBlock):
            for _ in range(1000):
                stream = connection.open_uni_nowait()
                stream.send_nowait(b"")
                unis.append(stream)
        assert len(unis) <= 200
        requests = [await connection.open_bidi() for _ in range(15)]
        for each in requests:
            await each.send.send_all(b"\x02\x40")
        await trio.sleep(5)
        assert not is_over(connection)
        for uni in unis:
            if stop_code(uni) is None:
                await uni.send_all(b"\x40")
        await trio.sleep(10)
        end = connection.closed
        assert end is not None
        assert end.code == SessionCode.PROTOCOL_VIOLATION


async def test_groups_that_nobody_asked_for_are_stopped_and_no_offence() -> None:
    async with served() as connection:
        for sequence in range(200):
            stream = await connection.open_uni()
            await stream.send_all(encode_group_header(99, sequence, LITE_05) + b"\x00\x01a")
            await wait_all_tasks_blocked()
            assert stop_code(stream) == StreamCode.CANCEL


async def test_messages_in_the_wrong_place() -> None:
    """An update before its subscription, a request on a stream of another type, a second
    request on one stream."""
    update = subscribe().wishes.encode(LITE_05)
    async with served() as connection:
        for data in (
            encode_varint(BidiStreamType.SUBSCRIBE) + update,
            encode_varint(BidiStreamType.TRACK) + subscribe().encode(LITE_05),
            encode_varint(BidiStreamType.SUBSCRIBE) + lite.Track("b", "t").encode(LITE_05),
            encode_varint(BidiStreamType.ANNOUNCE) + subscribe().encode(LITE_05),
            request(subscribe(), LITE_05) + subscribe(1).encode(LITE_05),
        ):
            stream = await ask(connection, data)
            assert reset_code(stream.receive) == StreamCode.MALFORMED
        setup = await ask(connection, bytes([UniStreamType.SETUP]) + Setup().encode(LITE_05))
        assert reset_code(setup.receive) is not None


async def test_a_late_setup_is_taken_and_a_second_one_is_not(autojump_clock: MockClock) -> None:
    async with served() as connection:
        await trio.sleep(60)
        for expected in (None, SessionCode.PROTOCOL_VIOLATION):
            stream = await connection.open_uni()
            setup = bytes([UniStreamType.SETUP]) + Setup().encode(LITE_05)
            stream.send_nowait(setup, finish=True)
            await wait_all_tasks_blocked()
            end = connection.closed
            assert (None if end is None else end.code) == expected
