"""The numbers of HTTP/3 and WebTransport.

RFC 9114 (HTTP/3), RFC 9204 (QPACK), RFC 9220 (extended CONNECT), RFC 9297 (datagrams and
capsules) and draft-ietf-webtrans-http3, in the editions that peers speak: 02 and 07.
"""

from __future__ import annotations

from enum import IntEnum

from ..quic.codes import WireCode


class H3Code(IntEnum):
    """Why a stream or a connection was ended (RFC 9114 section 8.1)."""

    DATAGRAM_ERROR = 0x33
    NO_ERROR = 0x100
    GENERAL_PROTOCOL_ERROR = 0x101
    INTERNAL_ERROR = 0x102
    STREAM_CREATION_ERROR = 0x103
    CLOSED_CRITICAL_STREAM = 0x104
    FRAME_UNEXPECTED = 0x105
    FRAME_ERROR = 0x106
    EXCESSIVE_LOAD = 0x107
    ID_ERROR = 0x108
    SETTINGS_ERROR = 0x109
    MISSING_SETTINGS = 0x10A
    REQUEST_REJECTED = 0x10B
    REQUEST_CANCELLED = 0x10C
    REQUEST_INCOMPLETE = 0x10D
    MESSAGE_ERROR = 0x10E
    CONNECT_ERROR = 0x10F
    VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202

    @property
    def on_wire(self) -> WireCode:
        """The code for one stream; it is not mapped."""
        return WireCode(self)


class Setting(IntEnum):
    """What SETTINGS says (RFC 9114 section 7.2.4)."""

    QPACK_MAX_TABLE_CAPACITY = 0x1
    MAX_FIELD_SECTION_SIZE = 0x6
    QPACK_BLOCKED_STREAMS = 0x7
    ENABLE_CONNECT_PROTOCOL = 0x8
    H3_DATAGRAM = 0x33
    H3_DATAGRAM_DRAFT_04 = 0xFFD277
    ENABLE_WEBTRANSPORT_DRAFT_02 = 0x2B603742
    MAX_SESSIONS_DRAFT_02 = 0x2B603743
    MAX_SESSIONS_DRAFT_07 = 0xC671706A
    MAX_SESSIONS_DRAFT_13 = 0x14E9CD29
    ENABLED_DRAFT_15 = 0x2C7CF000


class FrameType(IntEnum):
    """RFC 9114 section 7.2."""

    DATA = 0x0
    HEADERS = 0x1
    CANCEL_PUSH = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    GOAWAY = 0x7
    MAX_PUSH_ID = 0xD
    WEBTRANSPORT_STREAM = 0x41


class StreamType(IntEnum):
    """What a unidirectional stream starts with (RFC 9114 section 6.2)."""

    CONTROL = 0x0
    PUSH = 0x1
    QPACK_ENCODER = 0x2
    QPACK_DECODER = 0x3
    WEBTRANSPORT = 0x54


class CapsuleType(IntEnum):
    """What the CONNECT stream of a session carries (RFC 9297 section 3.2)."""

    CLOSE_SESSION = 0x2843
    DRAIN_SESSION = 0x78AE


class H3Error(Exception):
    """The peer broke the rules: the connection closes with ``code``."""

    def __init__(self, code: H3Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class MessageError(Exception):
    """One request or answer is malformed: its stream is reset with ``code``."""

    def __init__(self, message: str, code: H3Code = H3Code.MESSAGE_ERROR) -> None:
        super().__init__(message)
        self.code = code


def describe_code(code: int) -> str:
    """An HTTP/3 code as a person reads it."""
    try:
        name = H3Code(code).name
    except ValueError:
        return f"code {code:#x}"
    return name if name.startswith("QPACK") else f"H3_{name}"
