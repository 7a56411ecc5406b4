"""Every message of every draft of moq-lite: what it means, there and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_lite_strategies import CASES, MESSAGES, case_name

from moqtrio.errors import DecodeError
from moqtrio.wire import (
    LITE_03,
    LITE_04,
    LITE_05,
    LITE_06,
    MAX_VARINT,
    VERSIONS,
    Reader,
    Version,
    decode_varint,
    encode_varint,
    lite,
)

by_version = pytest.mark.parametrize("version", VERSIONS, ids=str)


def body_of(encoded: bytes) -> bytes:
    length, start = decode_varint(encoded)
    assert start + length == len(encoded)
    return encoded[start:]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_round_trip(case: tuple[Version, type[lite.Message]]) -> None:
    version, kind = case

    @given(MESSAGES[version][kind])
    def round_trip(message: lite.Message) -> None:
        encoded = message.encode(version)
        if isinstance(message, lite.TypedMessage):
            assert encoded[0] == message.type_code(version.draft)
            encoded = encoded[1:]
        body = body_of(encoded)
        assert body == message.encode_body(version)
        for data in (body, bytearray(body), memoryview(body), Reader(body)):
            assert kind.decode(data, version) == message

    round_trip()


@given(st.builds(lite.Datagram, *[st.integers(0, MAX_VARINT)] * 3, st.binary(max_size=50)))
def test_round_trip_of_datagrams(datagram: lite.Datagram) -> None:
    assert lite.Datagram.decode(datagram.encode()) == datagram


KINDS: set[type[lite.Message]] = {kind for _, kind in CASES}
ABSENT: list[tuple[Version, type[lite.Message]]] = [
    (version, kind) for version in VERSIONS for kind in KINDS if not kind.exists_in(version)
]
ABSENT.sort(key=case_name)


@pytest.mark.parametrize("case", ABSENT, ids=case_name)
def test_messages_a_version_has_not(case: tuple[Version, type[lite.Message]]) -> None:
    version, kind = case
    with pytest.raises(ValueError, match=f"there is no {kind.__name__} in {version}"):
        kind.decode(b"", version)


def test_a_message_is_not_sent_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="there is no Goaway in moq-lite-03"):
        lite.Goaway().encode(LITE_03)
    with pytest.raises(ValueError, match="there is no Announce in moq-lite-06"):
        lite.Announce(lite.AnnounceStatus.ACTIVE, "a").encode(LITE_06)


@pytest.mark.parametrize(
    ("message", "version", "arrives"),
    [
        (lite.AnnounceRequest("a", 5), LITE_03, lite.AnnounceRequest("a")),
        (lite.AnnounceRequest("a", 5), LITE_06, lite.AnnounceRequest("a")),
        (lite.Probe(1, 0.5), LITE_03, lite.Probe(1)),
        (lite.TrackInfo(1, True, 2.0, 3), LITE_06, lite.TrackInfo(1, False, 2.0, 3)),
        (
            lite.SubscribeUpdate(1, True, 2.0, None, None),
            LITE_06,
            lite.SubscribeUpdate(1, False, 2.0, 0, None),
        ),
        (
            lite.Announce(lite.AnnounceStatus.ACTIVE, "a", (7, 8), 5, 6),
            LITE_03,
            lite.Announce(lite.AnnounceStatus.ACTIVE, "a", (0, 0)),
        ),
        (
            lite.Announce(lite.AnnounceStatus.ACTIVE, "a", (7, 8), 5, 6),
            LITE_05,
            lite.Announce(lite.AnnounceStatus.ACTIVE, "a", (7, 8)),
        ),
    ],
    ids=repr,
)
def test_what_a_version_leaves_out(
    message: lite.Message, version: Version, arrives: lite.Message
) -> None:
    assert type(message).decode(message.encode_body(version), version) == arrives


# Each of these would mean something else without what the version has no room for.
@pytest.mark.parametrize("version", [LITE_05, LITE_03], ids=str)
@pytest.mark.parametrize(
    "message",
    [
        lite.Fetch("b", "t", 0, 0, 1),
        lite.Fetch("b", "t", 0, 0, 0, 1),
        lite.Subscribe(0, "b", "t", frame_start=1),
        lite.SubscribeUpdate(end=3, frame_end=1),
        lite.GroupHeader(0, 0, 1),
    ],
    ids=repr,
)
def test_frame_ranges_a_version_has_not(message: lite.Message, version: Version) -> None:
    problem = "has no frame ranges" if message.exists_in(version) else "there is no Fetch in"
    with pytest.raises(ValueError, match=problem):
        message.encode(version)


@pytest.mark.parametrize("version", [LITE_04, LITE_03], ids=str)
def test_a_restart_a_version_has_not(version: Version) -> None:
    with pytest.raises(ValueError, match=f"{version} cannot say RESTART"):
        lite.Announce(lite.AnnounceStatus.RESTART, "a").encode(version)


@pytest.mark.parametrize(
    "message",
    [
        lite.Subscribe(-1, "b", "t"),
        lite.Subscribe(2**62, "b", "t"),
        lite.Subscribe(0, "b", "t", priority=256),
        lite.Subscribe(0, "b", "t", max_latency=-0.1),
        lite.Subscribe(0, "b", "t", max_latency=math.nan),
        lite.Subscribe(0, "b", "t", start=-1),
        lite.Subscribe(0, "b", "t", start=5, end=4),
        lite.Subscribe(0, "b", "t", end=0),
        lite.Subscribe(0, "b", "t", end=-1),
        lite.Subscribe(0, "b\ud800", "t"),
        lite.Subscribe(0, "b", "t", frame_start=-1),
        lite.Subscribe(0, "b", "t", frame_end=4),
        lite.SubscribeUpdate(priority=-1),
        lite.SubscribeUpdate(frame_end=4),
        lite.SubscribeUpdate(end=4, frame_end=-1),
        lite.SubscribeOk(priority=256),
        lite.SubscribeStart(-1),
        lite.SubscribeEnd(2**62),
        lite.SubscribeDrop(3, 3, 0),
        lite.SubscribeDrop(4, 3, 0),
        lite.SubscribeDrop(-1, 3, 0),
        lite.TrackInfo(0, False, 0.0, 0),
        lite.Fetch("b", "t", 256, 0),
        lite.Fetch("b", "t", 0, 0, 3, 3),
        lite.Fetch("b", "t", 0, 0, 0, 0),
        lite.Fetch("b", "t", 0, 0, -1),
        lite.GroupHeader(0, 0, -1),
        lite.Announce(lite.AnnounceStatus.ACTIVE, "", (1,) * 33),
        lite.AnnounceOk(-1, 0),
        lite.Probe(-1),
        lite.Setup(cost=-1),
        lite.Setup(unknown={1: b""}),
        lite.Setup(unknown=dict.fromkeys(range(100, 165), b"")),
    ],
    ids=repr,
)
def test_what_the_wire_cannot_carry(message: lite.Message) -> None:
    versions = [version for version in VERSIONS if message.exists_in(version)]
    assert versions
    for version in versions:
        with pytest.raises(ValueError, match=r"expected|surrogates"):
            message.encode(version)


def test_a_datagram_the_wire_cannot_carry() -> None:
    with pytest.raises(ValueError, match="expected"):
        lite.Datagram(0, 0, -1, b"").encode()


def test_setup_of_64_parameters() -> None:
    setup = lite.Setup(unknown=dict.fromkeys(range(100, 164), b"x"))
    assert lite.Setup.decode(setup.encode_body(LITE_06), LITE_06) == setup


def test_setup_values_this_version_does_not_know() -> None:
    # Probe level 9 is at least what level 2 is; role 9 is both directions; hop 0 is none.
    setup = lite.Setup.decode(bytes.fromhex("03 010109 030109 050100"), LITE_05)
    assert setup == lite.Setup(probe=lite.ProbeLevel.INCREASE)


def test_announce_is_active_until_ended() -> None:
    active = {status.name: lite.Announce(status, "").active for status in lite.AnnounceStatus}
    assert active == {"ENDED": False, "ACTIVE": True, "RESTART": True}


def test_a_duration_too_long_for_the_wire_is_the_longest() -> None:
    update = lite.SubscribeUpdate(max_latency=math.inf)
    body = update.encode_body(LITE_05)
    assert body == b"\0\0" + b"\xff" * 8 + b"\0\0"
    assert lite.SubscribeUpdate.decode(body, LITE_05).max_latency == MAX_VARINT / 1000


def test_a_known_round_trip_time_is_never_sent_as_unknown() -> None:
    assert lite.Probe(1, 0.0).encode_body(LITE_04) == b"\1\1"
    assert lite.Probe(1, 0.001).encode_body(LITE_04) == b"\1\1"
    assert lite.Probe(1, None).encode_body(LITE_04) == b"\1\0"


@by_version
def test_an_empty_range_may_be_subscribed(version: Version) -> None:
    update = lite.SubscribeUpdate(start=3, end=3)
    assert lite.SubscribeUpdate.decode(update.encode_body(version), version) == update


def test_a_range_without_frames_may_be_subscribed() -> None:
    update = lite.SubscribeUpdate(start=2, end=3, frame_start=2, frame_end=1)
    assert lite.SubscribeUpdate.decode(update.encode_body(LITE_06), LITE_06) == update


def test_update_replaces_every_wish() -> None:
    update = lite.SubscribeUpdate(9, True, 2.5, 3, 7, 1, 2)
    updated = lite.Subscribe(4, "b", "t", 1, False, 1.0, None, None).updated(update)
    assert updated == lite.Subscribe(4, "b", "t", 9, True, 2.5, 3, 7, 1, 2)
    assert updated.wishes == update


def test_the_cold_cost_is_the_cost_unless_told() -> None:
    costs = [
        lite.Announce(lite.AnnounceStatus.ACTIVE, "a", (), *given) for given in [(), (3,), (3, 9)]
    ]
    assert [(each.cost, each.cold_cost) for each in costs] == [(0, 0), (3, 3), (3, 9)]


def test_messages_are_frozen_and_compare_by_value() -> None:
    with pytest.raises(AttributeError):
        lite.Track("a", "b").track = "c"  # type: ignore[misc]  # that it fails is the point
    assert len({lite.Track("a", "b"), lite.Track("a", "b"), lite.Setup(), lite.Setup()}) == 2


# --- the start of a unidirectional stream ---


@given(
    st.sampled_from(VERSIONS),
    *[st.integers(0, MAX_VARINT) | st.integers(0, 70)] * 3,
    st.binary(max_size=10),
)
def test_group_stream_header(
    version: Version, subscribe_id: int, sequence: int, frame_start: int, frames: bytes
) -> None:
    if version.draft < 6:
        frame_start = 0
    header = lite.GroupHeader(subscribe_id, sequence, frame_start)
    encoded = lite.encode_group_header(subscribe_id, sequence, version, frame_start)
    assert encoded == encode_varint(lite.UniStreamType.GROUP) + header.encode(version)
    for data in (encoded + frames, bytearray(encoded + frames), memoryview(encoded + frames)):
        decoded = lite.decode_uni_header(data, version)
        assert decoded == (lite.UniStreamType.GROUP, header, len(encoded))
    for size in range(len(encoded)):
        assert lite.decode_uni_header(encoded[:size], version) is None
        assert lite.decode_group_header(encoded[:size], version) is None
    fast = lite.decode_group_header(encoded + frames, version)
    assert fast == (subscribe_id, sequence, frame_start, len(encoded))


def test_group_stream_header_in_longer_varints_than_needed() -> None:
    data = bytes.fromhex("4000 4004 4003 4009")
    assert lite.decode_uni_header(data, LITE_05) == (0, lite.GroupHeader(3, 9), 8)
    assert lite.decode_uni_header(data[:-1], LITE_05) is None
    data = bytes.fromhex("4000 4006 4003 4009 4001")
    assert lite.decode_uni_header(data, LITE_06) == (0, lite.GroupHeader(3, 9, 1), 10)


def test_a_group_stream_header_has_no_frame_start_before_draft_06() -> None:
    with pytest.raises(ValueError, match="moq-lite-05 has no frame ranges"):
        lite.encode_group_header(0, 0, LITE_05, 1)


@by_version
@pytest.mark.parametrize(
    "body", ["00", "01 05", "04 05050505", "05 0505 4000 00", "19", "ffffffffffffffff"]
)
def test_group_stream_header_that_lies(version: Version, body: str) -> None:
    data = bytes.fromhex("00" + body) + b"\xff" * 30
    with pytest.raises(DecodeError):
        lite.decode_uni_header(data, version)
    assert lite.decode_group_header(data, version) is None


def test_group_stream_headers_of_the_neighbour_version() -> None:
    for version, other in ((LITE_05, LITE_06), (LITE_06, LITE_05)):
        header = lite.encode_group_header(5, 5, other)
        for data in (header, header + bytes(20)):
            with pytest.raises(DecodeError):
                lite.decode_uni_header(data, version)
            assert lite.decode_group_header(data, version) is None


@by_version
@pytest.mark.parametrize(("data", "stream_type", "consumed"), [("01", 1, 1), ("4063", 99, 2)])
def test_other_unidirectional_streams_are_only_reported(
    version: Version, data: str, stream_type: int, consumed: int
) -> None:
    decoded = lite.decode_uni_header(bytes.fromhex(data) + b"\xff\xff", version)
    assert decoded == (stream_type, None, consumed)


@given(
    st.sampled_from(VERSIONS),
    st.binary(max_size=40) | st.binary(max_size=32).map(lambda tail: b"\0" + tail),
)
def test_the_fast_group_header_says_what_the_careful_one_says(
    version: Version, data: bytes
) -> None:
    fast = lite.decode_group_header(data, version)
    if fast is not None:
        subscribe_id, sequence, frame_start, consumed = fast
        group = lite.GroupHeader(subscribe_id, sequence, frame_start)
        expected = (lite.UniStreamType.GROUP, group, consumed)
        assert lite.decode_uni_header(data, version) == expected


@given(st.sampled_from(VERSIONS), st.binary(max_size=50))
def test_any_start_of_a_unidirectional_stream(version: Version, data: bytes) -> None:
    try:
        decoded = lite.decode_uni_header(data, version)
    except DecodeError:
        return
    if decoded is None:
        assert len(data) < 40
    else:
        assert 0 < decoded.consumed <= len(data)
