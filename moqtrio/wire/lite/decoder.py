"""Control streams, taken apart as their bytes arrive."""

from __future__ import annotations

from typing import TypeVar

from ...errors import DecodeError
from ..varint import Buffer, try_decode_varint
from .codes import ResponseType
from .message import Message
from .subscribe import RESPONSES, SubscribeResponse

DEFAULT_MAX_MESSAGE_BYTES = 65536

MessageT = TypeVar("MessageT", bound=Message)


class MessageDecoder:
    """Bytes in, as a stream delivers them; stream types and messages out, as asked for.

    What comes next depends on what came before, so the caller says what it expects. Each
    ``next_*`` method takes exactly one thing, or nothing: None says that more bytes are
    needed, or, if :attr:`at_eof`, that the stream ended cleanly before the thing began.

    Holds no more than one message of ``max_message_bytes`` and what :meth:`feed` was given
    beyond it, as long as the caller empties it before feeding more.

    Args:
        max_message_bytes: a message that says it is longer is an error at once.
    """

    __slots__ = ("_buffer", "_ended", "_max_message_bytes", "_offset", "_taken")

    def __init__(self, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._offset = 0
        self._taken = 0
        self._ended = False

    @property
    def buffered(self) -> int:
        """How many bytes were fed and not yet taken."""
        return len(self._buffer) - self._offset

    @property
    def at_eof(self) -> bool:
        """Whether the stream has ended and everything in it was taken."""
        return self._ended and not self.buffered

    def feed(self, data: Buffer) -> None:
        """More of the stream."""
        if self._ended:
            raise ValueError("feed() after feed_eof()")
        if self._offset:
            self._taken += self._offset
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def feed_eof(self) -> None:
        """The stream has ended: what is incomplete now is an error when asked for."""
        self._ended = True

    def next_varint(self) -> int | None:
        """A bare varint, such as a stream's type.

        Raises:
            DecodeError: if the stream ended within it.
        """
        decoded = try_decode_varint(self._buffer, self._offset)
        if decoded is None:
            self._need_more("a varint")
            return None
        value, self._offset = decoded
        return value

    def next_message(self, message: type[MessageT]) -> MessageT | None:
        """A message of the given class.

        Raises:
            DecodeError: if it is malformed or too long, or the stream ended within it.
                Nothing is taken then, and asking again raises again.
        """
        return self._next_message(message, self._offset)

    def next_response(self) -> SubscribeResponse | None:
        """A publisher's message on a subscribe stream, whichever it is.

        Raises:
            DecodeError: if it is of an unknown type, malformed or too long, or the stream
                ended within it. Nothing is taken then, and asking again raises again.
        """
        decoded = try_decode_varint(self._buffer, self._offset)
        if decoded is None:
            self._need_more("a response type")
            return None
        code, length_at = decoded
        try:
            response = RESPONSES[ResponseType(code)]
        except ValueError:
            raise self._error("a response type of 0, 1 or 2", code, self._offset) from None
        return self._next_message(response, length_at)

    def _next_message(self, message: type[MessageT], length_at: int) -> MessageT | None:
        decoded = try_decode_varint(self._buffer, length_at)
        if decoded is None:
            self._need_more(f"the length of {message.__name__}")
            return None
        length, start = decoded
        if length > self._max_message_bytes:
            limit = f"{message.__name__} of at most {self._max_message_bytes} bytes"
            raise self._error(limit, length, length_at)
        end = start + length
        if end > len(self._buffer):
            self._need_more(f"{message.__name__} of {length} bytes")
            return None
        decoded_message = message.decode(bytes(memoryview(self._buffer)[start:end]))
        self._offset = end
        return decoded_message

    def _need_more(self, expected: str) -> None:
        if self._ended and self.buffered:
            at = len(self._buffer)
            raise self._error(expected, "the end of the stream", at)

    def _error(self, expected: str, got: object, at: int) -> DecodeError:
        return DecodeError(f"expected {expected}, got {got}", offset=self._taken + at)
