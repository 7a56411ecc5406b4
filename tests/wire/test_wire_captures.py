"""Every byte a moq-lite-05 peer nobody here wrote has sent or accepted, there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from moqtrio.model.frame import Frame
from moqtrio.wire import encode_varint, lite
from moqtrio.wire.lite import BidiStreamType, MessageDecoder, UniStreamType

CAPTURES = Path(__file__).with_name("moq_lite_05_captures.txt")
TIMESCALE = 1000

REQUESTS: dict[int, type[lite.Message]] = {
    BidiStreamType.ANNOUNCE: lite.AnnounceRequest,
    BidiStreamType.SUBSCRIBE: lite.Subscribe,
    BidiStreamType.FETCH: lite.Fetch,
    BidiStreamType.TRACK: lite.Track,
}


@attrs.frozen
class Line:
    """One line of the capture: what went over one stream in one direction."""

    number: int
    sent: bool
    stream: tuple[int, int]  # the section of the capture, the stream's id
    data: bytes
    ended: bool


def read_lines() -> Iterator[Line]:
    section = 0
    for number, text in enumerate(CAPTURES.read_text().splitlines(), start=1):
        section += text.startswith("=====")
        words = text.split()
        ended = bool(words) and words[-1] == "FIN"
        if text.strip().startswith("-> "):
            yield Line(number, True, (section, int(words[-2])), bytes.fromhex(words[-1]), False)
        elif text.strip().startswith("<- "):
            yield Line(number, False, (section, int(words[1])), bytes.fromhex(words[2]), ended)


LINES = list(read_lines())
REQUEST_TYPES = {line.stream: line.data[0] for line in LINES if line.sent}


def reencode_request(data: bytes) -> bytes:
    """A bidirectional stream's first bytes: its type, and a message if there is one yet."""
    decoder = MessageDecoder()
    decoder.feed(data)
    stream_type = decoder.next_varint()
    assert stream_type is not None
    encoded = encode_varint(stream_type)
    if stream_type in REQUESTS and decoder.buffered:
        message = decoder.next_message(REQUESTS[stream_type])
        assert message is not None
        encoded += message.encode()
    assert not decoder.buffered
    return encoded


def reencode_frames(data: bytes) -> bytes:
    decoder = lite.FrameDecoder(TIMESCALE, Frame)
    frames = decoder.feed(data)
    decoder.finish()
    assert frames
    return lite.encode_frames(frames, 0, TIMESCALE)[0]


def reencode_uni(data: bytes) -> bytes:
    header = lite.decode_uni_header(data)
    assert header is not None
    if header.group is not None:
        encoded = lite.encode_group_header(header.group.subscribe_id, header.group.sequence)
        return encoded + reencode_frames(data[header.consumed :])
    assert header.stream_type == UniStreamType.SETUP
    decoder = MessageDecoder()
    decoder.feed(data[header.consumed :])
    setup = decoder.next_message(lite.Setup)
    assert setup is not None
    assert not decoder.buffered
    return encode_varint(header.stream_type) + setup.encode()


def reencode_answer(request_type: int, data: bytes) -> bytes:
    if request_type == BidiStreamType.FETCH:
        return reencode_frames(data)
    decoder = MessageDecoder()
    decoder.feed(data)
    messages: list[lite.Message | None]
    match request_type:
        case BidiStreamType.ANNOUNCE:
            messages = [decoder.next_message(lite.AnnounceOk), decoder.next_message(lite.Announce)]
        case BidiStreamType.SUBSCRIBE:
            messages = [decoder.next_response()]
        case BidiStreamType.TRACK:
            messages = [decoder.next_message(lite.TrackInfo)]
        case BidiStreamType.PROBE:
            messages = [decoder.next_message(lite.Probe)]
        case _:
            raise AssertionError(f"no answer was captured for {request_type}")
    assert not decoder.buffered
    return b"".join(message.encode() for message in messages if message is not None)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"line{line.number}")
def test_the_same_bytes_come_back(line: Line) -> None:
    stream_id = line.stream[1]
    if line.sent or stream_id % 4 == 1:
        encoded = reencode_request(line.data)
    elif stream_id % 4 == 3:
        encoded = reencode_uni(line.data)
    else:
        encoded = reencode_answer(REQUEST_TYPES[line.stream], line.data)
    if stream_id % 4 == 3 and line.data[0] == UniStreamType.SETUP:
        # The order of parameters means nothing; the peer's is random.
        assert sorted(encoded) == sorted(line.data)
    else:
        assert encoded.hex() == line.data.hex()


def test_the_whole_capture_was_read() -> None:
    assert (len(LINES), sum(line.sent for line in LINES)) == (39, 15)
    assert {REQUEST_TYPES[stream] for stream in REQUEST_TYPES} == {1, 2, 3, 4, 6, 9}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0000", lite.AnnounceRequest("")),
        ("00c009305452d906b0", lite.AnnounceRequest("", exclude_hop=0x9305452D906B0)),
        ("c009305452d906b001", lite.AnnounceOk(0x9305452D906B0, 1)),
        ("0108726f6f6d2f63616d00", lite.Announce(lite.AnnounceStatus.ACTIVE, "room/cam")),
        (
            "020508c009305452d906b0010101",
            lite.Setup(probe=lite.ProbeLevel.REPORT, origin=0x9305452D906B0),
        ),
        ("08726f6f6d2f63616d05766964656f", lite.Track("room/cam", "video")),
        ("07008000ea6043e8", lite.TrackInfo(7, False, 60.0, 1000)),
        (
            "0008726f6f6d2f63616d05766964656f030143e80000",
            lite.Subscribe(0, "room/cam", "video", 3, True, 1.0, None, None),
        ),
        (
            "0108726f6f6d2f63616d05766964656f030143e80200",
            lite.Subscribe(1, "room/cam", "video", 3, True, 1.0, 1, None),
        ),
        # The wire says "the last group is 4", plus one: the end of the half-open range.
        (
            "010172017603008000ea600405",
            lite.Subscribe(1, "r", "v", 3, False, 60.0, 3, 5),
        ),
        ("08726f6f6d2f63616d05766964656f034063", lite.Fetch("room/cam", "video", 3, 99)),
        ("84a6465d01", lite.Probe(78005853, 0.001)),
    ],
)
def test_what_the_bytes_mean(body: str, message: lite.Message) -> None:
    assert type(message).decode(bytes.fromhex(body)) == message


@pytest.mark.parametrize(
    ("encoded", "response"),
    [
        ("000104", lite.SubscribeStart(4)),
        ("00010a", lite.SubscribeStart(10)),
        ("01010f", lite.SubscribeEnd(15)),
        ("0204030441a0", lite.SubscribeDrop(3, 5, 0x1A0)),  # from the draft: the last group is 4
    ],
)
def test_responses(encoded: str, response: lite.SubscribeResponse) -> None:
    data = bytes.fromhex(encoded)
    decoder = MessageDecoder()
    decoder.feed(data)
    assert decoder.next_response() == response
    assert response.encode() == data


def test_frames_of_a_captured_group() -> None:
    data = bytes.fromhex("000200044fa002616113026262")
    header = lite.decode_uni_header(data)
    assert header == (UniStreamType.GROUP, lite.GroupHeader(0, 4), 4)
    frames = lite.FrameDecoder(TIMESCALE, Frame).feed(data, 4)
    assert frames == [Frame(b"aa", 2_000_000), Frame(b"bb", 1_990_000)]
