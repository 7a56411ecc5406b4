"""Type, length, value: how HTTP/3 frames and capsules are laid out on a stream."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from enum import Enum, auto

from aioquic.buffer import encode_uint_var

BITE: int = 4096
"""Bytes of records to take at once. There may be thousands in them, and whoever else is served
gets their turn in between."""


def encode_record(kind: int, value: bytes) -> bytes:
    """One frame or capsule."""
    return encode_uint_var(kind) + encode_uint_var(len(value)) + value


def read_varint(data: bytes | bytearray, start: int = 0) -> tuple[int, int] | None:
    """The integer at ``start`` and where it ends; None if it is not all there
    (RFC 9000 section 16)."""
    if start >= len(data):
        return None
    first = data[start]
    stop = start + (1 << (first >> 6))
    if stop > len(data):
        return None
    value = first & 0x3F
    for octet in data[start + 1 : stop]:
        value = value << 8 | octet
    return value, stop


class Treatment(Enum):
    """What becomes of a record's value."""

    WHOLE = auto()
    """Collected, and given out once it is complete."""
    PIECES = auto()
    """Given out as it comes."""
    SKIPPED = auto()
    """Read past."""


class RecordDecoder(abc.ABC):
    """Takes a stream apart, whatever pieces it comes in.

    It holds one value at most, of the size :meth:`begin` allowed.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._kind = 0
        self._left = 0  # bytes of the value that have not come
        self._treatment: Treatment | None = None  # None between records

    @abc.abstractmethod
    def begin(self, kind: int, length: int) -> Treatment:
        """What to do with a record; raises where none of its kind and length may be."""

    @property
    def between_records(self) -> bool:
        """Whether the stream may end here."""
        return self._treatment is None and not self._buffer

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The values, or pieces of them, that ``data`` completes."""
        buffer = self._buffer
        buffer += data
        while self._treatment is not None or self._take_header():
            if self._treatment is Treatment.WHOLE and len(buffer) < self._left:
                return
            kind, treatment = self._kind, self._treatment
            piece = self._take(min(self._left, len(buffer)))
            if not self._left:
                self._treatment = None
            if treatment is Treatment.WHOLE or (treatment is Treatment.PIECES and piece):
                yield kind, piece
            if self._left:
                return

    def _take_header(self) -> bool:
        kind = read_varint(self._buffer)
        length = kind and read_varint(self._buffer, kind[1])
        if not kind or not length:
            return False
        del self._buffer[: length[1]]
        self._kind, self._left = kind[0], length[0]
        self._treatment = self.begin(self._kind, self._left)
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._left -= count
        return taken
