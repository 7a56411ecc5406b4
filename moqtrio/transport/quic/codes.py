"""Stream error codes on the wire.

moq-lite's small codes travel as WebTransport maps them
(draft-ietf-webtrans-http3, "Resetting Data Streams"), on raw QUIC too.
"""

from __future__ import annotations

from ...errors import StreamCode

_FIRST = 0x52E4A40FA8DB
_LARGEST_CODE = 0xFFFFFFFF
_LAST = _FIRST + _LARGEST_CODE + _LARGEST_CODE // 30


def stream_code_to_wire(code: int) -> int:
    """The QUIC application error code for ``code``; out of range, the nearest in range."""
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
    return wire if wire <= _LARGEST_CODE else StreamCode.INTERNAL
