"""What a server does with requests, sessions and their streams."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from moqtrio.errors import SessionClosed, StreamReset
from moqtrio.transport.connection import Connection, ReceiveStream
from moqtrio.transport.quic.codes import BUFFERED_STREAM_REJECTED, SESSION_GONE
from moqtrio.transport.webtransport import WebTransportRequest, WebTransportSession
from moqtrio.transport.webtransport.codes import H3Code

from ..pairs import plain_settings, read_all
from . import raw
from .raw import serving, varints

Wait = Callable[[], Awaitable[object]]


class Sessions:
    """Hands the sessions of a server to the test, and keeps their handlers running."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[WebTransportSession](100)
        self.leave = trio.Event()

    async def __call__(self, session: Connection) -> None:
        assert isinstance(session, WebTransportSession)
        self._send.send_nowait(session)
        await self.leave.wait()

    async def next(self) -> WebTransportSession:
        with trio.fail_after(60):
            return await self._receive.receive()


async def test_settings_and_the_answer() -> None:
    async with serving(max_sessions=3) as peer:
        control = await peer.connection.accept_uni()
        assert await control.receive_some(1) == b"\0"
        kind, value = await raw.next_frame(control)
        assert kind == raw.SETTINGS
        said = raw.settings_of(value)
        # What a peer of draft 02, and one of draft 07, looks for.
        assert (
            said.items()
            >= {
                0x8: 1,
                0x33: 1,
                0xFFD277: 1,
                0x2B603742: 1,
                0x2B603743: 3,
                0xC671706A: 3,
            }.items()
        )
        await peer.hello()
        _, fields = await peer.connect()
        assert fields == {
            b":status": b"200",
            b"wt-protocol": b'"moq-lite-05"',
            b"sec-webtransport-http3-draft": b"draft02",
        }


async def test_a_session_knows_what_was_asked_for() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        await peer.session()
        session = await sessions.next()
        assert session.request_path == "/room?x=1"
        assert session.authority == "example.test"
        assert session.alpn == "moq-lite-05"
        assert not session.is_client
        assert session.remote_address == "memory:client"


async def test_the_servers_preference_decides() -> None:
    async with serving(protocols=["c", "b", "a"]) as peer:
        await peer.hello()
        _, fields = await peer.connect(wt_available_protocols=b'"a", "b"')
        assert fields[b"wt-protocol"] == b'"b"'


@pytest.mark.parametrize(
    "offer", [None, b'"other"', b"moq-lite-05", b'"moq-lite-05', b"", b"(1 2)"]
)
async def test_no_protocol_in_common_is_refused_with_those_there_are(offer: bytes | None) -> None:
    async with serving(protocols=["x", "y"]) as peer:
        await peer.hello()
        _, fields = await peer.connect(wt_available_protocols=offer)
        assert fields == {b":status": b"400", b"wt-available-protocols": b'"x", "y"'}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": b"GET", "protocol": None}, b"404"),
        ({"method": b"HEAD", "protocol": None}, b"404"),
        ({"method": b"POST", "protocol": None}, b"405"),
        ({"protocol": None, "scheme": None, "path": None}, b"405"),
        ({"protocol": b"websocket"}, b"501"),
        ({"scheme": b"http"}, b"400"),
        ({"path": b"*"}, b"400"),
    ],
)
async def test_requests_for_something_else(changes: dict[str, bytes | None], status: bytes) -> None:
    async with serving() as peer:
        await peer.hello()
        stream, fields = await peer.connect(**changes)
        assert fields[b":status"] == status
        assert await read_all(stream.receive) == b""
        assert not stream.send.unsent
        await peer.session()


async def test_a_request_is_decided_by_what_it_says() -> None:
    asked: list[WebTransportRequest] = []

    def refuse(request: WebTransportRequest) -> int | None:
        asked.append(request)
        return 403 if request.origin == "https://evil.test" else None

    async with serving(refuse=refuse) as peer:
        await peer.hello()
        _, fields = await peer.connect(origin=b"https://evil.test")
        assert fields == {b":status": b"403"}
        await peer.session()
    assert asked == [
        WebTransportRequest("example.test", "/room?x=1", origin, ("zz", "moq-lite-05"))
        for origin in ("https://evil.test", None)
    ]


async def test_a_refused_client_may_go_on_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as peer:
        await peer.hello()
        await peer.session()
        stream, _ = await peer.connect(method=b"GET", protocol=None)
        for _ in range(3):
            stream.send.send_nowait(raw.frame(raw.DATA, b"body"))
            await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await stream.send.wait_stopped()
        assert trio.current_time() - before == pytest.approx(10)
        with pytest.raises(StreamReset) as raised:
            stream.send.send_nowait(b"x")
        assert raised.value.code == H3Code.NO_ERROR


