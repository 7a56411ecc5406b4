"""Reading and writing the body of one message.

A :class:`Reader` never looks beyond the body it was given and raises nothing but
:exc:`~moqtrio.errors.DecodeError`, whatever the bytes are. A :class:`Writer` raises
:exc:`ValueError` for a value its encoding cannot carry.
"""

from __future__ import annotations

from ..errors import DecodeError
from .varint import (
    Buffer,
    decode_zigzag,
    encode_varint,
    encode_zigzag,
    try_decode_varint,
)


class Reader:
    """Takes the fields of one message body, from its first byte to its last.

    Every method names the field it wants (``what``) so that an error can say what was
    expected; offsets in errors count from the start of the body.
    """

    __slots__ = ("_data", "_offset")

    def __init__(self, data: Buffer) -> None:
        self._data = bytes(data)
        self._offset = 0

    @property
    def offset(self) -> int:
        """How many bytes have been taken."""
        return self._offset

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def error(self, expected: str, got: object, *, offset: int | None = None) -> DecodeError:
        """The error to raise for a field that holds what it must not."""
        at = self._offset if offset is None else offset
        return DecodeError(f"expected {expected}, got {got}", offset=at)

    def varint(self, what: str) -> int:
        """A QUIC varint."""
        decoded = try_decode_varint(self._data, self._offset)
        if decoded is None:
            raise self._short(f"{what} (a varint)")
        value, self._offset = decoded
        return value

    def u8(self, what: str) -> int:
        """One byte, as a number."""
        if not self.remaining:
            raise self._short(f"{what} (one byte)")
        value = self._data[self._offset]
        self._offset += 1
        return value

    def boolean(self, what: str) -> bool:
        """One byte that is 0 or 1."""
        value = self.u8(what)
        if value > 1:
            raise self.error(f"{what} to be 0 or 1", value, offset=self._offset - 1)
        return value == 1

    def optional(self, what: str) -> int | None:
        """A varint where 0 is "none" and ``n + 1`` is ``n``."""
        value = self.varint(what)
        return value - 1 if value else None

    def zigzag(self, what: str) -> int:
        """A signed number in a varint (zigzag)."""
        return decode_zigzag(self.varint(what))

    def take(self, length: int, what: str) -> bytes:
        """The next ``length`` bytes; nothing is allocated for bytes that are not there."""
        if length > self.remaining:
            raise self._short(f"{what} ({length} bytes)")
        start = self._offset
        self._offset += length
        return self._data[start : self._offset]

    def length_prefixed(self, what: str) -> bytes:
        """A varint length and as many bytes."""
        return self.take(self.varint(f"the length of {what}"), what)

    def string(self, what: str) -> str:
        """A varint length and as many bytes of UTF-8."""
        return self._text(self.length_prefixed(what), what)

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.remaining, "the rest")

    def text(self, what: str) -> str:
        """Everything that is left, as UTF-8."""
        return self._text(self.rest(), what)

    def finish(self) -> None:
        """Demand that every byte was taken.

        Raises:
            DecodeError: if bytes are left over.
        """
        if self.remaining:
            raise self.error("the end of the message", f"{self.remaining} more bytes")

    def _text(self, encoded: Buffer, what: str) -> str:
        try:
            return str(encoded, "utf-8")
        except UnicodeDecodeError as error:
            at = self._offset - len(encoded) + error.start
            raise self.error(f"{what} to be UTF-8", error.reason, offset=at) from None

    def _short(self, expected: str) -> DecodeError:
        return self.error(expected, f"the end of the message after {self.remaining} bytes")


class Writer:
    """Collects the fields of one message body."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def varint(self, value: int) -> None:
        """A QUIC varint; ValueError outside ``[0, 2**62)``."""
        self._data += encode_varint(value)

    def u8(self, value: int) -> None:
        """One byte; ValueError outside ``[0, 256)``."""
        if not 0 <= value <= 0xFF:
            raise ValueError(f"expected a value in [0, 256) for one byte, got {value}")
        self._data.append(value)

    def boolean(self, value: bool) -> None:
        """One byte that is 0 or 1."""
        self._data.append(1 if value else 0)

    def optional(self, value: int | None) -> None:
        """A varint where 0 is "none" and ``n + 1`` is ``n``."""
        self.varint(0 if value is None else _not_negative(value) + 1)

    def zigzag(self, value: int) -> None:
        """A signed number in a varint; ValueError outside ``[-2**61, 2**61)``."""
        self.varint(encode_zigzag(value))

    def raw(self, value: Buffer) -> None:
        """The bytes as they are, without a length."""
        self._data += value

    def length_prefixed(self, value: Buffer) -> None:
        """A varint length and the bytes."""
        self._data += encode_varint(len(value))
        self._data += value

    def string(self, value: str) -> None:
        """A varint length and the UTF-8 bytes; ValueError for lone surrogates."""
        self.length_prefixed(value.encode("utf-8"))

    def getvalue(self) -> bytes:  # named as io.BytesIO names it
        """The body so far."""
        return bytes(self._data)


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError(f"expected a value of 0 or more, got {value}")
    return value
