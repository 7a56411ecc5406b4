"""Frames as they are written: those of RFC 9000 section 19 that qmux uses, and its own two.

What a message holds is decoded one frame after the other; what is only of interest to
somebody who debugs the peer (that it is blocked) is checked and skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from aioquic._buffer import Buffer, BufferReadError
from aioquic.buffer import encode_uint_var, size_uint_var

from .errors import QmuxCode, QmuxError

_PADDING = 0x00
_RESET_STREAM = 0x04
_STOP_SENDING = 0x05
_STREAM = 0x08
_STREAM_LAST = 0x0F
_STREAM_OFFSET, _STREAM_LENGTH, _STREAM_END = 0x04, 0x02, 0x01
_MAX_DATA = 0x10
_MAX_STREAM_DATA = 0x11
_MAX_STREAMS_BIDI = 0x12
_MAX_STREAMS_UNI = 0x13
_DATA_BLOCKED = 0x14
_STREAM_DATA_BLOCKED = 0x15
_STREAMS_BLOCKED_BIDI = 0x16
_STREAMS_BLOCKED_UNI = 0x17
_CONNECTION_CLOSE = 0x1C
_APPLICATION_CLOSE = 0x1D
_DATAGRAM = 0x30
_DATAGRAM_WITH_LENGTH = 0x31
_PARAMETERS = 0x3F51_5330_0D0A_0D0A
_PING = 0x348C_6752_9EF8_C7BD
_PING_ANSWER = 0x348C_6752_9EF8_C7BE

_LARGEST_HEADER = 1 + 3 * 8
_LARGEST_REASON = 256


class StreamFrame(NamedTuple):
    """Bytes of a stream. ``offset`` is None where the frame does not say it: peers of
    before draft-02 did not."""

    stream_id: int
    offset: int | None
    data: bytes
    ended: bool


class ResetFrame(NamedTuple):
    """The sender abandons a stream."""

    stream_id: int
    code: int
    final_size: int


class StopFrame(NamedTuple):
    """The receiver wants no more of a stream."""

    stream_id: int
    code: int


class MaxDataFrame(NamedTuple):
    """Credit for the connection."""

    limit: int


class MaxStreamDataFrame(NamedTuple):
    """Credit for one stream."""

    stream_id: int
    limit: int


class MaxStreamsFrame(NamedTuple):
    """How many streams may have been opened in all."""

    uni: bool
    limit: int


class CloseFrame(NamedTuple):
    """The connection is over, because its application says so or because of an error."""

    code: int
    reason: str
    by_application: bool


class ParametersFrame(NamedTuple):
    """The transport parameters, encoded."""

    payload: bytes


class PingFrame(NamedTuple):
    """A question whether the peer is there, or the answer."""

    sequence: int
    is_answer: bool


class DatagramFrame(NamedTuple):
    """An unreliable datagram, and how many bytes its frame had."""

    data: bytes
    frame_size: int


Frame = (
    StreamFrame
    | ResetFrame
    | StopFrame
    | MaxDataFrame
    | MaxStreamDataFrame
    | MaxStreamsFrame
    | CloseFrame
    | ParametersFrame
    | PingFrame
    | DatagramFrame
)


def decode_frames(message: bytes) -> Iterator[Frame]:
    """The frames of a message. Raises QmuxError where it is malformed."""
    buffer = Buffer(data=message)
    end = len(message)
    at = 0
    try:
        while at < end:
            kind = buffer.pull_uint_var()
            if _STREAM <= kind <= _STREAM_LAST:
                yield _decode_stream(buffer, kind, end)
            elif kind != _PADDING:
                decode = _DECODERS.get(kind)
                if decode is None:
                    raise QmuxError(
                        QmuxCode.FRAME_ENCODING_ERROR, f"frame type {kind:#x} is not one of qmux"
                    )
                frame = decode(buffer, kind, end)
                if frame is not None:
                    yield frame
            at = buffer.tell()
    except BufferReadError:
        raise QmuxError(
            QmuxCode.FRAME_ENCODING_ERROR,
            f"a message of {end} bytes ends within the frame that starts at byte {at}",
        ) from None


def _decode_stream(buffer: Buffer, kind: int, end: int) -> StreamFrame:
    stream_id = buffer.pull_uint_var()
    offset = buffer.pull_uint_var() if kind & _STREAM_OFFSET else None
    size = buffer.pull_uint_var() if kind & _STREAM_LENGTH else end - buffer.tell()
    return StreamFrame(stream_id, offset, buffer.pull_bytes(size), bool(kind & _STREAM_END))


def _decode_reset(buffer: Buffer, kind: int, end: int) -> Frame:
    return ResetFrame(buffer.pull_uint_var(), buffer.pull_uint_var(), buffer.pull_uint_var())


def _decode_stop(buffer: Buffer, kind: int, end: int) -> Frame:
    return StopFrame(buffer.pull_uint_var(), buffer.pull_uint_var())


def _decode_max_data(buffer: Buffer, kind: int, end: int) -> Frame:
    return MaxDataFrame(buffer.pull_uint_var())


def _decode_max_stream_data(buffer: Buffer, kind: int, end: int) -> Frame:
    return MaxStreamDataFrame(buffer.pull_uint_var(), buffer.pull_uint_var())


def _decode_max_streams(buffer: Buffer, kind: int, end: int) -> Frame:
    return MaxStreamsFrame(kind == _MAX_STREAMS_UNI, buffer.pull_uint_var())


def _skip_one(buffer: Buffer, kind: int, end: int) -> None:
    buffer.pull_uint_var()


def _skip_two(buffer: Buffer, kind: int, end: int) -> None:
    buffer.pull_uint_var()
    buffer.pull_uint_var()


def _decode_close(buffer: Buffer, kind: int, end: int) -> Frame:
    code = buffer.pull_uint_var()
    if kind == _CONNECTION_CLOSE:
        buffer.pull_uint_var()  # the type of the frame that was wrong
    reason = buffer.pull_bytes(buffer.pull_uint_var())
    text = reason[:_LARGEST_REASON].decode(errors="replace")
    return CloseFrame(code, text, kind == _APPLICATION_CLOSE)


def _decode_parameters(buffer: Buffer, kind: int, end: int) -> Frame:
    return ParametersFrame(buffer.pull_bytes(buffer.pull_uint_var()))


def _decode_ping(buffer: Buffer, kind: int, end: int) -> Frame:
    return PingFrame(buffer.pull_uint_var(), kind == _PING_ANSWER)


def _decode_datagram(buffer: Buffer, kind: int, end: int) -> Frame:
    start = buffer.tell() - 1
    size = buffer.pull_uint_var() if kind == _DATAGRAM_WITH_LENGTH else end - buffer.tell()
    return DatagramFrame(buffer.pull_bytes(size), buffer.tell() - start)


_DECODERS: dict[int, Callable[[Buffer, int, int], Frame | None]] = {
    _RESET_STREAM: _decode_reset,
    _STOP_SENDING: _decode_stop,
    _MAX_DATA: _decode_max_data,
    _MAX_STREAM_DATA: _decode_max_stream_data,
    _MAX_STREAMS_BIDI: _decode_max_streams,
    _MAX_STREAMS_UNI: _decode_max_streams,
    _DATA_BLOCKED: _skip_one,
    _STREAM_DATA_BLOCKED: _skip_two,
    _STREAMS_BLOCKED_BIDI: _skip_one,
    _STREAMS_BLOCKED_UNI: _skip_one,
    _CONNECTION_CLOSE: _decode_close,
    _APPLICATION_CLOSE: _decode_close,
    _DATAGRAM: _decode_datagram,
    _DATAGRAM_WITH_LENGTH: _decode_datagram,
    _PARAMETERS: _decode_parameters,
    _PING: _decode_ping,
    _PING_ANSWER: _decode_ping,
}


def stream_header(stream_id: int, offset: int, size: int, ended: bool) -> bytes:
    """What goes before ``size`` bytes of a stream."""
    buffer = Buffer(capacity=_LARGEST_HEADER)
    buffer.push_uint8(_STREAM | _STREAM_OFFSET | _STREAM_LENGTH | ended)
    buffer.push_uint_var(stream_id)
    buffer.push_uint_var(offset)
    buffer.push_uint_var(size)
    return buffer.data


def stream_header_size(stream_id: int, offset: int, largest: int) -> int:
    """How many bytes :func:`stream_header` takes, for data of at most ``largest`` bytes."""
    return 1 + size_uint_var(stream_id) + size_uint_var(offset) + size_uint_var(largest)


def encode_reset(stream_id: int, code: int, final_size: int) -> bytes:
    """RESET_STREAM."""
    return _encode(_RESET_STREAM, stream_id, code, final_size)


def encode_stop(stream_id: int, code: int) -> bytes:
    """STOP_SENDING."""
    return _encode(_STOP_SENDING, stream_id, code)


def encode_max_data(limit: int) -> bytes:
    """MAX_DATA."""
    return _encode(_MAX_DATA, limit)


def encode_max_stream_data(stream_id: int, limit: int) -> bytes:
    """MAX_STREAM_DATA."""
    return _encode(_MAX_STREAM_DATA, stream_id, limit)


def encode_max_streams(uni: bool, limit: int) -> bytes:
    """MAX_STREAMS."""
    return _encode(_MAX_STREAMS_UNI if uni else _MAX_STREAMS_BIDI, limit)


def encode_close(code: int, reason: str, *, by_application: bool) -> bytes:
    """CONNECTION_CLOSE, of the kind that is said to be the application's or of the other."""
    text = reason.encode()[:_LARGEST_REASON].decode(errors="ignore").encode()
    if by_application:
        return _encode(_APPLICATION_CLOSE, code, len(text)) + text
    wrong_frame = 0  # which may be left open
    return _encode(_CONNECTION_CLOSE, code, wrong_frame, len(text)) + text


def encode_parameters(payload: bytes) -> bytes:
    """QX_TRANSPORT_PARAMETERS."""
    return _encode(_PARAMETERS, len(payload)) + payload


def encode_ping(sequence: int, *, is_answer: bool) -> bytes:
    """QX_PING."""
    return _encode(_PING_ANSWER if is_answer else _PING, sequence)


def encode_datagram(data: bytes) -> bytes:
    """DATAGRAM, with its length, so that frames may follow."""
    return _encode(_DATAGRAM_WITH_LENGTH, len(data)) + data


def largest_datagram(frame_size: int) -> int:
    """The most data whose DATAGRAM frame has at most ``frame_size`` bytes."""
    return max(0, frame_size - 1 - size_uint_var(frame_size))


def _encode(*values: int) -> bytes:
    return b"".join([encode_uint_var(value) for value in values])
