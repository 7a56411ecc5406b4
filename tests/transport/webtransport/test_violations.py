"""What HTTP/3 does not allow ends a connection, or one stream, with the right code."""

from __future__ import annotations

import pytest
import trio

from moqtrio.errors import StreamReset
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.transport.webtransport.codes import H3Code

from ..pairs import plain_settings, read_all
from . import raw
from .raw import frame, headers, serving, settings, varints

HELLO = varints(raw.CONTROL) + settings(raw.SPEAKS)
GOOD = headers(raw.connect_fields())

CONTROL_STREAMS = {
    "no SETTINGS first": (varints(raw.CONTROL) + frame(raw.GOAWAY, b"\0"), "MISSING_SETTINGS"),
    "an unknown frame first": (varints(raw.CONTROL) + frame(0x21), "MISSING_SETTINGS"),
    "SETTINGS twice": (HELLO + settings({}), "FRAME_UNEXPECTED"),
    "DATA": (HELLO + frame(raw.DATA), "FRAME_UNEXPECTED"),
    "HEADERS": (HELLO + GOOD, "FRAME_UNEXPECTED"),
    "PUSH_PROMISE": (HELLO + frame(0x5, b"\0"), "FRAME_UNEXPECTED"),
    "a stream of a session": (HELLO + varints(raw.BIDI, 0), "FRAME_UNEXPECTED"),
    "HTTP/2's PRIORITY": (HELLO + frame(0x2), "FRAME_UNEXPECTED"),
    "HTTP/2's PING": (HELLO + frame(0x6), "FRAME_UNEXPECTED"),
    "HTTP/2's WINDOW_UPDATE": (HELLO + frame(0x8), "FRAME_UNEXPECTED"),
    "HTTP/2's CONTINUATION": (HELLO + frame(0x9), "FRAME_UNEXPECTED"),
    "CANCEL_PUSH": (HELLO + frame(0x3, b"\0"), "ID_ERROR"),
    "an empty GOAWAY": (HELLO + frame(raw.GOAWAY), "FRAME_ERROR"),
    "a GOAWAY with more in it": (HELLO + frame(raw.GOAWAY, b"\0\0"), "FRAME_ERROR"),
    "a GOAWAY cut short": (HELLO + frame(raw.GOAWAY, b"\x40"), "FRAME_ERROR"),
    "a GOAWAY that goes up": (
        HELLO + frame(raw.GOAWAY, b"\x04") + frame(raw.GOAWAY, b"\x08"),
        "ID_ERROR",
    ),
    "a long MAX_PUSH_ID": (HELLO + frame(0xD, bytes(9)), "FRAME_ERROR"),
    "SETTINGS cut in a name": (varints(raw.CONTROL) + frame(raw.SETTINGS, b"\x40"), "FRAME_ERROR"),
    "SETTINGS cut in a value": (
        varints(raw.CONTROL) + frame(raw.SETTINGS, b"\x08\x40"),
        "FRAME_ERROR",
    ),
    "a setting without a value": (
        varints(raw.CONTROL) + frame(raw.SETTINGS, b"\x08"),
        "FRAME_ERROR",
    ),
    "a setting twice": (
        varints(raw.CONTROL) + frame(raw.SETTINGS, varints(0x8, 1, 0x8, 1)),
        "SETTINGS_ERROR",
    ),
    "HTTP/2's setting": (varints(raw.CONTROL) + settings({0x4: 1}), "SETTINGS_ERROR"),
    "a boolean of 2": (varints(raw.CONTROL) + settings({0x33: 2}), "SETTINGS_ERROR"),
    "endless SETTINGS": (
        varints(raw.CONTROL) + varints(raw.SETTINGS, 1 << 40) + bytes(100),
        "EXCESSIVE_LOAD",
    ),
    "a push stream": (varints(raw.PUSH, 0), "STREAM_CREATION_ERROR"),
    "an encoder's nonsense": (varints(raw.ENCODER) + b"\xff" * 12, "QPACK_ENCODER_STREAM_ERROR"),
    "an insertion": (varints(raw.ENCODER) + b"\x41a\x01b", "QPACK_ENCODER_STREAM_ERROR"),
    "a decoder's nonsense": (varints(raw.DECODER) + b"\x81", "QPACK_DECODER_STREAM_ERROR"),
    "a session that is no request": (varints(raw.UNI, 1), "ID_ERROR"),
}


