"""A bidirectional stream that carries messages: one request and its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import DecodeError, StreamCode
from ..transport.connection import URGENT, BidiStream, ReceiveStream, SendStream
from ..wire import Version
from ..wire.lite import Announce, Message, MessageDecoder, SubscribeResponse

MessageT = TypeVar("MessageT", bound=Message)
T = TypeVar("T")


class ControlStream:
    """Messages over a :class:`BidiStream`, as ``version`` has them.

    Reading raises :exc:`~moqtrio.errors.DecodeError` for bytes that are not the message
    expected, and otherwise what the stream raises. Cancelling a read loses nothing.
    """

    def __init__(self, stream: BidiStream, version: Version) -> None:
        self.send: SendStream = stream.send
        self.receive: ReceiveStream = stream.receive
        self.version: Version = version
        self._decoder = MessageDecoder(version)
        stream.send.set_priority(URGENT)

    async def read_varint(self) -> int | None:
        """A bare varint, or None where the stream ends before it."""
        return await self._read(self._decoder.next_varint)

    async def read(self, message: type[MessageT]) -> MessageT | None:
        """The next message, or None where the stream ends before it."""
        return await self._read(lambda: self._decoder.next_message(message))

    def read_nowait(self, message: type[MessageT]) -> MessageT | None:
        """The next message if it came together with the last one that was read, else None."""
        return self._decoder.next_message(message)

    async def read_response(self) -> SubscribeResponse | None:
        """The next answer of a publisher, or None where the stream ends before it."""
        return await self._read(self._decoder.next_response)

    async def read_announce(self) -> Announce | None:
        """The next announcement, or None where the stream ends before it."""
        return await self._read(self._decoder.next_announce)

    async def send_all(self, message: Message) -> None:
        """Send a message. Raises what the stream raises."""
        await self.send.send_all(message.encode(self.version))

    async def require(self, message: type[MessageT]) -> MessageT:
        """The next message. Raises DecodeError where the stream ends before it."""
        found = await self.read(message)
        if found is None:
            raise DecodeError(f"expected {message.__name__}, got the end of the stream")
        return found

    async def _read(self, take: Callable[[], T | None]) -> T | None:
        while True:
            item = take()
            if item is not None or self._decoder.at_eof:
                return item
            data = await self.receive.receive_some(65536)
            if data:
                self._decoder.feed(data)
            else:
                self._decoder.feed_eof()

    def reset(self, code: int) -> None:
        """End both halves with an error. Never blocks, never raises."""
        self.send.reset(code)
        self.receive.stop(code)

    def finish(self) -> None:
        """End both halves in peace: nothing more to say, nothing more to hear."""
        self.send.finish()
        self.receive.stop(StreamCode.INTERNAL)
