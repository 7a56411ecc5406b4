"""Frames and parameters, byte by byte."""

from __future__ import annotations

import pytest
from aioquic.buffer import encode_uint_var
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.transport.qmux.errors import QmuxCode, QmuxError
from moqtrio.transport.qmux.frames import (
    CloseFrame,
    DatagramFrame,
    Frame,
    MaxDataFrame,
    MaxStreamDataFrame,
    MaxStreamsFrame,
    ParametersFrame,
    PingFrame,
    ResetFrame,
    StopFrame,
    StreamFrame,
    decode_frames,
    encode_close,
    encode_datagram,
    encode_max_data,
    encode_max_stream_data,
    encode_max_streams,
    encode_parameters,
    encode_ping,
    encode_reset,
    encode_stop,
    largest_datagram,
    stream_header,
    stream_header_size,
)
from moqtrio.transport.qmux.parameters import Parameters
from moqtrio.transport.qmux.versions import QMUX_00, QMUX_02

NUMBERS = st.integers(0, (1 << 62) - 1)

EXAMPLES: list[tuple[bytes, Frame]] = [
    (stream_header(6, 70, 3, True) + b"abc", StreamFrame(6, 70, b"abc", True)),
    (encode_reset(4, 0x34, 1000), ResetFrame(4, 0x34, 1000)),
    (encode_stop(4, 0x35), StopFrame(4, 0x35)),
    (encode_max_data(1 << 40), MaxDataFrame(1 << 40)),
    (encode_max_stream_data(8, 77), MaxStreamDataFrame(8, 77)),
    (encode_max_streams(True, 12), MaxStreamsFrame(True, 12)),
    (encode_max_streams(False, 13), MaxStreamsFrame(False, 13)),
    (encode_close(3, "enough", by_application=True), CloseFrame(3, "enough", True)),
    (encode_close(7, "broken", by_application=False), CloseFrame(7, "broken", False)),
    (encode_parameters(b"\x01\x01\x05"), ParametersFrame(b"\x01\x01\x05")),
    (encode_ping(1 << 30, is_answer=False), PingFrame(1 << 30, False)),
    (encode_ping(0, is_answer=True), PingFrame(0, True)),
    (encode_datagram(b"datagram"), DatagramFrame(b"datagram", 10)),
]


def test_all_frames_in_one_message() -> None:
    message = b"\x00".join(encoded for encoded, _ in EXAMPLES)
    assert list(decode_frames(message)) == [frame for _, frame in EXAMPLES]


@pytest.mark.parametrize(("encoded", "frame"), EXAMPLES)
def test_every_frame_cut_short_anywhere_is_refused(encoded: bytes, frame: Frame) -> None:
    for size in range(1, len(encoded)):
        with pytest.raises(QmuxError, match=f"{size} bytes ends within") as raised:
            list(decode_frames(encoded[:size]))
        assert raised.value.code == QmuxCode.FRAME_ENCODING_ERROR


@given(NUMBERS, NUMBERS, st.binary(max_size=100), st.booleans())
def test_a_stream_frame_is_what_was_sent(
    stream_id: int, offset: int, data: bytes, ended: bool
) -> None:
    header = stream_header(stream_id, offset, len(data), ended)
    assert len(header) <= stream_header_size(stream_id, offset, len(data))
    assert list(decode_frames(header + data)) == [StreamFrame(stream_id, offset, data, ended)]


@given(st.binary(max_size=200))
def test_garbage_is_frames_or_a_clear_error(message: bytes) -> None:
    code = None
    try:
        for _ in decode_frames(message):
            pass
    except QmuxError as error:
        code = error.code
    assert code in (None, QmuxCode.FRAME_ENCODING_ERROR)


def test_a_message_ends_what_has_no_length() -> None:
    assert list(decode_frames(b"\x08\x04abc")) == [StreamFrame(4, None, b"abc", False)]
    assert list(decode_frames(b"\x0d\x04\x07abc")) == [StreamFrame(4, 7, b"abc", True)]
    assert list(decode_frames(b"\x30abc")) == [DatagramFrame(b"abc", 4)]


def test_what_only_says_that_the_peer_is_blocked_is_skipped() -> None:
    assert list(decode_frames(b"\x14\x01\x15\x01\x02\x16\x03\x17\x04\x00\x00")) == []


