"""Every byte a moq-lite peer nobody here wrote has sent or accepted, there and back."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from moqtrio.errors import DecodeError
from moqtrio.model.frame import Frame
from moqtrio.wire import (
    LITE_03,
    LITE_04,
    LITE_05,
    LITE_06,
    VERSIONS,
    Version,
    encode_varint,
    lite,
    version_for_alpn,
)
from moqtrio.wire.lite import AnnounceStatus, BidiStreamType, MessageDecoder, UniStreamType

CAPTURES = Path(__file__).with_name("moq_lite_captures.txt")
TIMESCALE = 1000


@attrs.define
class Stream:
    """What went over one stream of one session."""

    version: Version
    section: int
    stream_id: int
    sent: list[bytes] = attrs.field(factory=list)
    received: list[bytes] = attrs.field(factory=list)
    reset: int | None = None

    @property
    def name(self) -> str:
        return f"{self.version.draft:02}-session{self.section}-stream{self.stream_id}"

    @property
    def requests(self) -> bytes:
        """What asked for something, whichever side did."""
        return b"".join(self.received if self.is_remote else self.sent)

    @property
    def is_remote(self) -> bool:
        """Whether the peer opened it."""
        return self.stream_id % 4 in (1, 3)

    @property
    def is_uni(self) -> bool:
        return self.stream_id % 4 == 3

    @property
    def request_type(self) -> int:
        """What it is for; one request, for announcements, was not written down."""
        return self.requests[0] if self.requests else BidiStreamType.ANNOUNCE


def read_streams() -> list[Stream]:
    streams: dict[tuple[int, int], Stream] = {}
    section, version = 0, LITE_06
    for text in CAPTURES.read_text().splitlines():
        words = text.split()
        if text.startswith("====="):
            section += 1
            found = version_for_alpn(words[1].rstrip(":"))
            assert found is not None
            version = found
        elif words and words[0] in ("->", "<-", "RESET"):
            stream_id = int(words[-2] if words[0] == "->" else words[1])
            at = section, stream_id
            stream = streams.setdefault(at, Stream(version, section, stream_id))
            if words[0] == "->":
                stream.sent.append(bytes.fromhex(words[-1]))
            elif words[0] == "RESET":
                stream.reset = int(words[2])
            elif words[2:] and words[2] != "FIN":
                stream.received.append(bytes.fromhex(words[2]))
    return list(streams.values())


STREAMS = read_streams()
by_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)


@attrs.define
class Reencoder:
    """Takes bytes apart as a peer of one version does, and puts them together again."""

    version: Version
    decoder: MessageDecoder = attrs.field(init=False)
    encoded: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.decoder = MessageDecoder(self.version)

    def message(self, kind: type[lite.Message]) -> lite.Message:
        message = self.decoder.next_message(kind)
        assert message is not None
        self.encoded += message.encode(self.version)
        return message

    def request(self) -> None:
        """A stream's type, and the messages that follow it if they are there yet."""
        stream_type = self.decoder.next_varint()
        assert stream_type is not None
        self.encoded += encode_varint(stream_type)
        kind = lite.request_type(stream_type, self.version)
        while kind is not None and self.decoder.buffered:
            self.message(kind)
            kind = lite.SubscribeUpdate

    def announcements(self) -> None:
        ok: lite.AnnounceOk | None = lite.AnnounceOk()
        if lite.AnnounceOk.exists_in(self.version):
            ok = self.decoder.next_message(lite.AnnounceOk)
        assert ok is not None
        encoder = lite.AnnounceEncoder(self.version, ok.hop_id)
        self.encoded += encoder.encode_ok(ok.active_count)
        while (announce := self.decoder.next_announce()) is not None:
            self.encoded += encoder.encode(announce)

    def responses(self) -> None:
        while (response := self.decoder.next_response()) is not None:
            self.encoded += response.encode(self.version)

    def answer(self, request_type: int) -> None:
        match request_type:
            case BidiStreamType.ANNOUNCE:
                self.announcements()
            case BidiStreamType.SUBSCRIBE:
                self.responses()
            case BidiStreamType.TRACK:
                self.message(lite.TrackInfo)
            case BidiStreamType.PROBE:
                self.message(lite.Probe)
            case _:
                raise AssertionError(f"no answer was captured for {request_type}")


def reencode_frames(data: bytes, version: Version) -> bytes:
    timescale = TIMESCALE if lite.has_timestamps(version) else None
    decoder = lite.FrameDecoder(timescale, Frame)
    frames = decoder.feed(data)
    decoder.finish()
    return lite.encode_frames(frames, 0, timescale)[0]


