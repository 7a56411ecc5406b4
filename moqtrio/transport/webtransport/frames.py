"""HTTP/3 frames on the streams a session needs: the control stream and its CONNECT."""

from __future__ import annotations

from collections.abc import Mapping

from aioquic.buffer import encode_uint_var

from .codes import FrameType, H3Code, H3Error, Setting
from .records import RecordDecoder, Treatment, encode_record, read_varint

LARGEST_FIELD_SECTION = 16 * 1024
_LARGEST_SETTINGS = 4 * 1024
_LARGEST_VARINT = 8
# RFC 9114 section 7.2.8: frames of HTTP/2 that have no place here.
_FROM_HTTP_2 = (0x2, 0x6, 0x8, 0x9)
# RFC 9114 section 7.2.4.1.
_SETTINGS_FROM_HTTP_2 = (0x0, 0x2, 0x3, 0x4, 0x5)
_BOOLEAN_SETTINGS = (
    Setting.ENABLE_CONNECT_PROTOCOL,
    Setting.H3_DATAGRAM,
    Setting.ENABLE_WEBTRANSPORT_DRAFT_02,
)


def _unexpected(kind: int, place: str) -> H3Error:
    return H3Error(H3Code.FRAME_UNEXPECTED, f"a frame of type {kind:#x} on {place}")


class ControlFrames(RecordDecoder):
    """The frames of the peer's control stream (RFC 9114 section 6.2.1)."""

    def __init__(self) -> None:
        super().__init__()
        self._began = False

    def begin(self, kind: int, length: int) -> Treatment:
        if not self._began and kind != FrameType.SETTINGS:
            raise H3Error(
                H3Code.MISSING_SETTINGS,
                f"the control stream starts with a frame of type {kind:#x}, not with SETTINGS",
            )
        if kind in _FROM_HTTP_2 or kind in (
            FrameType.DATA,
            FrameType.HEADERS,
            FrameType.PUSH_PROMISE,
            FrameType.WEBTRANSPORT_STREAM,
        ):
            raise _unexpected(kind, "the control stream")
        if kind == FrameType.SETTINGS:
            if self._began:
                raise H3Error(H3Code.FRAME_UNEXPECTED, "SETTINGS came twice")
            self._began = True
            if length > _LARGEST_SETTINGS:
                raise H3Error(H3Code.EXCESSIVE_LOAD, f"SETTINGS of {length} bytes")
            return Treatment.WHOLE
        if kind in (FrameType.GOAWAY, FrameType.CANCEL_PUSH, FrameType.MAX_PUSH_ID):
            if not 0 < length <= _LARGEST_VARINT:
                raise H3Error(H3Code.FRAME_ERROR, f"a frame of type {kind:#x} and {length} bytes")
            return Treatment.WHOLE
        return Treatment.SKIPPED


class RequestFrames(RecordDecoder):
    """The frames of a request stream (RFC 9114 section 4.1)."""

    def __init__(self) -> None:
        super().__init__()
        #: Whether a field section may come: there are no trailers after CONNECT
        #: (RFC 9114 section 4.4).
        self.expects_headers = True

    def begin(self, kind: int, length: int) -> Treatment:
        if kind == FrameType.HEADERS:
            if not self.expects_headers:
                raise _unexpected(kind, "a CONNECT stream")
            if length > LARGEST_FIELD_SECTION:
                raise H3Error(H3Code.EXCESSIVE_LOAD, f"a field section of {length} bytes")
            return Treatment.WHOLE
        if kind == FrameType.DATA:
            if self.expects_headers:
                raise _unexpected(kind, "a request stream, before HEADERS")
            return Treatment.PIECES
        if kind == FrameType.WEBTRANSPORT_STREAM:
            raise H3Error(H3Code.FRAME_ERROR, "a stream of a session in the middle of a request")
        if kind in _FROM_HTTP_2 or kind in (
            FrameType.CANCEL_PUSH,
            FrameType.SETTINGS,
            FrameType.PUSH_PROMISE,
            FrameType.GOAWAY,
            FrameType.MAX_PUSH_ID,
        ):
            raise _unexpected(kind, "a request stream")
        return Treatment.SKIPPED


def own_settings(max_sessions: int) -> dict[int, int]:
    """What this side says: enough for a peer of either draft to speak WebTransport."""
    return {
        Setting.QPACK_MAX_TABLE_CAPACITY: 0,
        Setting.QPACK_BLOCKED_STREAMS: 0,
        Setting.MAX_FIELD_SECTION_SIZE: LARGEST_FIELD_SECTION,
        Setting.ENABLE_CONNECT_PROTOCOL: 1,
        Setting.H3_DATAGRAM: 1,
        Setting.H3_DATAGRAM_DRAFT_04: 1,
        Setting.ENABLE_WEBTRANSPORT_DRAFT_02: 1,
        Setting.MAX_SESSIONS_DRAFT_02: max_sessions,
        Setting.MAX_SESSIONS_DRAFT_07: max_sessions,
    }


def encode_settings(settings: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    pairs = (encode_uint_var(key) + encode_uint_var(value) for key, value in settings.items())
    return encode_record(FrameType.SETTINGS, b"".join(pairs))


def decode_settings(value: bytes) -> dict[int, int]:
    """What a SETTINGS frame says.

    Raises:
      H3Error: it is cut short, or says something twice, or what it must not.
    """
    settings: dict[int, int] = {}
    position = 0
    while position < len(value):
        key = read_varint(value, position)
        setting = key and read_varint(value, key[1])
        if not key or not setting:
            raise H3Error(H3Code.FRAME_ERROR, "SETTINGS ends within a setting")
        if key[0] in settings or key[0] in _SETTINGS_FROM_HTTP_2:
            raise H3Error(H3Code.SETTINGS_ERROR, f"setting {key[0]:#x} is reserved or came twice")
        if key[0] in _BOOLEAN_SETTINGS and setting[0] > 1:
            raise H3Error(H3Code.SETTINGS_ERROR, f"setting {key[0]:#x} is 0 or 1, not {setting[0]}")
        settings[key[0]], position = setting
    return settings


def decode_id(value: bytes) -> int:
    """The number that GOAWAY, MAX_PUSH_ID or CANCEL_PUSH consists of."""
    number = read_varint(value)
    if number is None or number[1] != len(value):
        raise H3Error(H3Code.FRAME_ERROR, "a frame that should be one number is none")
    return number[0]
