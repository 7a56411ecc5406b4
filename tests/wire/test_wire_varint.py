"""QUIC varints and zigzag (RFC 9000 section 16)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.errors import DecodeError
from moqtrio.wire import (
    MAX_VARINT,
    decode_varint,
    decode_zigzag,
    encode_varint,
    encode_zigzag,
    try_decode_varint,
    varint_size,
)

varints = st.integers(0, MAX_VARINT) | st.integers(0, 62).map(lambda bits: (1 << bits) - 1)

EDGES = [
    (0, "00"),
    (63, "3f"),
    (64, "4040"),
    (16383, "7fff"),
    (16384, "80004000"),
    (2**30 - 1, "bfffffff"),
    (2**30, "c000000040000000"),
    (MAX_VARINT, "ffffffffffffffff"),
]


# RFC 9000 appendix A.1
@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
        ("4025", 37),  # longer than it need be, and legal
    ],
)
def test_examples_of_the_rfc(encoded: str, value: int) -> None:
    data = bytes.fromhex(encoded)
    assert decode_varint(data, 0) == (value, len(data))


@pytest.mark.parametrize(("value", "encoded"), EDGES)
def test_shortest_form(value: int, encoded: str) -> None:
    assert encode_varint(value).hex() == encoded
    assert varint_size(value) == len(encoded) // 2


@given(varints, st.binary(max_size=9), st.binary(max_size=9))
def test_round_trip_anywhere_in_a_buffer(value: int, before: bytes, after: bytes) -> None:
    encoded = encode_varint(value)
    data = before + encoded + after
    expected = (value, len(before) + len(encoded))
    for buffer in (data, bytearray(data), memoryview(data)):
        assert decode_varint(buffer, len(before)) == expected
        assert try_decode_varint(buffer, len(before)) == expected


@given(varints)
def test_truncated(value: int) -> None:
    encoded = encode_varint(value)
    for size in range(len(encoded)):
        assert try_decode_varint(encoded[:size]) is None
        with pytest.raises(DecodeError, match="expected a varint"):
            decode_varint(encoded[:size])


@pytest.mark.parametrize("value", [-1, MAX_VARINT + 1, -(2**70), 2**70])
def test_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        encode_varint(value)
    with pytest.raises(ValueError, match="varint"):
        varint_size(value)


@pytest.mark.parametrize(("signed", "unsigned"), [(0, 0), (-1, 1), (1, 2), (-2, 3), (2, 4)])
def test_zigzag_interleaves(signed: int, unsigned: int) -> None:
    assert encode_zigzag(signed) == unsigned
    assert decode_zigzag(unsigned) == signed


@given(st.integers(-(2**61), 2**61 - 1))
def test_zigzag_fits_a_varint(value: int) -> None:
    assert 0 <= encode_zigzag(value) <= MAX_VARINT
    assert decode_zigzag(encode_zigzag(value)) == value