def reencode_uni(data: bytes, version: Version) -> bytes:
    header = lite.decode_uni_header(data, version)
    assert header is not None
    group = header.group
    if group is None:
        assert header.stream_type == UniStreamType.SETUP
        reencoder = Reencoder(version)
        reencoder.decoder.feed(data[header.consumed :])
        reencoder.message(lite.Setup)
        return encode_varint(header.stream_type) + reencoder.encoded
    fast = lite.decode_group_header(data, version)
    assert fast == (group.subscribe_id, group.sequence, group.frame_start, header.consumed)
    encoded = lite.encode_group_header(
        group.subscribe_id, group.sequence, version, group.frame_start
    )
    return encoded + reencode_frames(data[header.consumed :], version)


@by_stream
def test_the_same_bytes_come_back(stream: Stream) -> None:
    version, data = stream.version, b"".join(stream.received)
    if stream.is_uni:
        encoded = reencode_uni(data, version)
        if data[0] == UniStreamType.SETUP:
            # The order of parameters means nothing; the peer's is random.
            assert sorted(encoded) == sorted(data)
        else:
            assert encoded.hex() == data.hex()
        return
    if stream.is_remote or not data:
        return
    if stream.request_type == BidiStreamType.FETCH:
        assert reencode_frames(data, version).hex() == data.hex()
        return
    answer = Reencoder(version)
    answer.decoder.feed(data)
    answer.answer(stream.request_type)
    assert answer.encoded.hex() == data.hex()
    assert not answer.decoder.buffered


# What was sent to see it refused, and is refused here too.
NONSENSE = {"0203000162", "020e1601620174038036ee8002000001", "03080162017401010201"}
EMPTY_FRAME_RANGE = "031308726f6f6d2f63616d05766964656f03040101"


@by_stream
def test_the_same_requests_come_back(stream: Stream) -> None:
    if stream.is_uni:
        return
    reencoder = Reencoder(stream.version)
    reencoder.decoder.feed(stream.requests)
    if stream.requests.hex() in NONSENSE | {EMPTY_FRAME_RANGE}:
        assert stream.reset is not None
        with pytest.raises(DecodeError):
            reencoder.request()
        return
    if lite.request_type(stream.request_type, stream.version) is None:
        assert stream.reset is not None  # as we would
        return
    while reencoder.decoder.buffered:
        reencoder.request()
    assert reencoder.encoded.hex() == stream.requests.hex()


def test_the_whole_capture_was_read() -> None:
    counts = {
        version.draft: (
            len({stream.section for stream in STREAMS if stream.version is version}),
            sum(len(stream.sent) for stream in STREAMS if stream.version is version),
            sum(len(stream.received) for stream in STREAMS if stream.version is version),
        )
        for version in VERSIONS
    }
    lines = CAPTURES.read_text().splitlines()
    assert sum(sent for _, sent, _ in counts.values()) == sum(
        line.strip().startswith("-> ") for line in lines
    )
    assert {draft: sections for draft, (sections, _, _) in counts.items()} == {
        6: 4,
        5: 3,
        4: 2,
        3: 2,
    }
    for draft, (_, sent, received) in counts.items():
        assert sent >= 9, draft
        assert received >= 10, draft


@pytest.mark.parametrize(
    ("version", "body", "message"),
    [
        (LITE_03, "00", lite.AnnounceRequest("")),
        (LITE_05, "0000", lite.AnnounceRequest("")),
        (LITE_06, "00", lite.AnnounceRequest("")),
        (LITE_04, "00c009305452d906b0", lite.AnnounceRequest("", exclude_hop=0x9305452D906B0)),
        (LITE_05, "c009305452d906b001", lite.AnnounceOk(0x9305452D906B0, 1)),
        (
            LITE_03,
            "0108726f6f6d2f63616d01",
            lite.Announce(AnnounceStatus.ACTIVE, "room/cam", (lite.UNKNOWN_HOP,)),
        ),
        (
            LITE_04,
            "0108726f6f6d2f63616d01c009305452d906b0",
            lite.Announce(AnnounceStatus.ACTIVE, "room/cam", (0x9305452D906B0,)),
        ),
        (
            LITE_05,
            "0108726f6f6d2f63616d00",
            lite.Announce(AnnounceStatus.ACTIVE, "room/cam"),
        ),
        (
            LITE_05,
            "020508c009305452d906b0010101",
            lite.Setup(probe=lite.ProbeLevel.REPORT, origin=0x9305452D906B0),
        ),
        (LITE_05, "08726f6f6d2f63616d05766964656f", lite.Track("room/cam", "video")),
        (LITE_05, "07008000ea6043e8", lite.TrackInfo(7, False, 60.0, 1000)),
        (
            LITE_03,
            "0008726f6f6d2f63616d05766964656f030143e80000",
            lite.Subscribe(0, "room/cam", "video", 3, True, 1.0, None, None),
        ),
        (
            LITE_05,
            "0108726f6f6d2f63616d05766964656f030143e80200",
            lite.Subscribe(1, "room/cam", "video", 3, True, 1.0, 1, None),
        ),
        # The wire says "the last group is 4", plus one: the end of the half-open range.
        (
            LITE_05,
            "010172017603008000ea600405",
            lite.Subscribe(1, "r", "v", 3, False, 60.0, 3, 5),
        ),
        # Here it says the end itself.
        (
            LITE_06,
            "0408726f6f6d2f63616d05766964656f038000ea6003040002",
            lite.Subscribe(4, "room/cam", "video", 3, False, 60.0, 3, 4, 0, 2),
        ),
        (
            LITE_06,
            "0008726f6f6d2f63616d05766964656f038000ea6000000000",
            lite.Subscribe(0, "room/cam", "video", 3, False, 60.0, 0),
        ),
        (LITE_05, "08726f6f6d2f63616d05766964656f034063", lite.Fetch("room/cam", "video", 3, 99)),
        (
            LITE_06,
            "08726f6f6d2f63616d05766964656f03040203",
            lite.Fetch("room/cam", "video", 3, 4, 2, 3),
        ),
        (
            LITE_06,
            "08726f6f6d2f63616d05766964656f03040700",
            lite.Fetch("room/cam", "video", 3, 4, 7),
        ),
        (LITE_03, "845a43d9", lite.Probe(73024473)),
        (LITE_04, "82ddfd6702", lite.Probe(48102759, 0.002)),
        (LITE_05, "84a6465d01", lite.Probe(78005853, 0.001)),
        (LITE_06, "0178", lite.Goaway("x")),
    ],
)
def test_what_the_bytes_mean(version: Version, body: str, message: lite.Message) -> None:
    assert type(message).decode(bytes.fromhex(body), version) == message


