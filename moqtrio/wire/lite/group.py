"""How a group starts: the head of its stream, or the datagram it is.

These are read and written once per group, so there are plain functions beside the
message class.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import attrs

from ...errors import DecodeError
from ..buffer import Reader, Writer
from ..varint import MAX_VARINT_SIZE, Buffer, encode_varint, try_decode_varint
from ..versions import Version
from .codes import UniStreamType
from .message import Message
from .ranges import refuse_frame_range

_MAX_GROUP_BODY = 3 * MAX_VARINT_SIZE
_GROUP = UniStreamType.GROUP  # looking it up in the enum each time is what would cost most


@attrs.frozen
class GroupHeader(Message):
    """Says which group a group stream carries (GROUP).

    Attributes:
        subscribe_id: the subscription it is for.
        sequence: the group.
        frame_start: which of its frames comes first; not 0 since draft 06 only.
    """

    subscribe_id: int
    sequence: int
    frame_start: int = 0

    def _write(self, writer: Writer, draft: int) -> None:
        writer.varint(self.subscribe_id)
        writer.varint(self.sequence)
        if draft < 6:
            refuse_frame_range(self.frame_start, None, draft)
            return
        writer.varint(self.frame_start)

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        subscribe_id = reader.varint("the subscribe id")
        sequence = reader.varint("the group sequence")
        if draft < 6:
            return cls(subscribe_id, sequence)
        return cls(subscribe_id, sequence, reader.varint("the first frame"))


class UniHeader(NamedTuple):
    """How a unidirectional stream starts.

    Attributes:
        stream_type: a :class:`UniStreamType`, or a number this version does not know:
            then the stream is to be stopped, and nothing else is wrong.
        group: the header, if it is a group stream.
        consumed: how many bytes this took. Frames (or SETUP's length) begin there.
    """

    stream_type: int
    group: GroupHeader | None
    consumed: int


def encode_group_header(
    subscribe_id: int, sequence: int, version: Version, frame_start: int = 0
) -> bytes:
    """The first bytes of a group stream: its type and its GROUP message.

    Raises:
        ValueError: if a number is not in ``[0, 2**62)``, or the version has no
            ``frame_start`` and it is not 0.
    """
    body = encode_varint(subscribe_id) + encode_varint(sequence)
    if version.draft >= 6:
        body += encode_varint(frame_start)
    elif frame_start:
        refuse_frame_range(frame_start, None, version.draft)
    return bytes((_GROUP, len(body))) + body


def decode_group_header(data: bytes, version: Version) -> tuple[int, int, int, int] | None:
    """The header of a group stream as every encoder writes it, in a third of the time.

    Returns:
        The subscribe id, the sequence, the first frame and how many bytes they took; None
        where ``data`` is anything else, not enough, or malformed: then ask
        :func:`decode_uni_header`.
    """
    if len(data) < 4 or data[0] != 0 or data[1] > _MAX_GROUP_BODY:
        return None
    end = data[1] + 2
    length = 1 << (data[2] >> 6)
    sequence_at = 2 + length
    if end > len(data) or sequence_at >= end:
        return None
    subscribe_id = data[2] if length == 1 else _big_endian(data[2:sequence_at]) & _MASKS[length]
    length = 1 << (data[sequence_at] >> 6)
    after = sequence_at + length
    if after > end:
        return None
    sequence = _big_endian(data[sequence_at:after]) & _MASKS[length]
    frame_start = 0
    if version.draft >= 6:
        if after == end:
            return None
        frame_start_at = after
        length = 1 << (data[after] >> 6)
        after += length
        frame_start = _big_endian(data[frame_start_at:after]) & _MASKS[length]
    return (subscribe_id, sequence, frame_start, end) if after == end else None


_MASKS = {length: (1 << (8 * length - 2)) - 1 for length in (1, 2, 4, 8)}
_big_endian = int.from_bytes  # whose default it is


def decode_uni_header(data: Buffer, version: Version) -> UniHeader | None:
    """The start of a unidirectional stream, or None if ``data`` is not enough of it.

    Args:
        data: the stream from its first byte, as much as there is. 40 bytes are always
            enough.
        version: the session's.

    Raises:
        DecodeError: if it is a group stream with a malformed GROUP message.
    """
    decoded = try_decode_varint(data)
    if decoded is None:
        return None
    stream_type, length_at = decoded
    if stream_type != _GROUP:
        return UniHeader(stream_type, None, length_at)
    decoded = try_decode_varint(data, length_at)
    if decoded is None:
        return None
    length, start = decoded
    if length > _MAX_GROUP_BODY:
        expected = f"expected a GROUP message of at most {_MAX_GROUP_BODY} bytes"
        raise DecodeError(f"{expected}, got {length}", offset=length_at)
    end = start + length
    if end > len(data):
        return None
    return UniHeader(_GROUP, GroupHeader.decode(data[start:end], version), end)


@attrs.frozen
class Datagram:
    """A group of one frame in a QUIC datagram; it has no length, the datagram ends it.

    Attributes:
        subscribe_id: the subscription it is for.
        sequence: the group.
        timestamp_ticks: the frame's absolute timestamp in units of its track's timescale,
            which only the subscription knows (see :func:`ticks_to_microseconds`).
        payload: the frame's bytes.
    """

    subscribe_id: int
    sequence: int
    timestamp_ticks: int
    payload: bytes

    def encode(self) -> bytes:
        """The datagram.

        Raises:
            ValueError: if a number is not in ``[0, 2**62)``.
        """
        writer = Writer()
        writer.varint(self.subscribe_id)
        writer.varint(self.sequence)
        writer.varint(self.timestamp_ticks)
        writer.raw(self.payload)
        return writer.getvalue()

    @classmethod
    def decode(cls, data: Reader | Buffer) -> Self:
        """The datagram ``data`` is.

        Raises:
            DecodeError: if it ends before its payload begins.
        """
        reader = data if isinstance(data, Reader) else Reader(data)
        return cls(
            reader.varint("the subscribe id"),
            reader.varint("the group sequence"),
            reader.varint("the timestamp"),
            reader.rest(),
        )
