"""A WebSocket as qmux needs it: binary messages, packed before they are sent."""

from __future__ import annotations

import trio
from cryptography import x509
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from ..qmux import LinkError
from .tls import peer_certificate

_READ_SIZE = 64 * 1024
# What was read may be thousands of frames, and others get their turn in between.
_MOST_FRAMES = 64


class WebSocketLink:
    """A :class:`~moqtrio.transport.qmux.MessageLink` over a byte stream.

    Args:
      stream: TCP or TLS, with the handshakes done.
      protocol: the WebSocket, open.
      largest_message: bytes a message may have, however many frames it is cut into.
    """

    def __init__(
        self, stream: trio.abc.Stream, protocol: Protocol, *, largest_message: int
    ) -> None:
        self._stream = stream
        self._protocol = protocol
        self._largest_message = largest_message
        self._parts: list[bytes] = []  # of a message that is not complete
        self._parts_size = 0
        self._pong: bytes | None = None
        self._close_code = int(CloseReason.NORMAL_CLOSURE)
        self._has_unread = True  # at first, what came together with the handshake
        self._is_broken = False
        #: What the other side presented over TLS, if it did.
        self.peer_certificate: x509.Certificate | None = peer_certificate(stream)

    async def receive(self) -> list[bytes] | None:
        if self._has_unread:
            self._has_unread = False
            await trio.lowlevel.checkpoint()
        elif not self._is_open:
            return None  # a Close came after the messages that were delivered
        else:
            data = await self._stream.receive_some(_READ_SIZE)
            if not data:
                return None
            self._protocol.receive_data(bytes(data))
        messages = self._take_messages()
        return messages if messages or self._is_open else None

    @property
    def _is_open(self) -> bool:
        return self._protocol.state is ConnectionState.OPEN

    def _take_messages(self) -> list[bytes]:
        """What is complete. Messages before a Close are delivered before it."""
        messages: list[bytes] = []
        for count, event in enumerate(self._protocol.events(), 1):
            self._has_unread = count == _MOST_FRAMES
            if isinstance(event, BytesMessage):
                message = self._complete(bytes(event.data), event.message_finished)
                if message is not None:
                    messages.append(message)
            elif isinstance(event, Ping):
                self._pong = bytes(event.payload)  # the latest is enough: RFC 6455 section 5.5.3
            elif isinstance(event, TextMessage):
                raise self._fail(
                    CloseReason.UNSUPPORTED_DATA, "expected a binary message, a text message came"
                )
            elif isinstance(event, CloseConnection) and self._is_open:
                # wsproto's way to say what it cannot parse.
                raise self._fail(event.code, f"no valid WebSocket frame: {event.reason}")
            if self._has_unread:
                break
        return messages

    def _complete(self, data: bytes, finished: bool) -> bytes | None:
        self._parts_size += len(data)
        if self._parts_size > self._largest_message:
            raise self._fail(
                CloseReason.MESSAGE_TOO_BIG,
                f"a message may have {self._largest_message} bytes, this one has more",
            )
        if finished and not self._parts:
            self._parts_size = 0
            return data
        if data:
            self._parts.append(data)
        if not finished:
            return None
        message = b"".join(self._parts)
        self._parts.clear()
        self._parts_size = 0
        return message

    def _fail(self, code: int, reason: str) -> LinkError:
        self._close_code = code
        self._is_broken = True
        return LinkError(f"WebSocket: {reason}")

    def pack(self, message: bytes) -> bytes:
        return self._protocol.send(BytesMessage(data=message)) if self._is_open else b""

    def pack_ping(self) -> bytes:
        return self._protocol.send(Ping()) if self._is_open else b""

    @property
    def has_answers(self) -> bool:
        return self._pong is not None

    def take_answers(self) -> bytes:
        payload, self._pong = self._pong, None
        if payload is None or not self._is_open:
            return b""
        return self._protocol.send(Pong(payload=payload))

    async def send(self, packed: bytes) -> None:
        await self._stream.send_all(packed)

    async def close(self) -> None:
        """The closing handshake of RFC 6455 section 7."""
        try:
            if self._protocol.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                await self._stream.send_all(
                    self._protocol.send(CloseConnection(code=self._close_code))
                )
            while not self._is_broken and self._protocol.state is ConnectionState.LOCAL_CLOSING:
                data = await self._stream.receive_some(_READ_SIZE)
                if not data:
                    break
                self._protocol.receive_data(bytes(data))
                for _ in self._protocol.events():
                    pass
            await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def abort(self) -> None:
        await trio.aclose_forcefully(self._stream)
