"""What carries qmux: messages of bytes, in order and reliably."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...errors import MoqError


class LinkError(MoqError):
    """The peer broke a rule of what carries the messages."""


class MessageLink(Protocol):
    """A reliable way to send messages, such as a WebSocket.

    One task receives and one sends; what is sent was packed before, so that many messages
    share one write.
    """

    async def receive(self) -> Sequence[bytes] | None:
        """What arrived, at least something; None at the end. No messages where what arrived
        was none, or none that is complete yet.

        Raises :exc:`LinkError` and :exc:`trio.BrokenResourceError`.
        """
        ...

    def pack(self, message: bytes) -> bytes:
        """A message as it is sent."""
        ...

    def pack_ping(self) -> bytes:
        """What makes the other end send something."""
        ...

    @property
    def has_answers(self) -> bool:
        """Whether the other end's link wants to hear something."""
        ...

    def take_answers(self) -> bytes:
        """What the other end's link wants to hear, packed."""
        ...

    async def send(self, packed: bytes) -> None:
        """Send what was packed. Raises :exc:`trio.BrokenResourceError`."""
        ...

    async def close(self) -> None:
        """Say goodbye, and wait until the other end did. Nobody sends or receives any more."""
        ...

    async def abort(self) -> None:
        """Let go of it, without a word."""
        ...
