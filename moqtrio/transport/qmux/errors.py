"""What a peer can do wrong, and the transport error codes it is told (RFC 9000 section 20.1)."""

from __future__ import annotations

from enum import IntEnum

from ...errors import MoqError


class QmuxCode(IntEnum):
    """The error codes of a CONNECTION_CLOSE that no application asked for."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    PROTOCOL_VIOLATION = 0x0A


class QmuxError(MoqError):
    """The peer broke a rule; the connection cannot go on.

    ``code`` is what it is told.
    """

    def __init__(self, code: QmuxCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def describe_code(code: int) -> str:
    """A transport error code as people read it."""
    try:
        return QmuxCode(code).name
    except ValueError:
        return f"error {code:#x}"
