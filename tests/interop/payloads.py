"""Bytes that both sides of a test can work out for themselves."""

from __future__ import annotations

import hashlib


def payload(sequence: int, index: int, size: int) -> bytes:
    """The bytes of one frame: different for every group and frame, and not compressible."""
    block = hashlib.sha256(f"{sequence}/{index}".encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def timestamp_us(sequence: int, index: int) -> int:
    """A clock by which groups are 100 ms apart and frames 20 us."""
    return 100_000 * sequence + 20 * index


def digest(data: bytes) -> str:
    """What is compared instead of the bytes themselves."""
    return hashlib.sha256(data).hexdigest()


def described(sequence: int, frames: int, size: int) -> list[list[object]]:
    """How a peer describes the frames of a group that it received intact."""
    return [
        [timestamp_us(sequence, index), size, digest(payload(sequence, index, size))]
        for index in range(frames)
    ]