@pytest.mark.parametrize(
    "kind", [0x01, 0x02, 0x06, 0x07, 0x18, 0x19, 0x1A, 0x1B, 0x1E, 0x24, 0x1234, (1 << 62) - 1]
)
def test_frames_that_are_not_qmux_are_refused(kind: int) -> None:
    with pytest.raises(QmuxError, match="not one of qmux") as raised:
        list(decode_frames(encode_uint_var(kind) + bytes(40)))
    assert raised.value.code == QmuxCode.FRAME_ENCODING_ERROR


def test_reasons_are_bounded_and_text() -> None:
    (long,) = decode_frames(encode_close(0, "ü" * 1000, by_application=True))
    assert long == CloseFrame(0, "ü" * 128, True)
    (garbled,) = decode_frames(b"\x1d\x00\x02\xff\xff")
    assert garbled == CloseFrame(0, "\ufffd\ufffd", True)
    (overlong,) = decode_frames(b"\x1d\x00" + encode_uint_var(1000) + b"x" * 1000)
    assert overlong == CloseFrame(0, "x" * 256, True)


@pytest.mark.parametrize("frame_size", [10, 63, 64, 66, 1200, 16382, 16385])
def test_the_largest_datagram_fits(frame_size: int) -> None:
    assert len(encode_datagram(bytes(largest_datagram(frame_size)))) <= frame_size


# Sent by moq-rs 0.5.1 over qmux-02, -01 and -00.
CAPTURED = [
    "ff5153300d0a0d0a37010480007530040480100000050480040000060480040000070480040000080240640902"
    "406420027ffec571c59429cd0845027ffe1d00",
    "ff5153300d0a0d0a35010480007530040480100000050480040000060480040000070480040000080240640902"
    "406420027ffec571c59429cd0845027ffe",
    "ff5153300d0a0d0a31010480007530040480100000050480040000060480040000070480040000080240640902"
    "4064c571c59429cd0845027ffe",
]


@pytest.mark.parametrize("captured", CAPTURED)
def test_what_moq_rs_declares(captured: str) -> None:
    (frame,) = decode_frames(bytes.fromhex(captured))
    assert isinstance(frame, ParametersFrame)
    parameters = Parameters.decode(frame.payload, QMUX_02)
    assert parameters == Parameters(
        max_idle_timeout=30_000,
        initial_max_data=1 << 20,
        initial_max_stream_data_bidi_local=1 << 18,
        initial_max_stream_data_bidi_remote=1 << 18,
        initial_max_stream_data_uni=1 << 18,
        initial_max_streams_bidi=100,
        initial_max_streams_uni=100,
        max_datagram_frame_size=0 if captured == CAPTURED[2] else 16382,
        max_record_size=16382,
    )


def test_frames_moq_rs_sends() -> None:
    captured = "0f020d00 f48c67529ef8c7be00 f48c67529ef8c7bd00 1d00086e6f206572726f72"
    assert list(decode_frames(bytes.fromhex(captured))) == [
        StreamFrame(2, 13, b"", True),
        PingFrame(0, True),
        PingFrame(0, False),
        CloseFrame(0, "no error", True),
    ]


def test_parameters_come_back_as_they_were() -> None:
    parameters = Parameters(max_idle_timeout=1, initial_max_data=1 << 50, max_record_size=1 << 20)
    assert Parameters.decode(parameters.encode(), QMUX_02) == parameters
    assert Parameters.decode(b"", QMUX_02) == Parameters()


def test_unknown_parameters_are_ignored() -> None:
    assert Parameters.decode(bytes.fromhex("1d00 1b03abcdef 040105"), QMUX_02) == Parameters(
        initial_max_data=5
    )


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ("04", "cut short"),
        ("0401", "cut short"),
        ("040500", "cut short"),
        ("0400", "cut short"),
        ("04020505", "more than its value needs"),
        ("040105040105", "0x4 comes twice"),
        ("1d001d00", "0x1d comes twice"),
        ("0000", "0x0 is not allowed"),
        ("0e0102", "0xe is not allowed"),
        ("1000", "0x10 is not allowed"),
        ("0908ffffffffffffffff", "streams are more"),
        ("c571c59429cd0845027ffd", "max_record_size must be 16382 or more, not 16381"),
    ],
)
def test_parameters_that_cannot_be(payload: str, complaint: str) -> None:
    with pytest.raises(QmuxError, match=complaint) as raised:
        Parameters.decode(bytes.fromhex(payload), QMUX_02)
    assert raised.value.code == QmuxCode.TRANSPORT_PARAMETER_ERROR


def test_draft_00_knows_no_records() -> None:
    payload = bytes.fromhex("c571c59429cd0845027ffd")
    assert Parameters.decode(payload, QMUX_00).max_record_size == 16381
