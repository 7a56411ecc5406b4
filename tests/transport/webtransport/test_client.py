"""What a client makes of a server's answers, good and bad."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from moqtrio.errors import ConnectError, SessionClosed, StreamReset
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.quic.codes import SESSION_GONE
from moqtrio.transport.webtransport import open_webtransport
from moqtrio.transport.webtransport.codes import H3Code

from ..pairs import plain_settings, read_all
from . import raw
from .raw import Peer, frame, headers, settings, varints

Script = Callable[[Peer], Awaitable[None]]


def opening(connection: Connection) -> Any:
    return open_webtransport(
        connection, authority="example.test:4443", path="/room?x=1", protocols=["a", "moq-lite-05"]
    )


@asynccontextmanager
async def against(script: Script) -> AsyncIterator[tuple[Connection, Peer]]:
    """A client's connection, and the server that follows a script."""
    near, far = memory_connection_pair(alpn="h3", settings=plain_settings())
    peer = Peer(far)

    async def follow() -> None:
        with suppress(SessionClosed):  # clients leave when they have seen enough
            await script(peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        yield near, peer
        far.close()
        nursery.cancel_scope.cancel()


def answering(answer: bytes, *, finish: bool = False, said: dict[int, int] | None = None) -> Script:
    async def script(peer: Peer) -> None:
        await peer.hello(said)
        stream = await peer.connection.accept_bidi()
        await raw.next_frame(stream.receive)
        stream.send.send_nowait(answer, finish=finish)

    return script


async def accepted_request(peer: Peer) -> BidiStream:
    stream = await peer.connection.accept_bidi()
    await raw.next_frame(stream.receive)
    stream.send.send_nowait(raw.accepted())
    return stream


async def test_the_request() -> None:
    requests = []

    async def script(peer: Peer) -> None:
        await peer.hello()
        stream = await peer.connection.accept_bidi()
        requests.append(await raw.next_frame(stream.receive))
        stream.send.send_nowait(raw.accepted())
        control = await peer.connection.accept_uni()
        assert await control.receive_some(1) == b"\0"
        kind, _ = await raw.next_frame(control)
        assert kind == raw.SETTINGS

    async with against(script) as (near, _), opening(near) as session:
        assert session.alpn == "moq-lite-05"
        assert session.is_client
        assert session.request_path == "/room?x=1"
    [(kind, section)] = requests
    assert kind == raw.HEADERS
    assert raw.fields_of(section) == {
        b":method": b"CONNECT",
        b":protocol": b"webtransport",
        b":scheme": b"https",
        b":authority": b"example.test:4443",
        b":path": b"/room?x=1",
        b"sec-webtransport-http3-draft02": b"1",
        b"wt-available-protocols": b'"a", "moq-lite-05"',
    }


REFUSALS = {
    "404": (headers([(b":status", b"404")]), "status 404; check the path"),
    "400": (headers([(b":status", b"400")]), "status 400; .*protocols"),
    "401": (headers([(b":status", b"401")]), "status 401; .*token"),
    "403": (headers([(b":status", b"403")]), "status 403; .*origin"),
    "405": (headers([(b":status", b"405")]), "status 405; "),
    "429": (headers([(b":status", b"429")]), "status 429; .*too many sessions"),
    "503": (headers([(b":status", b"503")]), "status 503; "),
    "302": (headers([(b":status", b"302")]), "status 302; .*no further reason"),
    "no protocol": (
        headers([(b":status", b"200")]),
        "chose no protocol; this side offered a, moq-lite-05",
    ),
    "another protocol": (raw.accepted(b'"b"'), "chose 'b'; this side offered a, moq-lite-05"),
    "two protocols": (raw.accepted(b'"a", "b"'), "chose 'a'; this side offered"),
    "a token": (raw.accepted(b"a"), "chose no protocol"),
    "the server's protocols": (
        headers([(b":status", b"400"), (b"wt-available-protocols", b'"x", "y"')]),
        r"none of the protocols .*: it has x, y; this side has a, moq-lite-05 \(status 400\)",
    ),
    "no status": (headers([(b"server", b"x")]), "does not allow: an answer without a status"),
    "a status of two digits": (headers([(b":status", b"20")]), "without a status"),
    "a request": (headers([(b":status", b"200"), (b":path", b"/")]), "without a status"),
    "DATA first": (frame(raw.DATA, b"x"), "does not allow: a frame of type 0x0"),
    "endless interim answers": (headers([(b":status", b"103")]) * 9, "does not allow: interim"),
    "nonsense": (frame(raw.HEADERS, b"\xff\xff\xff\xff"), "does not allow: a field section"),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("finish", [False, True])
async def test_answers_that_make_no_session(name: str, finish: bool) -> None:
    answer, message = REFUSALS[name]
    async with against(answering(answer, finish=finish)) as (near, _):
        with pytest.raises(ConnectError, match=message):
            await enter(near)
        assert near.closed is not None


async def enter(connection: Connection) -> None:
    with trio.fail_after(60):
        async with opening(connection):
            pass


@pytest.mark.parametrize("length", range(len(raw.accepted())))
async def test_an_answer_cut_short(length: int) -> None:
    async with against(answering(raw.accepted()[:length], finish=True)) as (near, _):
        with pytest.raises(ConnectError, match="without an answer"):
            await enter(near)


async def test_interim_answers_are_passed_over() -> None:
    answer = headers([(b":status", b"103")]) * 3 + frame(0x21, b"grease") + raw.accepted()
    async with against(answering(answer)) as (near, _), opening(near) as session:
        assert session.alpn == "moq-lite-05"


async def test_an_answer_and_the_end_at_once() -> None:
    answer = raw.accepted() + raw.capsule(raw.CLOSE, b"\0\0\0\x05go away")
    async with against(answering(answer, finish=True)) as (near, _), opening(near) as session:
        end = await session.wait_closed()
        assert (end.code, end.reason, end.remote) == (5, "go away", True)


@pytest.mark.parametrize("said", [{}, {0x8: 1}, {0x2B603742: 1}, {0x8: 0, 0x2B603742: 1}])
async def test_a_server_without_webtransport(said: dict[int, int]) -> None:
    async with against(answering(b"", said=said)) as (near, _):
        with pytest.raises(ConnectError, match="its SETTINGS offer no WebTransport"):
            await enter(near)


@pytest.mark.parametrize("setting", [0x2B603742, 0x2B603743, 0xC671706A, 0x14E9CD29, 0x2C7CF000])
async def test_every_draft_says_so_in_its_own_way(setting: int) -> None:
    script = answering(raw.accepted(), said={0x8: 1, setting: 1})
    async with against(script) as (near, _), opening(near) as session:
        assert session.max_datagram_size is None


async def test_a_server_that_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async def silent(peer: Peer) -> None:
        await trio.sleep_forever()

    async with against(silent) as (near, _):
        with pytest.raises(ConnectError, match=r"did not answer .* within 10 s"):
            await enter(near)


async def test_a_server_that_does_not_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with against(answering(b"")) as (near, _):
        with pytest.raises(ConnectError, match=r"did not answer .* within 10 s"):
            await enter(near)


@pytest.mark.parametrize("when", ["before SETTINGS", "instead of an answer"])
async def test_a_server_that_goes_away(when: str) -> None:
    async def script(peer: Peer) -> None:
        if when != "before SETTINGS":
            await peer.hello()
            await peer.connection.accept_bidi()
        peer.connection.close(0x101, "no")

    async with against(script) as (near, _):
        with pytest.raises(ConnectError, match=r"no WebTransport session.*: no \(code 257\)"):
            await enter(near)


async def test_a_refusal_by_reset() -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        stream = await peer.connection.accept_bidi()
        stream.send.reset(H3Code.REQUEST_REJECTED)

    async with against(script) as (near, _):
        with pytest.raises(ConnectError, match="refused the WebTransport request"):
            await enter(near)


async def test_goaway_before_the_answer() -> None:
    async def script(peer: Peer) -> None:
        control = await peer.hello()
        await peer.connection.accept_bidi()
        control.send_nowait(frame(raw.GOAWAY, b"\0"))

    async with against(script) as (near, _):
        with pytest.raises(ConnectError, match="going away"):
            await enter(near)


async def test_goaway_lets_a_session_end_in_peace() -> None:
    async def script(peer: Peer) -> None:
        control = await peer.hello()
        stream = await accepted_request(peer)
        control.send_nowait(frame(raw.GOAWAY, b"\x04"))
        stream.send.send_nowait(raw.capsule(raw.DRAIN))

    async with against(script) as (near, _), opening(near) as session:
        await trio.testing.wait_all_tasks_blocked()
        assert session.closed is None


VIOLATIONS = {
    "a request from a server": ("bidi", headers(raw.connect_fields()), "STREAM_CREATION_ERROR"),
    "a stream of no session": ("uni", varints(raw.UNI, 4), "ID_ERROR"),
    "both ways": ("bidi", varints(raw.BIDI, 4), "ID_ERROR"),
    "a push": ("uni", varints(raw.PUSH, 0), "ID_ERROR"),
    "MAX_PUSH_ID": ("control", frame(0xD, b"\0"), "FRAME_UNEXPECTED"),
    "GOAWAY for a stream of a server": ("control", frame(raw.GOAWAY, b"\x01"), "ID_ERROR"),
    "SETTINGS twice": ("control", settings({}), "FRAME_UNEXPECTED"),
    "trailers": ("connect", raw.accepted(), "FRAME_UNEXPECTED"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_server_that_breaks_the_rules(name: str) -> None:
    where, data, code = VIOLATIONS[name]

    async def script(peer: Peer) -> None:
        control = await peer.hello()
        connect = await accepted_request(peer)
        await trio.testing.wait_all_tasks_blocked()
        if where == "uni":
            await peer.open(data)
        elif where == "bidi":
            await peer.request(data)
        else:
            (control if where == "control" else connect.send).send_nowait(data)

    async with against(script) as (near, peer), opening(near) as session:
        end = await session.wait_closed()
        assert not end.remote
        assert code in end.reason
        assert await peer.closed_with() == H3Code[code]


async def test_streams_that_overtake_the_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        stream = await peer.connection.accept_bidi()
        await raw.next_frame(stream.receive)
        await peer.open(varints(raw.UNI, 0) + b"early", finish=True)
        await trio.testing.wait_all_tasks_blocked()
        stream.send.send_nowait(raw.accepted())

    async with against(script) as (near, _), opening(near) as session:
        assert await read_all(await session.accept_uni()) == b"early"


@pytest.mark.parametrize("leave", ["end", "error", "cancel", "close"])
async def test_leaving_says_so_on_the_stream_and_on_the_connection(leave: str) -> None:
    came = trio.Event()
    frames = []
    streams = []

    async def script(peer: Peer) -> None:
        await peer.hello()
        stream = await accepted_request(peer)
        streams.append(await peer.open(varints(raw.UNI, 0) + b"x"))
        frames.extend(raw.frames_of(await read_all(stream.receive)))
        came.set()

    async with against(script) as (near, peer):
        with trio.CancelScope() as scope:
            try:
                async with opening(near) as session:
                    await session.accept_uni()
                    if leave == "error":
                        raise KeyError("mine")
                    if leave == "cancel":
                        scope.cancel()
                    if leave == "close":
                        session.close(3, "why")
                        session.close(4, "twice")
            except KeyError:
                assert leave == "error"
        await came.wait()
        said = b"\0\0\0\x03why" if leave == "close" else bytes(4)
        assert frames == [(raw.DATA, frame(raw.CLOSE, said))]
        code = await peer.closed_with()
        assert code == (0x52E4A40FA8DB + 3 if leave == "close" else H3Code.NO_ERROR)
        with pytest.raises(SessionClosed):
            session.open_uni_nowait()
        with pytest.raises(SessionClosed):
            streams[0].send_nowait(b"x")


async def test_the_server_ends_the_session() -> None:
    streams = []

    async def script(peer: Peer) -> None:
        await peer.hello()
        stream = await accepted_request(peer)
        streams.append(await peer.open(varints(raw.UNI, 0) + b"last words"))
        stream.send.send_nowait(raw.capsule(raw.CLOSE, b"\0\0\0\x07reason"), finish=True)
        assert await read_all(stream.receive) == b""
        streams.append(await peer.open(varints(raw.UNI, 0) + b"too late"))

    async with against(script) as (near, _), opening(near) as session:
        mine = session.open_uni_nowait()
        end = await session.wait_closed()
        assert (end.code, end.reason, end.remote) == (7, "reason", True)
        received = await session.accept_uni()
        assert await received.receive_some() == b"last words"
        with pytest.raises(SessionClosed, match="reason"):
            mine.send_nowait(b"x")
        await trio.testing.wait_all_tasks_blocked()
        for stream in streams:
            with pytest.raises(StreamReset) as raised:
                stream.send_nowait(b"x")
            assert raised.value.code == SESSION_GONE


async def test_only_connections_of_this_library() -> None:
    with pytest.raises(TypeError, match="own connections"):
        await enter(object())  # type: ignore[arg-type]  # that is the point


async def test_a_protocol_has_a_printable_name() -> None:
    async with against(answering(b"")) as (near, _):
        with pytest.raises(ValueError, match="printable ASCII"):
            async with open_webtransport(near, authority="a", path="/", protocols=["ü"]):
                pass