@pytest.mark.parametrize("name", CONTROL_STREAMS)
async def test_a_unidirectional_stream_that_must_not_be(name: str) -> None:
    data, code = CONTROL_STREAMS[name]
    async with serving() as peer:
        await peer.open(data)
        assert await peer.closed_with() == H3Code[code]


@pytest.mark.parametrize("name", CONTROL_STREAMS)
async def test_the_same_byte_by_byte(name: str) -> None:
    data, code = CONTROL_STREAMS[name]
    async with serving() as peer:
        stream = await peer.connection.open_uni()
        for octet in data:
            if peer.connection.closed is None:
                stream.send_nowait(bytes([octet]))
                await trio.testing.wait_all_tasks_blocked()
        assert await peer.closed_with() == H3Code[code]


REQUESTS = {
    "DATA first": (frame(raw.DATA, b"x"), "FRAME_UNEXPECTED"),
    "SETTINGS": (settings({}), "FRAME_UNEXPECTED"),
    "GOAWAY": (frame(raw.GOAWAY, b"\0"), "FRAME_UNEXPECTED"),
    "MAX_PUSH_ID": (frame(0xD, b"\0"), "FRAME_UNEXPECTED"),
    "CANCEL_PUSH": (frame(0x3, b"\0"), "FRAME_UNEXPECTED"),
    "PUSH_PROMISE": (frame(0x5, b"\0"), "FRAME_UNEXPECTED"),
    "HTTP/2's PRIORITY": (frame(0x2), "FRAME_UNEXPECTED"),
    "trailers": (GOOD + GOOD, "FRAME_UNEXPECTED"),
    "a stream of a session, late": (GOOD + varints(raw.BIDI, 0), "FRAME_ERROR"),
    "a session that is no request": (varints(raw.BIDI, 2), "ID_ERROR"),
    "endless HEADERS": (varints(raw.HEADERS, 1 << 40) + bytes(100), "EXCESSIVE_LOAD"),
    "a field section of nonsense": (
        frame(raw.HEADERS, b"\xff\xff\xff\xff"),
        "QPACK_DECOMPRESSION_FAILED",
    ),
    "an empty field section": (frame(raw.HEADERS), "QPACK_DECOMPRESSION_FAILED"),
    "a field without a name": (
        frame(raw.HEADERS, raw.frames_of(GOOD)[0][1] + b"\x20\x01x"),
        "QPACK_DECOMPRESSION_FAILED",
    ),
    "a field of the dynamic table": (
        frame(raw.HEADERS, b"\x02\x00\x80"),
        "QPACK_DECOMPRESSION_FAILED",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_stream_that_must_not_be(name: str) -> None:
    data, code = REQUESTS[name]
    async with serving() as peer:
        await peer.hello()
        await peer.request(data)
        assert await peer.closed_with() == H3Code[code]


async def test_a_connect_stream_may_not_end_within_a_frame() -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.session()
        stream.send.send_nowait(varints(raw.DATA, 10) + b"x", finish=True)
        assert await peer.closed_with() == H3Code.FRAME_ERROR


@pytest.mark.parametrize("kind", [raw.CONTROL, raw.ENCODER, raw.DECODER])
@pytest.mark.parametrize("how", ["finish", "reset"])
async def test_critical_streams_may_not_end(kind: int, how: str) -> None:
    async with serving() as peer:
        start = settings(raw.SPEAKS) if kind == raw.CONTROL else b""
        stream = await peer.open(varints(kind) + start)
        await trio.testing.wait_all_tasks_blocked()
        stream.finish() if how == "finish" else stream.reset(0)
        assert await peer.closed_with() == H3Code.CLOSED_CRITICAL_STREAM


@pytest.mark.parametrize("kind", [raw.CONTROL, raw.ENCODER, raw.DECODER])
async def test_critical_streams_come_once(kind: int) -> None:
    async with serving() as peer:
        start = settings(raw.SPEAKS) if kind == raw.CONTROL else b""
        for _ in range(2):
            await peer.open(varints(kind) + start)
        assert await peer.closed_with() == H3Code.STREAM_CREATION_ERROR


@pytest.mark.parametrize("data", [b"", b"\x40", b"\xc0" + bytes(6), varints(1 << 61)])
async def test_a_datagram_of_no_stream(data: bytes) -> None:
    async with serving() as peer:
        await peer.hello()
        peer.connection.send_datagram_nowait(data)
        assert await peer.closed_with() == H3Code.DATAGRAM_ERROR


MALFORMED: dict[str, dict[str, bytes | None]] = {
    "no method": {"method": None},
    "no authority": {"authority": None},
    "no path": {"path": None},
    "an empty path": {"path": b""},
    "no scheme": {"scheme": None},
    "a path that is not ASCII": {"path": b"/\xff"},
    "a value with a line break": {"origin": b"a\nb"},
    "a value with a null": {"origin": b"a\0b"},
    "a value that starts with a space": {"origin": b" a"},
    "connection": {"connection": b"close"},
    "te": {"te": b"gzip"},
    "an upper-case name": {"Origin": b"x"},
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_ends_its_stream_alone(name: str) -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.request(headers(raw.connect_fields(**MALFORMED[name])))
        await expect_reset(stream, H3Code.MESSAGE_ERROR)
        await peer.session()


@pytest.mark.parametrize(
    "fields",
    [
        [*raw.connect_fields(), (b":path", b"/again")],
        [*raw.connect_fields(), (b":path2", b"/")][::-1],
        [(b"origin", b"x"), *raw.connect_fields()],
        [*raw.connect_fields(), (b":status", b"200")],
    ],
)
async def test_pseudo_fields_come_first_and_once(fields: raw.Fields) -> None:
    async with serving() as peer:
        await peer.hello()
        await expect_reset(await peer.request(headers(fields)), H3Code.MESSAGE_ERROR)


async def test_a_field_section_may_not_unpack_to_much() -> None:
    fields = [*raw.connect_fields(), *((b"accept-encoding", b"gzip, deflate, br"),) * 400]
    async with serving() as peer:
        await peer.hello()
        request = headers(fields)
        assert len(request) < 1000  # one byte each
        await expect_reset(await peer.request(request), H3Code.EXCESSIVE_LOAD)
        await peer.session()


@pytest.mark.parametrize("length", range(len(GOOD)))
async def test_a_request_cut_short(length: int) -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.request(GOOD[:length], finish=True)
        await expect_reset(stream, H3Code.REQUEST_INCOMPLETE)
        await peer.session()


async def test_a_request_that_is_reset() -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.request(GOOD[:10])
        await trio.testing.wait_all_tasks_blocked()
        stream.send.reset(0x10C)
        await expect_reset(stream, H3Code.REQUEST_CANCELLED)
        await peer.session()


async def test_what_is_unknown_is_ignored() -> None:
    grease = 0x1F * 7 + 0x21
    async with serving() as peer:
        control = await peer.hello({**raw.SPEAKS, grease: 5, 0x1: 0, 0x6: 9000})
        control.send_nowait(frame(grease, b"anything") + frame(0xD, b"\x07") + frame(0xF0700, b"x"))
        control.send_nowait(frame(raw.GOAWAY, b"\x08") + frame(raw.GOAWAY, b"\x08"))
        for kind in (raw.ENCODER, raw.DECODER):
            await peer.open(varints(kind) + (b"\x20" if kind == raw.ENCODER else b"\x40"))
        stream = await peer.request(frame(grease, bytes(70_000)) + GOOD)
        kind, section = await raw.next_frame(stream.receive)
        assert raw.fields_of(section)[b":status"] == b"200"
        stream.send.send_nowait(frame(grease) + raw.capsule(grease, bytes(5000)))
        stream.send.send_nowait(frame(raw.DATA) + raw.capsule(raw.DRAIN))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.connection.closed is None


async def test_an_unknown_stream_is_stopped_alone() -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.open(varints(0x21, 1, 2, 3))
        await stream.wait_stopped()
        with pytest.raises(StreamReset) as raised:
            stream.send_nowait(b"more")
        assert raised.value.code == H3Code.STREAM_CREATION_ERROR
        await peer.session()


async def test_streams_that_end_before_they_say_what_they_are() -> None:
    async with serving() as peer:
        await peer.hello()
        await peer.open(b"", finish=True)
        await peer.open(b"\x40", finish=True)
        (await peer.open(b"\x40")).reset(0)
        (await peer.open(b"\x40\x54")).reset(0)
        stream = await peer.request(b"", finish=True)
        await expect_reset(stream, H3Code.REQUEST_INCOMPLETE)
        await peer.session()


CAPSULES = {
    "a short end": (raw.CLOSE, b"\0\0\0"),
    "a long reason": (raw.CLOSE, bytes(4) + b"x" * 1025),
    "a reason that is no text": (raw.CLOSE, bytes(4) + b"\xff"),
    "a DRAIN with something in it": (raw.DRAIN, b"x"),
}


@pytest.mark.parametrize("name", CAPSULES)
async def test_a_malformed_capsule_ends_its_session(name: str) -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.session()
        stream.send.send_nowait(raw.capsule(*CAPSULES[name]))
        await expect_reset(stream, H3Code.MESSAGE_ERROR)
        await peer.session()


@pytest.mark.parametrize("length", range(1, 15))
async def test_a_capsule_cut_short(length: int) -> None:
    ends: list[int] = []

    async def handler(session: Connection) -> None:
        ends.append((await session.wait_closed()).code)

    whole = frame(raw.CLOSE, b"\0\0\0\x07reason..")
    async with serving(handler) as peer:
        await peer.hello()
        stream = await peer.session()
        stream.send.send_nowait(frame(raw.DATA, whole[:length]), finish=True)
        if length < len(whole):
            await expect_reset(stream, H3Code.MESSAGE_ERROR)
        await trio.testing.wait_all_tasks_blocked()
        assert ends == [3 if length < len(whole) else 7]


async def test_something_after_the_end_of_a_session() -> None:
    async with serving() as peer:
        await peer.hello()
        stream = await peer.session()
        stream.send.send_nowait(raw.capsule(raw.CLOSE, bytes(4)) + frame(raw.DATA, b"more"))
        await stream.send.wait_stopped()
        with pytest.raises(StreamReset) as raised:
            stream.send.send_nowait(b"x")
        assert raised.value.code == H3Code.MESSAGE_ERROR


async def expect_reset(stream: BidiStream, code: H3Code) -> None:
    with trio.fail_after(60), pytest.raises(StreamReset) as raised:
        await read_all(stream.receive)
    assert raised.value.code == code


async def test_a_flood_of_streams_that_say_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(settings=plain_settings(max_streams_uni=500)) as peer:
        await peer.hello()
        stream = await peer.session()
        opened = []
        while True:
            try:
                opened.append(peer.connection.open_uni_nowait())
            except trio.WouldBlock:
                break
        assert len(opened) == 499
        # They are given up after a while, in turn, and the limit allows as many again.
        for each in opened:
            await each.wait_stopped()
        late = await peer.connection.open_uni()
        late.send_nowait(varints(raw.UNI, 0) + b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert late.unsent == 0
        assert peer.connection.closed is None
        assert stream.send.stream_id == 0
