"""The limits and timers of one connection, in seconds and bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

_MEBIBYTE = 1 << 20

# aioquic writes a packet's length as a 14-bit varint.
LARGEST_DATAGRAM_SIZE = 16384
# RFC 9000 section 14.1: every path must carry this much.
SMALLEST_DATAGRAM_SIZE = 1200
# A peer's one frame may open all the streams it is allowed (RFC 9000 section 2.1).
_LARGEST_STREAM_COUNT = 1 << 16


def _between(low: float, high: float) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"{attribute.name} must be from {low} to {high}, not {value}")

    return check


def _positive(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


def _keylog_from_environment() -> Path | None:
    name = os.environ.get("SSLKEYLOGFILE")
    return Path(name) if name else None


@attrs.frozen(kw_only=True)
class TransportSettings:
    """What one side of a connection offers its peer, and how much it buffers.

    Raises:
      ValueError: a value is out of range, or two values contradict each other.
    """

    #: Seconds without a packet from the peer after which the connection is over.
    idle_timeout: float = attrs.field(default=30.0, validator=_between(0.1, 86400))
    #: Seconds of silence after which a PING is sent, or half the shorter idle timeout of
    #: both sides if that is sooner; None sends none.
    keep_alive: float | None = attrs.field(default=10.0, validator=_positive)
    #: Seconds a handshake may take.
    connect_timeout: float = attrs.field(default=10.0, validator=_positive)

    #: Unread bytes a peer may have sent on one stream.
    stream_window: int = attrs.field(default=_MEBIBYTE, validator=_between(1, 1 << 40))
    #: Unread bytes a peer may have sent on all streams together; 16 KiB more while an
    #: answer is waited for, and up to twice as many while a reader waits for a
    #: unidirectional stream that the others, unread, keep from going on.
    connection_window: int = attrs.field(default=16 * _MEBIBYTE, validator=_between(1, 1 << 40))
    #: Unidirectional streams a peer may have open, including those not accepted yet.
    max_streams_uni: int = attrs.field(default=1024, validator=_between(0, _LARGEST_STREAM_COUNT))
    #: Bidirectional streams a peer may have open, including those not accepted yet.
    max_streams_bidi: int = attrs.field(default=256, validator=_between(0, _LARGEST_STREAM_COUNT))

    #: Unsent bytes of one stream at which writing to it waits.
    stream_send_high: int = attrs.field(default=256 * 1024, validator=_positive)
    #: Unsent bytes of one stream at or below which writing goes on.
    stream_send_low: int = attrs.field(default=128 * 1024, validator=_between(0, 1 << 40))
    #: Unsent bytes of a connection at which writing to any stream waits.
    connection_send_high: int = attrs.field(default=2 * _MEBIBYTE, validator=_positive)
    #: Unsent bytes of a connection at or below which writing goes on.
    connection_send_low: int = attrs.field(default=_MEBIBYTE, validator=_between(0, 1 << 40))

    #: Unreliable datagrams held in each direction.
    datagram_queue: int = attrs.field(default=256, validator=_between(1, 1 << 20))
    #: UDP payload of the packets this side sends. Values above 1200 need a path known
    #: to carry them; loopback carries 16384.
    max_datagram_size: int = attrs.field(
        default=SMALLEST_DATAGRAM_SIZE,
        validator=_between(SMALLEST_DATAGRAM_SIZE, LARGEST_DATAGRAM_SIZE),
    )
    #: "reno" or "cubic".
    congestion_control: str = attrs.field(
        default="cubic", validator=attrs.validators.in_(("reno", "cubic"))
    )
    #: Bytes of the kernel's socket buffers, each way.
    socket_buffer: int = attrs.field(default=_MEBIBYTE, validator=_between(4096, 1 << 30))
    #: Connections a listener keeps at once; further ones get no answer.
    max_connections: int = attrs.field(default=10_000, validator=_positive)
    #: Handshakes under way, or half of ``max_connections`` if that is less, from which on a
    #: listener makes new clients prove their address (Retry), which costs them a round
    #: trip; 0 always does.
    retry_threshold: int = attrs.field(default=256, validator=_between(0, 1 << 20))

    #: Read and write ordinary packets with moqtrio's own code instead of aioquic's.
    fast_path: bool = True

    #: Where TLS secrets are appended (the SSLKEYLOGFILE format); None keeps them.
    keylog_file: Path | None = attrs.field(
        factory=_keylog_from_environment, converter=attrs.converters.optional(Path)
    )
    #: Where one qlog file per connection is written when it ends, with its last 20,000
    #: events; None writes none. For debugging: it is slow and takes memory.
    qlog_directory: Path | None = attrs.field(
        default=None, converter=attrs.converters.optional(Path)
    )

    def __attrs_post_init__(self) -> None:
        if self.keep_alive is not None and self.keep_alive >= self.idle_timeout:
            raise ValueError(
                f"keep_alive ({self.keep_alive} s) must be below idle_timeout "
                f"({self.idle_timeout} s), or None"
            )
        if self.stream_send_low >= self.stream_send_high:
            raise ValueError("stream_send_low must be below stream_send_high")
        if self.connection_send_low >= self.connection_send_high:
            raise ValueError("connection_send_low must be below connection_send_high")
