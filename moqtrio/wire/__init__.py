"""Bytes to messages and back: pure functions and classes, without I/O, clock or tasks.

What all versions share is here; what belongs to one protocol is in its own package:
:mod:`moqtrio.wire.lite`.
"""

from __future__ import annotations

from .buffer import Reader, Writer
from .varint import (
    MAX_VARINT,
    MAX_VARINT_SIZE,
    Buffer,
    decode_varint,
    decode_zigzag,
    encode_varint,
    encode_zigzag,
    try_decode_varint,
    varint_size,
)
from .versions import (
    LITE_03,
    LITE_04,
    LITE_05,
    LITE_06,
    OFFERED,
    VERSIONS,
    Family,
    Version,
    version_for_alpn,
)

__all__ = [
    "LITE_03",
    "LITE_04",
    "LITE_05",
    "LITE_06",
    "MAX_VARINT",
    "MAX_VARINT_SIZE",
    "OFFERED",
    "VERSIONS",
    "Buffer",
    "Family",
    "Reader",
    "Version",
    "Writer",
    "decode_varint",
    "decode_zigzag",
    "encode_varint",
    "encode_zigzag",
    "try_decode_varint",
    "varint_size",
    "version_for_alpn",
]