@pytest.mark.parametrize(
    ("version", "encoded", "response"),
    [
        (LITE_03, "00050300000000", lite.SubscribeOk(3)),
        (LITE_05, "000104", lite.SubscribeStart(4)),
        (LITE_06, "00010a", lite.SubscribeStart(10)),
        (LITE_06, "01010f", lite.SubscribeEnd(15)),
        # From the draft: the last group is 4.
        (LITE_05, "0204030441a0", lite.SubscribeDrop(3, 5, 0x1A0)),
        (LITE_04, "0104030441a0", lite.SubscribeDrop(3, 5, 0x1A0)),
    ],
)
def test_responses(version: Version, encoded: str, response: lite.SubscribeResponse) -> None:
    data = bytes.fromhex(encoded)
    decoder = MessageDecoder(version)
    decoder.feed(data)
    assert decoder.next_response() == response
    assert response.encode(version) == data


def test_announcements_by_number() -> None:
    [stream] = [stream for stream in STREAMS if not stream.is_remote and not stream.requests]
    decoder = MessageDecoder(stream.version)
    decoder.feed(b"".join(stream.received))
    assert decoder.next_message(lite.AnnounceOk) == lite.AnnounceOk(0x4F7EE3C7CF699, 4)
    announces = [decoder.next_announce() for _ in range(6)]
    assert announces == [
        lite.Announce(AnnounceStatus.ACTIVE, "a", (5, 6), 9, 20),
        lite.Announce(AnnounceStatus.ACTIVE, "b", (), 3),
        lite.Announce(AnnounceStatus.ACTIVE, "c", (), 1, 2),
        lite.Announce(AnnounceStatus.ACTIVE, "d", (), 300),
        lite.Announce(AnnounceStatus.RESTART, "a", (5,), 10, 21),
        lite.Announce(AnnounceStatus.ENDED, "b"),
    ]
    assert not decoder.buffered


def test_frames_of_a_captured_group() -> None:
    data = bytes.fromhex("000200044fa002616113026262")
    header = lite.decode_uni_header(data, LITE_05)
    assert header == (UniStreamType.GROUP, lite.GroupHeader(0, 4), 4)
    frames = lite.FrameDecoder(TIMESCALE, Frame).feed(data, 4)
    assert frames == [Frame(b"aa", 2_000_000), Frame(b"bb", 1_990_000)]


def test_frames_of_a_captured_part_of_a_group() -> None:
    data = bytes.fromhex("0003030401433402343114023432")
    header = lite.decode_uni_header(data, LITE_06)
    assert header == (UniStreamType.GROUP, lite.GroupHeader(3, 4, frame_start=1), 5)
    frames = lite.FrameDecoder(TIMESCALE, Frame).feed(data, 5)
    assert frames == [Frame(b"41", 410_000), Frame(b"42", 420_000)]


def test_frames_of_a_captured_group_without_timestamps() -> None:
    data = bytes.fromhex("00020004026161026262")
    frames = lite.FrameDecoder(None, Frame).feed(data, 4)
    assert [frame.payload for frame in frames] == [b"aa", b"bb"]