async def test_sessions_have_a_limit_and_make_room() -> None:
    sessions = Sessions()
    async with serving(sessions, max_sessions=2) as peer:
        await peer.hello()
        await peer.session()
        second = await peer.session()
        _, fields = await peer.connect()
        assert fields == {b":status": b"429"}
        second.send.finish()
        await trio.testing.wait_all_tasks_blocked()
        sessions.leave.set()
        await trio.testing.wait_all_tasks_blocked()
        await peer.session()


async def test_requests_under_way_have_a_limit() -> None:
    async with serving() as peer:
        await peer.hello()
        streams = [await peer.request(b"\x01") for _ in range(17)]
        with pytest.raises(StreamReset) as raised:
            await streams[-1].receive.receive_some()
        assert raised.value.code == H3Code.REQUEST_REJECTED
        with pytest.raises(trio.WouldBlock):
            streams[0].receive.receive_nowait()


async def test_a_request_has_so_much_time(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as peer:
        await peer.hello()
        await peer.session()
        stream = await peer.request(b"\x01")
        with pytest.raises(StreamReset) as raised:
            await stream.receive.receive_some()
        assert raised.value.code == H3Code.REQUEST_INCOMPLETE
        assert trio.current_time() == pytest.approx(10)


async def test_no_session_without_settings(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as peer:
        stream = await peer.request(raw.headers(raw.connect_fields()))
        with trio.move_on_after(5) as scope:
            await stream.receive.receive_some()
        assert scope.cancelled_caught
        await peer.hello()
        kind, _ = await raw.next_frame(stream.receive)
        assert kind == raw.HEADERS


async def test_a_connection_without_sessions_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        await trio.sleep(9)
        stream = await peer.session()
        await trio.sleep(100)
        assert peer.connection.closed is None
        stream.send.finish()
        sessions.leave.set()
        assert await peer.closed_with() == H3Code.NO_ERROR
        assert trio.current_time() == pytest.approx(119)


# Streams


async def test_streams_before_their_session_wait_for_it() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        connect = await peer.connection.open_bidi()
        for number in range(3):
            await peer.open(varints(raw.UNI, 0) + b"%d" % number, finish=True)
        await peer.request(varints(raw.BIDI, 0) + b"both", finish=True)
        await trio.testing.wait_all_tasks_blocked()
        connect.send.send_nowait(raw.headers(raw.connect_fields()))
        session = await sessions.next()
        for number in range(3):
            assert await read_all(await session.accept_uni()) == b"%d" % number
        assert await read_all((await session.accept_bidi()).receive) == b"both"


async def test_streams_that_wait_for_a_session_have_a_limit() -> None:
    async with serving() as peer:
        await peer.hello()
        streams = [await peer.open(varints(raw.UNI, 0) + b"x") for _ in range(65)]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StreamReset) as raised:
            streams[-1].send_nowait(b"x")
        assert raised.value.code == BUFFERED_STREAM_REJECTED
        streams[0].send_nowait(b"y")
        # The request is refused, and with it what waited.
        await peer.connect(path=b"*")
        await trio.testing.wait_all_tasks_blocked()
        for stream in streams[:-1]:
            with pytest.raises(StreamReset) as raised:
                stream.send_nowait(b"x")
            assert raised.value.code == SESSION_GONE
        await peer.open(varints(raw.UNI, 0) + b"x")


async def test_a_prefix_that_dribbles() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        await peer.session()
        session = await sessions.next()
        uni = await peer.connection.open_uni()
        bidi = await peer.connection.open_bidi()
        for octet in varints(raw.UNI, 0):
            uni.send_nowait(bytes([octet]))
            await trio.testing.wait_all_tasks_blocked()
        uni.send_nowait(b"late", finish=True)
        for octet in varints(raw.BIDI, 0):
            bidi.send.send_nowait(bytes([octet]))
            await trio.testing.wait_all_tasks_blocked()
        bidi.send.send_nowait(b"later", finish=True)
        assert await read_all(await session.accept_uni()) == b"late"
        assert await read_all((await session.accept_bidi()).receive) == b"later"


async def test_streams_nobody_accepted_count() -> None:
    """Also where nothing of them is unread."""
    sessions = Sessions()
    async with serving(sessions, settings=plain_settings(max_streams_uni=5)) as peer:
        await peer.hello()
        await peer.session()
        session = await sessions.next()
        for _ in range(4):
            await peer.open(varints(raw.UNI, 0), finish=True)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            peer.connection.open_uni_nowait()
        assert await read_all(await session.accept_uni()) == b""
        peer.connection.open_uni_nowait()


async def test_each_session_has_its_own_streams_and_datagrams() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        connects = [await peer.session() for _ in range(2)]
        both = [await sessions.next() for _ in range(2)]
        for connect in reversed(connects):
            number = connect.send.stream_id
            await peer.open(varints(raw.UNI, number) + b"%d" % number, finish=True)
            peer.connection.send_datagram_nowait(varints(number // 4) + b"%d" % number)
        peer.connection.send_datagram_nowait(varints(99) + b"nobody's")
        for session, connect in zip(both, connects, strict=True):
            text = b"%d" % connect.send.stream_id
            assert await read_all(await session.accept_uni()) == text
            assert await session.receive_datagram() == text
            session.open_uni_nowait().send_nowait(b"mine", finish=True)
            session.send_datagram_nowait(b"mine")
        await peer.connection.accept_uni()  # control
        for connect in connects:
            number = connect.send.stream_id
            stream = await peer.connection.accept_uni()
            assert await read_all(stream) == varints(raw.UNI, number) + b"mine"
            assert await peer.connection.receive_datagram() == varints(number // 4) + b"mine"


async def test_one_session_ends_without_the_other() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        first, second = await peer.session(), await peer.session()
        one, other = await sessions.next(), await sessions.next()
        ours = one.open_uni_nowait()
        theirs = await peer.open(varints(raw.UNI, 0) + b"x")
        kept = other.open_uni_nowait()
        received = await one.accept_uni()
        first.send.send_nowait(raw.capsule(raw.CLOSE, b"\0\0\0\x07enough"), finish=True)
        end = await one.wait_closed()
        assert (end.code, end.reason, end.remote) == (7, "enough", True)
        with pytest.raises(SessionClosed):
            ours.send_nowait(b"x")
        assert await received.receive_some() == b"x"
        with pytest.raises(SessionClosed):
            await received.receive_some()
        with pytest.raises(StreamReset) as raised:
            theirs.send_nowait(b"x")
        assert raised.value.code == SESSION_GONE
        assert await read_to_frames(first.receive) == []
        # One more for the session that is over.
        late = await peer.open(varints(raw.UNI, 0) + b"x")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StreamReset) as raised:
            late.send_nowait(b"x")
        assert raised.value.code == SESSION_GONE
        assert other.closed is None
        kept.send_nowait(b"still here", finish=True)
        await peer.open(varints(raw.UNI, second.send.stream_id) + b"y", finish=True)
        assert await read_all(await other.accept_uni()) == b"y"


async def read_to_frames(stream: ReceiveStream) -> list[tuple[int, bytes]]:
    with trio.fail_after(60):
        return raw.frames_of(await read_all(stream))


async def test_closing_a_session_says_why() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        connect = await peer.session()
        session = await sessions.next()
        sender = session.open_uni_nowait()
        theirs = await peer.open(varints(raw.UNI, 0) + b"x")
        received = await session.accept_uni()
        session.close(3, "no more")
        session.close(4, "twice")
        capsule = raw.frame(raw.CLOSE, b"\0\0\0\x03no more")
        assert await read_to_frames(connect.receive) == [(raw.DATA, capsule)]
        with pytest.raises(SessionClosed) as raised:
            await received.receive_some()
        assert (raised.value.code, raised.value.remote) == (3, False)
        with pytest.raises(SessionClosed):
            sender.send_nowait(b"x")
        # Its streams go once the peer has confirmed: until then it may read what came.
        theirs.send_nowait(b"x")
        connect.send.finish()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StreamReset) as stopped:
            theirs.send_nowait(b"x")
        assert stopped.value.code == SESSION_GONE


async def test_a_reset_of_the_connect_stream_ends_the_session() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        connect = await peer.session()
        session = await sessions.next()
        connect.send.reset(H3Code.REQUEST_CANCELLED)
        end = await session.wait_closed()
        assert end.remote
        assert "H3_REQUEST_CANCELLED" in end.reason
        assert peer.connection.closed is None


async def test_a_peer_that_never_confirms_is_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    count = 0

    async def handler(session: Connection) -> None:
        nonlocal count
        count += 1
        if count == 1:
            session.close(3, "over")
        await session.wait_closed()

    async with serving(handler) as peer:
        await peer.hello()
        connect = await peer.session()
        await peer.session()
        await connect.send.wait_stopped()
        with pytest.raises(StreamReset) as raised:
            connect.send.send_nowait(b"x")
        assert raised.value.code == H3Code.NO_ERROR


async def test_a_session_gives_back_what_it_did_not_read() -> None:
    """Credit of the connection, its streams, and of bytes: other sessions need it."""
    settings = plain_settings(connection_window=20_000, max_streams_uni=9, max_streams_bidi=9)
    seen: list[Connection] = []

    async def handler(session: Connection) -> None:
        seen.append(session)
        await session.accept_uni()
        await session.accept_bidi()
        await trio.testing.wait_all_tasks_blocked()

    async with serving(handler, settings=settings) as peer:
        await peer.hello()
        for _ in range(20):
            connect = await peer.session()
            number = connect.send.stream_id
            accepted = await peer.open(varints(raw.UNI, number) + bytes(4000), finish=True)
            waiting = await peer.open(varints(raw.UNI, number) + bytes(4000), finish=True)
            unfinished = await peer.open(varints(raw.UNI, number) + bytes(4000))
            bidi = await peer.request(varints(raw.BIDI, number) + bytes(4000))
            for stream in (accepted, waiting, unfinished, bidi.send):
                with trio.fail_after(60):
                    await stream.wait_stopped()
            assert await read_to_frames(connect.receive)
            connect.send.finish()
            await trio.testing.wait_all_tasks_blocked()
    assert len(seen) == 20


async def test_a_handler_that_fails_ends_its_session_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = 0

    async def handler(session: Connection) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise ValueError("a defect")
        await session.wait_closed()

    async with serving(handler) as peer:
        await peer.hello()
        first, second = await peer.session(), await peer.session()
        frames = await read_to_frames(first.receive)
        assert frames == [(raw.DATA, raw.frame(raw.CLOSE, b"\0\0\0\x01internal error"))]
        with pytest.raises(trio.WouldBlock):
            second.receive.receive_nowait()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_cancelling_a_server_closes_sessions_and_connection() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello()
        connect = await peer.session()
        await sessions.next()
        peer.cancel_server()
        frames = await read_to_frames(connect.receive)
        assert frames == [(raw.DATA, raw.frame(raw.CLOSE, b"\0\0\0\0server shut down"))]
        assert await peer.closed_with() == H3Code.NO_ERROR


@pytest.mark.parametrize(
    ("wire", "code", "reason"),
    [
        (0x100, 0, ""),
        (0, 0, ""),
        (0x52E4A40FA8DB + 3, 3, ""),
        (0x52E4A40FA8DB + 31, 30, ""),
        (0x101, 1, "HTTP/3 H3_GENERAL_PROTOCOL_ERROR: no reason given"),
        (0x200, 1, "HTTP/3 QPACK_DECOMPRESSION_FAILED: no reason given"),
        (0x777, 1, "HTTP/3 code 0x777: no reason given"),
    ],
)
async def test_the_end_of_the_connection_ends_its_sessions(
    wire: int, code: int, reason: str
) -> None:
    sessions = Sessions()
    async with serving(sessions, settings=plain_settings(max_streams_uni=1)) as peer:
        await peer.hello()
        await peer.session()
        session = await sessions.next()
        waits: list[Wait] = [session.accept_uni, session.receive_datagram, session.open_uni]
        ended: list[int] = []

        async def expect_the_end(wait: Wait) -> None:
            with pytest.raises(SessionClosed) as raised:
                await wait()
            ended.append(raised.value.code)

        async with trio.open_nursery() as nursery:
            for wait in waits:
                nursery.start_soon(expect_the_end, wait)
            await trio.testing.wait_all_tasks_blocked()
            peer.connection.close(wire)
        end = await session.wait_closed()
        assert (end.code, end.reason, end.remote) == (code, reason, True)
        assert ended == [code] * 3


async def test_waiting_for_a_stream_ends_with_the_session() -> None:
    sessions = Sessions()
    settings = plain_settings(max_streams_uni=2, max_streams_bidi=1)
    async with serving(sessions, settings=settings) as peer:
        await peer.hello()
        connect = await peer.session()
        session = await sessions.next()
        await session.open_uni()
        with pytest.raises(trio.WouldBlock):
            session.open_uni_nowait()
        await session.open_bidi()

        async def expect_the_end(opening: Wait) -> None:
            with pytest.raises(SessionClosed):
                await opening()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_the_end, session.open_uni)
            nursery.start_soon(expect_the_end, session.open_bidi)
            await trio.testing.wait_all_tasks_blocked()
            connect.send.send_nowait(raw.capsule(raw.CLOSE, bytes(4)), finish=True)
        with pytest.raises(SessionClosed):
            await session.open_uni()


async def test_datagrams_only_where_the_peer_takes_them() -> None:
    sessions = Sessions()
    async with serving(sessions) as peer:
        await peer.hello({0x8: 1})
        await peer.session()
        session = await sessions.next()
        assert session.max_datagram_size is None
        with pytest.raises(ValueError, match="takes no datagrams"):
            session.send_datagram_nowait(b"x")
