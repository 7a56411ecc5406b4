"""Every error moqtrio raises, and every code it puts on the wire.

One tree: catch :class:`MoqError` to catch all of it. The errors that end a stream, a
channel or a session are also :class:`trio.BrokenResourceError`, so code written against
Trio's own stream and channel interfaces handles them without knowing moqtrio.
"""

from __future__ import annotations

from enum import IntEnum

import trio


class StreamCode(IntEnum):
    """Why one stream was reset or stopped (moq-lite's stream error registry).

    Codes from :attr:`APPLICATION` up belong to the application.
    """

    INTERNAL = 0x00
    CANCEL = 0x01
    DELIVERY_TIMEOUT = 0x02
    SESSION_CLOSED = 0x03
    GOING_AWAY = 0x04
    TOO_FAR_BEHIND = 0x05
    MALFORMED = 0x12
    NO_CAPACITY = 0x30
    NOT_FOUND = 0x33
    OLD = 0x34
    EVICTED = 0x35
    UNROUTABLE = 0x36
    APPLICATION = 0x40


class SessionCode(IntEnum):
    """Why a whole session was closed (moq-lite's session error registry)."""

    NO_ERROR = 0x00
    INTERNAL = 0x01
    UNAUTHORIZED = 0x02
    PROTOCOL_VIOLATION = 0x03


def describe_stream_code(code: int) -> str:
    """A stream code as a person reads it: its name where it has one, and its number."""
    if code >= StreamCode.APPLICATION:
        return f"application error {code - StreamCode.APPLICATION} (code {code})"
    try:
        return f"{StreamCode(code).name.lower().replace('_', ' ')} (code {code})"
    except ValueError:
        return f"code {code}"


class MoqError(Exception):
    """The root of every error moqtrio raises on purpose."""


class DecodeError(MoqError):
    """Bytes that are not what the protocol allows at this place.

    Args:
        message: what was expected and what came.
        offset: where in the message the trouble starts, in bytes, if known.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class ProtocolError(MoqError):
    """The protocol was used wrongly: by this program, or by the peer.

    ``code`` is the :class:`SessionCode` a session closes with because of it.
    """

    def __init__(self, message: str, *, code: int = SessionCode.PROTOCOL_VIOLATION) -> None:
        super().__init__(message)
        self.code = code


class ConnectError(MoqError):
    """No session came about: a timeout, a certificate, or no version in common.

    ``retryable`` says whether the same attempt may succeed later: not where the peer has
    answered, and the answer was its certificate, no version in common or a refusal.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class RequestError(MoqError):
    """The peer refused one request; the session goes on.

    ``code`` is the :class:`StreamCode` the peer answered with.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class SessionClosed(MoqError, trio.BrokenResourceError):
    """The session (or the connection under it) is over.

    ``code`` is the :class:`SessionCode`, ``reason`` what the closing side said, and
    ``remote`` whether the peer closed it.
    """

    def __init__(self, reason: str, *, code: int = SessionCode.NO_ERROR, remote: bool) -> None:
        side = "the peer" if remote else "this side"
        super().__init__(f"session closed by {side}: {reason or 'no reason given'} (code {code})")
        self.code = code
        self.reason = reason
        self.remote = remote


class StreamReset(MoqError, trio.BrokenResourceError):
    """The peer ended one stream before its end (RESET_STREAM or STOP_SENDING).

    ``code`` is the :class:`StreamCode` it gave.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"stream ended by the peer: {describe_stream_code(code)}")
        self.code = code


class EpochChanged(MoqError, trio.BrokenResourceError):
    """After a connection was lost, the track is not the one it was: its sequences mean other
    groups now. What follows would not continue what came before.

    ``previous`` and ``current`` are the epochs, where the publisher tells them.
    """

    def __init__(
        self, message: str, *, previous: int | None = None, current: int | None = None
    ) -> None:
        super().__init__(message)
        self.previous = previous
        self.current = current


class ReplayError(MoqError):
    """A replay source could not say or read what it holds.

    This is never the same as a group being absent: absence is
    :class:`moqtrio.replay.Missing`. ``retryable`` says whether asking again can help;
    ``code`` is the :class:`StreamCode` subscribers are told when it does not.
    """

    def __init__(
        self, message: str, *, code: int = StreamCode.INTERNAL, retryable: bool = True
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable

    def again(self) -> ReplayError:
        """The same error, to be raised once more: raising one again and again lets its
        traceback grow."""
        return ReplayError(str(self), code=self.code, retryable=self.retryable)
