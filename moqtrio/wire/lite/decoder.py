"""Control streams, taken apart as their bytes arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from ...errors import DecodeError
from ..varint import Buffer, try_decode_varint
from ..versions import Version
from .announce import Announce
from .announcing import (
    DEFAULT_MAX_ANNOUNCED,
    NUMBERED_ANNOUNCES,
    AnnounceNumbers,
    NumberedAnnounce,
)
from .message import Message, TypedMessage
from .subscribe import RESPONSES, SubscribeResponse

DEFAULT_MAX_MESSAGE_BYTES = 65536

MessageT = TypeVar("MessageT", bound=Message)
TypedMessageT = TypeVar("TypedMessageT", bound=TypedMessage)


class MessageDecoder:
    """Bytes in, as a stream delivers them; stream types and messages out, as asked for.

    What comes next depends on what came before, so the caller says what it expects. Each
    ``next_*`` method takes exactly one thing, or nothing: None says that more bytes are
    needed, or, if :attr:`at_eof`, that the stream ended cleanly before the thing began.

    Holds no more than one message of ``max_message_bytes`` and what :meth:`feed` was given
    beyond it, as long as the caller empties it before feeding more.

    Args:
        version: the session's.
        max_message_bytes: a message that says it is longer is an error at once.
        max_announced: so are more broadcasts at once, where this has to remember them.
    """

    __slots__ = (
        "_announced",
        "_buffer",
        "_ended",
        "_max_message_bytes",
        "_offset",
        "_taken",
        "_version",
    )

    def __init__(
        self,
        version: Version,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        max_announced: int = DEFAULT_MAX_ANNOUNCED,
    ) -> None:
        self._version = version
        self._max_message_bytes = max_message_bytes
        self._announced = AnnounceNumbers(max_announced)
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
        found = self._decode(message, self._offset)
        if found is None:
            return None
        decoded, self._offset = found
        return decoded

    def next_response(self) -> SubscribeResponse | None:
        """A publisher's message on a subscribe stream, whichever it is.

        Raises:
            DecodeError: if it is of an unknown type, malformed or too long, or the stream
                ended within it. Nothing is taken then, and asking again raises again.
        """
        found = self._next_typed(_responses(self._version), "a response type")
        if found is None:
            return None
        response, self._offset = found
        return response

    def next_announce(self) -> Announce | None:
        """What comes next on an announce stream, after ANNOUNCE_OK where there is one.

        Raises:
            DecodeError: if it is malformed or too long, about a broadcast it cannot be
                about, or the stream ended within it. Nothing is taken then, and asking
                again raises again.
        """
        if Announce.exists_in(self._version):
            return self.next_message(Announce)
        at = self._offset
        found = self._next_typed(_announces(self._version), "an announce type")
        if found is None:
            return None
        message, end = found
        try:
            announce = self._announced.resolve(message)
        except DecodeError as error:
            raise DecodeError(str(error), offset=self._taken + at) from None
        self._offset = end
        return announce

    def _next_typed(
        self, types: Mapping[int, type[TypedMessageT]], what: str
    ) -> tuple[TypedMessageT, int] | None:
        """The next message if it is one of ``types``, and the offset after it."""
        decoded = try_decode_varint(self._buffer, self._offset)
        if decoded is None:
            self._need_more(what)
            return None
        code, length_at = decoded
        message = types.get(code)
        if message is None:
            expected = f"{what} of {', '.join(map(str, types))}"
            raise self._error(expected, code, self._offset)
        return self._decode(message, length_at)

    def _decode(self, message: type[MessageT], length_at: int) -> tuple[MessageT, int] | None:
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
        body = bytes(memoryview(self._buffer)[start:end])
        return message.decode(body, self._version), end

    def _need_more(self, expected: str) -> None:
        if self._ended and self.buffered:
            at = len(self._buffer)
            raise self._error(expected, "the end of the stream", at)

    def _error(self, expected: str, got: object, at: int) -> DecodeError:
        return DecodeError(f"expected {expected}, got {got}", offset=self._taken + at)


@cache
def _responses(version: Version) -> Mapping[int, type[SubscribeResponse]]:
    return _by_code(RESPONSES, version)


@cache
def _announces(version: Version) -> Mapping[int, type[NumberedAnnounce]]:
    return _by_code(NUMBERED_ANNOUNCES, version)


def _by_code(
    messages: Sequence[type[TypedMessageT]], version: Version
) -> Mapping[int, type[TypedMessageT]]:
    return {
        message.type_code(version.draft): message
        for message in messages
        if message.exists_in(version)
    }
