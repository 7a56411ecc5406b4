"""Stream error codes on the wire.

moq-lite's small codes travel as WebTransport maps them
(draft-ietf-webtrans-http3, "Resetting Data Streams"), on raw QUIC too.
"""

from __future__ import annotations

from ...errors import StreamCode

_SESSION_GONE = 0x170D7B68
_BUFFERED_STREAM_REJECTED = 0x3994BD84
# What WebTransport itself says with codes outside the mapped range.
_SAID_BY_WEBTRANSPORT = {
    _SESSION_GONE: StreamCode.SESSION_CLOSED,
    _BUFFERED_STREAM_REJECTED: StreamCode.NO_CAPACITY,
}
_FIRST = 0x52E4A40FA8DB
_LARGEST_CODE = 0xFFFFFFFF
_LAST = _FIRST + _LARGEST_CODE + _LARGEST_CODE // 30


class WireCode(int):
    """A code that goes on the wire as it is, such as HTTP/3's own."""


SESSION_GONE = WireCode(_SESSION_GONE)
"""The WebTransport session of a stream is over (WEBTRANSPORT_SESSION_GONE)."""
BUFFERED_STREAM_REJECTED = WireCode(_BUFFERED_STREAM_REJECTED)
"""Too many streams wait for their session (WEBTRANSPORT_BUFFERED_STREAM_REJECTED)."""


def stream_code_to_wire(code: int) -> int:
    """The QUIC application error code for ``code``; out of range, the nearest in range."""
    if isinstance(code, WireCode):
        return code
    code = min(max(code, 0), _LARGEST_CODE)
    return _FIRST + code + code // 30


def stream_code_from_wire(wire: int) -> int:
    """The stream code a QUIC application error code stands for.

    A small code outside the mapped range is taken as it is: some peers stop streams
    with a plain 0. Anything else says nothing: it counts as an internal error.
    """
    if _FIRST <= wire <= _LAST:
        shifted = wire - _FIRST
        return shifted - shifted // 31
    said = _SAID_BY_WEBTRANSPORT.get(wire)
    if said is not None:
        return said
    return wire if wire <= _LARGEST_CODE else StreamCode.INTERNAL


def is_mapped(wire: int) -> bool:
    """Whether a QUIC application error code is in the range codes are mapped to."""
    return _FIRST <= wire <= _LAST
