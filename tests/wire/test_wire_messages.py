"""Every moq-lite-05 message: round trips, and everything a hostile peer can do to one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_lite_strategies import MESSAGES, RESPONSES, messages

from moqtrio.errors import DecodeError
from moqtrio.wire import MAX_VARINT, Reader, decode_varint, encode_varint, lite

DECODERS: list[type[lite.Message | lite.Datagram]] = [
    lite.Setup,
    lite.AnnounceRequest,
    lite.AnnounceOk,
    lite.Announce,
    lite.Subscribe,
    lite.SubscribeUpdate,
    lite.SubscribeStart,
    lite.SubscribeEnd,
    lite.SubscribeDrop,
    lite.Track,
    lite.TrackInfo,
    lite.Fetch,
    lite.GroupHeader,
    lite.Probe,
    lite.Goaway,
    lite.Datagram,
]


def body_of(encoded: bytes) -> bytes:
    length, start = decode_varint(encoded)
    assert start + length == len(encoded)
    return encoded[start:]


@pytest.mark.parametrize("name", MESSAGES)
def test_round_trip(name: str) -> None:
    @given(MESSAGES[name])
    def round_trip(message: lite.Message) -> None:
        body = body_of(message.encode())
        assert body == message.encode_body()
        for data in (body, bytearray(body), memoryview(body), Reader(body)):
            assert type(message).decode(data) == message

    round_trip()


@given(RESPONSES)
def test_round_trip_of_responses(response: lite.SubscribeResponse) -> None:
    encoded = response.encode()
    assert encoded[0] == response.response_type
    assert type(response).decode(body_of(encoded[1:])) == response


@given(st.builds(lite.Datagram, *[st.integers(0, MAX_VARINT)] * 3, st.binary(max_size=50)))
def test_round_trip_of_datagrams(datagram: lite.Datagram) -> None:
    assert lite.Datagram.decode(datagram.encode()) == datagram


@given(messages | RESPONSES)
def test_truncated_at_every_byte(message: lite.Message) -> None:
    body = message.encode_body()
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            type(message).decode(body[:size])


@given(messages | RESPONSES, st.binary(min_size=1, max_size=4))
def test_bytes_left_over(message: lite.Message, extra: bytes) -> None:
    with pytest.raises(DecodeError, match="expected the end of the message"):
        type(message).decode(message.encode_body() + extra)


@pytest.mark.parametrize("message", DECODERS)
def test_random_bytes_raise_only_decode_errors(message: type[lite.Message]) -> None:
    @given(st.binary(max_size=60))
    def decode(data: bytes) -> None:
        try:
            decoded = message.decode(data)
        except DecodeError:
            return
        decoded.encode()  # whatever was accepted can be sent on

    decode()


@given(messages | RESPONSES, st.data())
def test_one_byte_changed_raises_only_decode_errors(message: lite.Message, data: Any) -> None:
    body = bytearray(message.encode_body())
    if not body:
        return
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = type(message).decode(body)
    except DecodeError:
        return
    decoded.encode()


@pytest.mark.parametrize(
    ("message", "body", "problem"),
    [
        (lite.TrackInfo, "0000 00 00", "expected a timescale of at least 1, got 0"),
        (lite.TrackInfo, "0002 00 01", "expected publisher ordered to be 0 or 1, got 2"),
        (lite.Announce, "03 00 00", "expected an announce status of 0, 1 or 2, got 3"),
        (lite.Announce, "01 00 21" + "00" * 33, "expected at most 32 hops, got 33"),
        (lite.Announce, "01 00 ffffffffffffffff", "expected at most 32 hops"),
        (lite.Announce, "01 01ff 00", "expected the broadcast path suffix to be UTF-8"),
        (lite.Subscribe, "00 00 00 00 02 00 00 00", "expected subscriber ordered to be 0 or 1"),
        (lite.Subscribe, "00 00 00 00 00 00 06 04", "expected a group start <= end, got [5, 4)"),
        (lite.SubscribeUpdate, "00 00 00 06 04", "expected a group start <= end, got [5, 4)"),
        (lite.SubscribeDrop, "05 04 00", "expected a last dropped group >= 5, got 4"),
        (lite.Setup, "4041" + "00" * 130, "expected at most 64 SETUP parameters, got 65"),
        (lite.Setup, "02 01 01 00 01 01 00", "expected each SETUP parameter once, got 1 again"),
        (lite.Setup, "02 4040 00 4040 00", "expected each SETUP parameter once, got 64 again"),
        (lite.Setup, "01 02 01 ff", "expected the SETUP path to be UTF-8"),
        (lite.Setup, "01 01 00", "expected the SETUP probe parameter (a varint)"),
        (lite.Setup, "01 05 02 01 01", "expected the end of the message, got 1 more bytes"),
        (lite.Goaway, "05 61", "expected the new session URI (5 bytes)"),
    ],
)
def test_refused(message: type[lite.Message], body: str, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        message.decode(bytes.fromhex(body))
    assert str(caught.value).startswith(problem)
    assert caught.value.offset is not None


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
        lite.Subscribe(0, "b\ud800", "t"),
        lite.SubscribeUpdate(priority=-1),
        lite.SubscribeStart(-1),
        lite.SubscribeEnd(2**62),
        lite.SubscribeDrop(3, 3, 0),
        lite.SubscribeDrop(4, 3, 0),
        lite.SubscribeDrop(-1, 3, 0),
        lite.TrackInfo(0, False, 0.0, 0),
        lite.Fetch("b", "t", 256, 0),
        lite.Announce(lite.AnnounceStatus.ACTIVE, "", (1,) * 33),
        lite.AnnounceOk(-1, 0),
        lite.Probe(-1),
        lite.Setup(cost=-1),
        lite.Setup(unknown={1: b""}),
        lite.Setup(unknown=dict.fromkeys(range(100, 165), b"")),
        lite.Datagram(0, 0, -1, b""),
    ],
    ids=repr,
)
def test_what_the_wire_cannot_carry(message: lite.Message | lite.Datagram) -> None:
    with pytest.raises(ValueError, match=r"expected|surrogates"):
        message.encode()


def test_setup_of_64_parameters() -> None:
    setup = lite.Setup(unknown=dict.fromkeys(range(100, 164), b"x"))
    assert lite.Setup.decode(setup.encode_body()) == setup


def test_setup_values_this_version_does_not_know() -> None:
    # Probe level 9 is at least what level 2 is; role 9 is both directions; hop 0 is none.
    setup = lite.Setup.decode(bytes.fromhex("03 010109 030109 050100"))
    assert setup == lite.Setup(probe=lite.ProbeLevel.INCREASE)


def test_announce_is_active_until_ended() -> None:
    active = {status.name: lite.Announce(status, "").active for status in lite.AnnounceStatus}
    assert active == {"ENDED": False, "ACTIVE": True, "RESTART": True}


def test_a_duration_too_long_for_the_wire_is_the_longest() -> None:
    update = lite.SubscribeUpdate(max_latency=math.inf)
    assert update.encode_body() == b"\0\0" + b"\xff" * 8 + b"\0\0"
    assert lite.SubscribeUpdate.decode(update.encode_body()).max_latency == MAX_VARINT / 1000


def test_a_known_round_trip_time_is_never_sent_as_unknown() -> None:
    assert lite.Probe(1, 0.0).encode_body() == lite.Probe(1, 0.001).encode_body() == b"\1\1"
    assert lite.Probe(1, None).encode_body() == b"\1\0"


def test_an_empty_range_may_be_subscribed() -> None:
    update = lite.SubscribeUpdate(start=3, end=3)
    assert lite.SubscribeUpdate.decode(update.encode_body()) == update


def test_update_replaces_every_wish() -> None:
    update = lite.SubscribeUpdate(9, True, 2.5, 3, 7)
    updated = lite.Subscribe(4, "b", "t", 1, False, 1.0, None, None).updated(update)
    assert updated == lite.Subscribe(4, "b", "t", 9, True, 2.5, 3, 7)


def test_messages_are_frozen_and_compare_by_value() -> None:
    with pytest.raises(AttributeError):
        lite.Track("a", "b").track = "c"  # type: ignore[misc]  # that it fails is the point
    assert len({lite.Track("a", "b"), lite.Track("a", "b"), lite.Setup(), lite.Setup()}) == 2


# --- the start of a unidirectional stream ---


@given(st.integers(0, MAX_VARINT), st.integers(0, MAX_VARINT), st.binary(max_size=10))
def test_group_stream_header(subscribe_id: int, sequence: int, frames: bytes) -> None:
    header = lite.GroupHeader(subscribe_id, sequence)
    encoded = lite.encode_group_header(subscribe_id, sequence)
    assert encoded == encode_varint(lite.UniStreamType.GROUP) + header.encode()
    for data in (encoded + frames, bytearray(encoded + frames), memoryview(encoded + frames)):
        decoded = lite.decode_uni_header(data)
        assert decoded == (lite.UniStreamType.GROUP, header, len(encoded))
    for size in range(len(encoded)):
        assert lite.decode_uni_header(encoded[:size]) is None
        assert lite.decode_group_header(encoded[:size]) is None
    assert lite.decode_group_header(encoded + frames) == (subscribe_id, sequence, len(encoded))


def test_group_stream_header_in_longer_varints_than_needed() -> None:
    data = bytes.fromhex("4000 4004 4003 4009")
    assert lite.decode_uni_header(data) == (0, lite.GroupHeader(3, 9), 8)
    assert lite.decode_uni_header(data[:-1]) is None


@pytest.mark.parametrize("body", ["00", "01 05", "03 0505", "03 050505", "11", "ffffffffffffffff"])
def test_group_stream_header_that_lies(body: str) -> None:
    data = bytes.fromhex("00" + body) + b"\xff" * 20
    with pytest.raises(DecodeError):
        lite.decode_uni_header(data)


@pytest.mark.parametrize(("data", "stream_type", "consumed"), [("01", 1, 1), ("4063", 99, 2)])
def test_other_unidirectional_streams_are_only_reported(
    data: str, stream_type: int, consumed: int
) -> None:
    decoded = lite.decode_uni_header(bytes.fromhex(data) + b"\xff\xff")
    assert decoded == (stream_type, None, consumed)


@given(st.binary(max_size=40) | st.binary(max_size=24).map(lambda tail: b"\0" + tail))
def test_the_fast_group_header_says_what_the_careful_one_says(data: bytes) -> None:
    fast = lite.decode_group_header(data)
    if fast is not None:
        subscribe_id, sequence, consumed = fast
        group = lite.GroupHeader(subscribe_id, sequence)
        assert lite.decode_uni_header(data) == (lite.UniStreamType.GROUP, group, consumed)


@given(st.binary(max_size=40))
def test_any_start_of_a_unidirectional_stream(data: bytes) -> None:
    try:
        decoded = lite.decode_uni_header(data)
    except DecodeError:
        return
    if decoded is None:
        assert len(data) < 32
    else:
        assert 0 < decoded.consumed <= len(data)
