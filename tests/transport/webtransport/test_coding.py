"""Frames, capsules and structured fields, in whatever pieces they come."""

from __future__ import annotations

import pytest
from aioquic.buffer import encode_uint_var
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.transport.webtransport.capsules import Capsules, CloseSession
from moqtrio.transport.webtransport.codes import CapsuleType, MessageError, describe_code
from moqtrio.transport.webtransport.fields import decode_strings, encode_strings
from moqtrio.transport.webtransport.frames import RequestFrames
from moqtrio.transport.webtransport.prefix import Prefix
from moqtrio.transport.webtransport.records import (
    RecordDecoder,
    Treatment,
    encode_record,
    read_varint,
)

WHOLE, PIECES = 1, 2


class Records(RecordDecoder):
    def begin(self, kind: int, length: int) -> Treatment:
        return {WHOLE: Treatment.WHOLE, PIECES: Treatment.PIECES}.get(kind, Treatment.SKIPPED)


@given(st.integers(0, (1 << 62) - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_integers(number: int, before: bytes, after: bytes) -> None:
    data = encode_uint_var(number)
    start = len(before)
    assert read_varint(before + data + after, start) == (number, start + len(data))
    for length in range(len(data)):
        assert read_varint(data[:length]) is None


@given(
    st.lists(st.tuples(st.sampled_from([WHOLE, PIECES, 77]), st.binary(max_size=90))),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_records_in_any_pieces(records: list[tuple[int, bytes]], sizes: list[int]) -> None:
    data = b"".join(encode_record(*record) for record in records)
    decoder = Records()
    came: list[tuple[int, bytes]] = []
    position, turn = 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        came += decoder.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert decoder.between_records
    assert [each for each in came if each[0] == WHOLE] == [r for r in records if r[0] == WHOLE]
    pieces = b"".join(value for kind, value in came if kind == PIECES)
    assert pieces == b"".join(value for kind, value in records if kind == PIECES)
    assert len(came) == sum(kind in (WHOLE, PIECES) for kind, _ in came)


def test_a_decoder_goes_on_where_its_reader_stopped() -> None:
    decoder = Records()
    data = encode_record(WHOLE, b"one") + encode_record(WHOLE, b"two") + encode_record(PIECES, b"x")
    for each in decoder.feed(data):
        assert each == (WHOLE, b"one")
        break
    assert list(decoder.feed(b"")) == [(WHOLE, b"two"), (PIECES, b"x")]


def test_skipping_holds_nothing() -> None:
    frames = RequestFrames()
    assert list(frames.feed(encode_uint_var(0x21) + encode_uint_var(1 << 30))) == []
    for _ in range(1000):
        assert list(frames.feed(bytes(10_000))) == []
        assert not frames._buffer
    assert not frames.between_records


@given(st.integers(0, 0xFFFFFFFF), st.text(max_size=250))
def test_the_end_of_a_session_there_and_back(code: int, reason: str) -> None:
    close = CloseSession(code, reason)
    [(kind, value)] = Capsules().feed(close.encode())
    assert kind == CapsuleType.CLOSE_SESSION
    assert CloseSession.decode(value) == close


@pytest.mark.parametrize(
    ("close", "value"),
    [
        (CloseSession(-1, ""), bytes(4)),
        (CloseSession(1 << 40, ""), b"\xff" * 4),
        (CloseSession(0, "x" * 2000), bytes(4) + b"x" * 1024),
        (CloseSession(0, "x" + "é" * 1000), bytes(4) + b"x" + "é".encode() * 511),
        (CloseSession(0, "\ud800"), bytes(4) + b"?"),
    ],
)
def test_what_does_not_fit_is_cut(close: CloseSession, value: bytes) -> None:
    assert list(Capsules().feed(close.encode())) == [(CapsuleType.CLOSE_SESSION, value)]


def test_a_capsule_too_large_is_refused_before_it_comes() -> None:
    start = encode_uint_var(CapsuleType.CLOSE_SESSION) + encode_uint_var(1 << 40)
    with pytest.raises(MessageError, match="1099511627776 bytes"):
        list(Capsules().feed(start))


@given(st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), min_size=1))
def test_strings_there_and_back(strings: list[str]) -> None:
    assert decode_strings(encode_strings(strings)) == strings


@pytest.mark.parametrize(
    ("value", "strings"),
    [
        (b'"a"', ["a"]),
        (b' "a",\t"b" , "c" ', ["a", "b", "c"]),
        (b'"a";q=1;x, "b"; y="a,\\"b";z=?1', ["a", "b"]),
        (b'"a\\"b\\\\"', ['a"b\\']),
        (b'""', [""]),
        (None, []),
        (b"", []),
        (b'"a', []),
        (b'"a"b', []),
        (b'"a",', []),
        (b',"a"', []),
        (b'"a" "b"', []),
        (b'"a", token', []),
        (b'("a")', []),
        (b'"a\\n"', []),
        (b'"\xc3\xa9"', []),
        (b'"a";Q', []),
        (b"1, 2", []),
    ],
)
def test_lists_of_strings(value: bytes | None, strings: list[str]) -> None:
    assert decode_strings(value) == strings


@given(st.binary(max_size=200))
def test_no_field_is_too_strange_to_read(value: bytes) -> None:
    assert all(isinstance(each, str) for each in decode_strings(value))


def test_a_long_field_takes_no_long_time() -> None:
    assert decode_strings(b'"' + b"\\\\" * 8000) == []
    assert decode_strings(b'"a"' + b"; " * 8000) == []
    assert decode_strings(b'"a"' + b" " * 16000 + b"x") == []


@pytest.mark.parametrize(
    ("data", "prefix"),
    [
        (b"", None),
        (b"\x40", None),
        (b"\x40\x54", None),
        (b"\x40\x54\x40", None),
        (b"\x40\x54\x04rest", Prefix(0x54, 4, b"\x40\x54\x04")),
        (b"\x40\x54\x40\x04", Prefix(0x54, 4, b"\x40\x54\x40\x04")),
        (b"\x80\0\0\x54\0", Prefix(0x54, 0, b"\x80\0\0\x54\0")),
        (b"\x00", Prefix(0, 0, b"\x00")),
        (b"\x21\x04", Prefix(0x21, 0, b"\x21")),
    ],
)
def test_what_a_stream_starts_with(data: bytes, prefix: Prefix | None) -> None:
    assert Prefix.of(data, 0x54) == prefix


def test_codes_as_people_read_them() -> None:
    assert describe_code(0x10C) == "H3_REQUEST_CANCELLED"
    assert describe_code(0x200) == "QPACK_DECOMPRESSION_FAILED"
    assert describe_code(0x1234) == "code 0x1234"
