"""QUIC variable-length integers (RFC 9000 section 16).

The two highest bits of the first byte give the length: 1, 2, 4 or 8 bytes; the rest is
the value, big-endian, so 62 bits at most. Longer forms than a value needs are legal.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from ..errors import DecodeError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_VARINT = (1 << 62) - 1
MAX_VARINT_SIZE = 8

_ONE_BYTE = tuple(bytes((value,)) for value in range(0x40))
_VALUE_MASKS = (0x3F, 0x3FFF, 0x3FFF_FFFF, MAX_VARINT)

_pack_two = struct.Struct(">H").pack
_pack_four = struct.Struct(">I").pack
_pack_eight = struct.Struct(">Q").pack


def encode_varint(value: int) -> bytes:
    """``value`` in its shortest form.

    Raises:
        ValueError: if ``value`` is not in ``[0, 2**62)``.
    """
    if 0 <= value < 0x40:
        return _ONE_BYTE[value]
    if 0 <= value < 0x4000:
        return _pack_two(0x4000 | value)
    if 0 <= value < 0x4000_0000:
        return _pack_four(0x8000_0000 | value)
    if 0 <= value <= MAX_VARINT:
        return _pack_eight(0xC000_0000_0000_0000 | value)
    raise ValueError(f"expected a value in [0, 2**62) for a varint, got {value}")


def varint_size(value: int) -> int:
    """How many bytes :func:`encode_varint` takes for ``value``.

    Raises:
        ValueError: if ``value`` is not in ``[0, 2**62)``.
    """
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"expected a value in [0, 2**62) for a varint, got {value}")
    if value < 0x40:
        return 1
    if value < 0x4000:
        return 2
    return 4 if value < 0x4000_0000 else 8


def try_decode_varint(buffer: Buffer, offset: int = 0) -> tuple[int, int] | None:
    """The varint at ``offset`` and the offset after it, or None if more bytes are needed."""
    size = len(buffer)
    if offset >= size:
        return None
    first = buffer[offset]
    if first < 0x40:
        return first, offset + 1
    length_code = first >> 6
    end = offset + (1 << length_code)
    if end > size:
        return None
    return int.from_bytes(buffer[offset:end], "big") & _VALUE_MASKS[length_code], end


def decode_varint(buffer: Buffer, offset: int = 0) -> tuple[int, int]:
    """The varint at ``offset`` and the offset after it.

    Raises:
        DecodeError: if the buffer ends before the varint does.
    """
    decoded = try_decode_varint(buffer, offset)
    if decoded is None:
        left = max(len(buffer) - offset, 0)
        raise DecodeError(f"expected a varint, got the end after {left} bytes", offset=offset)
    return decoded


def encode_zigzag(value: int) -> int:
    """A signed value as the unsigned one a varint can carry: 0, -1, 1, -2 are 0, 1, 2, 3."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def decode_zigzag(value: int) -> int:
    """The signed value :func:`encode_zigzag` made ``value`` of."""
    return (value >> 1) ^ -(value & 1)
