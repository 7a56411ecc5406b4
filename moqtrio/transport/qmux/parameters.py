"""Transport parameters: what each side declares first (draft-ietf-quic-qmux section 5)."""

from __future__ import annotations

import attrs
from aioquic._buffer import Buffer, BufferReadError

from ..settings import TransportSettings
from .errors import QmuxCode, QmuxError
from .versions import QmuxVersion

_MAX_IDLE_TIMEOUT = 0x01
_INITIAL_MAX_DATA = 0x04
_INITIAL_MAX_STREAM_DATA_BIDI_LOCAL = 0x05
_INITIAL_MAX_STREAM_DATA_BIDI_REMOTE = 0x06
_INITIAL_MAX_STREAM_DATA_UNI = 0x07
_INITIAL_MAX_STREAMS_BIDI = 0x08
_INITIAL_MAX_STREAMS_UNI = 0x09
_MAX_DATAGRAM_FRAME_SIZE = 0x20  # RFC 9221 section 3
_MAX_RECORD_SIZE = 0x0571_C594_29CD_0845

# Those of RFC 9000 section 18.2 that make no sense here: they end the connection.
_FORBIDDEN = frozenset((0x00, 0x02, 0x03, *range(0x0A, 0x11)))
# RFC 9000 section 4.6: a stream's number must fit a varint.
_MOST_STREAMS = 1 << 60
_LARGEST_PARAMETERS = 64


@attrs.frozen(kw_only=True)
class Parameters:
    """What one side admits. Bytes, streams, and milliseconds; 0 is none."""

    max_idle_timeout: int = 0
    initial_max_data: int = 0
    initial_max_stream_data_bidi_local: int = 0
    initial_max_stream_data_bidi_remote: int = 0
    initial_max_stream_data_uni: int = 0
    initial_max_streams_bidi: int = 0
    initial_max_streams_uni: int = 0
    max_datagram_frame_size: int = 0
    max_record_size: int | None = None

    @classmethod
    def of(cls, settings: TransportSettings, version: QmuxVersion) -> Parameters:
        """What this side declares."""
        records = version.has_records
        return cls(
            max_idle_timeout=round(settings.idle_timeout * 1000) if records else 0,
            initial_max_data=settings.connection_window,
            initial_max_stream_data_bidi_local=settings.stream_window,
            initial_max_stream_data_bidi_remote=settings.stream_window,
            initial_max_stream_data_uni=settings.stream_window,
            initial_max_streams_bidi=settings.max_streams_bidi,
            initial_max_streams_uni=settings.max_streams_uni,
            max_datagram_frame_size=version.largest_message if records else 0,
        )

    def encode(self) -> bytes:
        """The parameters as the frame carries them; those that are 0 are left out."""
        buffer = Buffer(capacity=_LARGEST_PARAMETERS * len(_NAMES))
        for identifier, name in _NAMES.items():
            value = getattr(self, name)
            if value:
                encoded = Buffer(capacity=8)
                encoded.push_uint_var(value)
                buffer.push_uint_var(identifier)
                buffer.push_uint_var(encoded.tell())
                buffer.push_bytes(encoded.data)
        return buffer.data

    @classmethod
    def decode(cls, payload: bytes, version: QmuxVersion) -> Parameters:
        """What a peer declares.

        Raises QmuxError for what a peer must not declare, and for what is malformed.
        """
        try:
            values = _decode_values(Buffer(data=payload))
        except BufferReadError:
            raise _error("they are cut short") from None
        parameters = cls(**values)
        for streams in (parameters.initial_max_streams_bidi, parameters.initial_max_streams_uni):
            if streams > _MOST_STREAMS:
                raise _error(f"{streams} streams are more than there are numbers for")
        record = parameters.max_record_size
        if version.has_records and record is not None and record < version.largest_message:
            raise _error(f"max_record_size must be {version.largest_message} or more, not {record}")
        return parameters


_NAMES = {
    _MAX_IDLE_TIMEOUT: "max_idle_timeout",
    _INITIAL_MAX_DATA: "initial_max_data",
    _INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: "initial_max_stream_data_bidi_local",
    _INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: "initial_max_stream_data_bidi_remote",
    _INITIAL_MAX_STREAM_DATA_UNI: "initial_max_stream_data_uni",
    _INITIAL_MAX_STREAMS_BIDI: "initial_max_streams_bidi",
    _INITIAL_MAX_STREAMS_UNI: "initial_max_streams_uni",
    _MAX_DATAGRAM_FRAME_SIZE: "max_datagram_frame_size",
    _MAX_RECORD_SIZE: "max_record_size",
}


def _decode_values(buffer: Buffer) -> dict[str, int]:
    values: dict[str, int] = {}
    seen: set[int] = set()
    while not buffer.eof():
        identifier = buffer.pull_uint_var()
        value = buffer.pull_bytes(buffer.pull_uint_var())
        if identifier in seen:
            raise _error(f"parameter {identifier:#x} comes twice")
        seen.add(identifier)
        if identifier in _FORBIDDEN:
            raise _error(f"parameter {identifier:#x} is not allowed over qmux")
        name = _NAMES.get(identifier)
        if name is not None:
            inner = Buffer(data=value)
            values[name] = inner.pull_uint_var()
            if not inner.eof():
                raise _error(f"{name} has {len(value)} bytes, more than its value needs")
    return values


def _error(message: str) -> QmuxError:
    return QmuxError(QmuxCode.TRANSPORT_PARAMETER_ERROR, f"transport parameters: {message}")
