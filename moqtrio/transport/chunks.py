"""Bytes that lie in a queue as they came."""

from __future__ import annotations

from collections import deque


def cut(chunks: deque[bytes], head: int, count: int) -> tuple[bytes, int]:
    """Take exactly ``count`` bytes, no more than there are.

    Args:
        chunks: where they are; those that are used up are removed.
        head: how many bytes of the first chunk are gone already.
        count: how many to take.

    Returns:
        The bytes, without a copy where they are one whole chunk, and the new ``head``.
    """
    parts = []
    while count:
        first = chunks[0]
        part = first[head : head + count]
        parts.append(part)
        count -= len(part)
        head += len(part)
        if head == len(first):
            chunks.popleft()
            head = 0
    return parts[0] if len(parts) == 1 else b"".join(parts), head
