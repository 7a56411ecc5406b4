"""What the messages of moq-lite have in common: a length before a body, and units."""

from __future__ import annotations

import abc
from typing import ClassVar, Self

from ..buffer import Reader, Writer
from ..varint import MAX_VARINT, Buffer, encode_varint
from ..versions import Version


class Message(abc.ABC):
    """One message: a varint length and a body of that many bytes.

    Attributes are in moqtrio's units whatever the wire has: durations are seconds as
    floats, ranges are half-open ``[start, end)``, and None says that a field is absent.
    They are the same in every draft. What a draft has no room for is left out where the
    message means the same without it, and refused (ValueError) where it does not.

    Attributes:
        since: the first draft that has this message.
        until: the last draft that has it; None if the newest does.
    """

    __slots__ = ()

    since: ClassVar[int] = 3
    until: ClassVar[int | None] = None

    @classmethod
    def exists_in(cls, version: Version) -> bool:
        """Whether ``version`` has this message (and the stream that starts with it)."""
        return cls.since <= version.draft and (cls.until is None or version.draft <= cls.until)

    def encode(self, version: Version) -> bytes:
        """The whole message as it goes on the wire.

        Raises:
            ValueError: if an attribute holds what the wire cannot carry, or if the version
                has no such message.
        """
        body = self.encode_body(version)
        return encode_varint(len(body)) + body

    def encode_body(self, version: Version) -> bytes:
        """The message without its length; raises as :meth:`encode` does."""
        self._require(version)
        writer = Writer()
        self._write(writer, version.draft)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: Reader | Buffer, version: Version) -> Self:
        """The message that ``body``, all of it, is.

        Args:
            body: the bytes after the length, as many as the length says.
            version: the session's.

        Raises:
            DecodeError: if it is too short, too long, or holds what it must not.
            ValueError: if the version has no such message.
        """
        cls._require(version)
        reader = body if isinstance(body, Reader) else Reader(body)
        message = cls._read(reader, version.draft)
        reader.finish()
        return message

    @classmethod
    def _require(cls, version: Version) -> None:
        if not cls.exists_in(version):
            raise ValueError(f"there is no {cls.__name__} in {version}")

    # The newest draft is what these do last; older ones branch off before it.

    @abc.abstractmethod
    def _write(self, writer: Writer, draft: int) -> None:
        """Write the body."""

    @classmethod
    @abc.abstractmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        """Read the body; what is left over is :meth:`decode`'s to refuse."""


class TypedMessage(Message):
    """One of several messages that may come next: a varint type before the length."""

    __slots__ = ()

    @classmethod
    @abc.abstractmethod
    def type_code(cls, draft: int) -> int:
        """What the type is in a draft that has the message."""

    def encode(self, version: Version) -> bytes:
        """The whole message, its type and length included.

        Raises:
            ValueError: if an attribute holds what the wire cannot carry, or if the version
                has no such message.
        """
        message = super().encode(version)
        return encode_varint(self.type_code(version.draft)) + message


def write_seconds(writer: Writer, seconds: float) -> None:
    """A duration as whole milliseconds; one longer than the wire can say (or infinite) is capped.

    Raises:
        ValueError: if it is negative or not a number.
    """
    if not seconds >= 0:
        raise ValueError(f"expected a duration of 0 seconds or more, got {seconds}")
    milliseconds = seconds * 1000
    writer.varint(MAX_VARINT if milliseconds >= MAX_VARINT else round(milliseconds))


def read_seconds(reader: Reader, what: str) -> float:
    """A duration in seconds from whole milliseconds (beyond 285,000 years to the nearest float)."""
    return reader.varint(f"{what} in milliseconds") / 1000
