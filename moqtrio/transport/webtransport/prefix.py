"""What a stream starts with."""

from __future__ import annotations

import attrs

from .records import read_varint


@attrs.frozen
class Prefix:
    """What a stream starts with: what it is, and whose."""

    kind: int
    session_id: int
    taken: bytes

    @classmethod
    def of(cls, data: bytes, mark: int) -> Prefix | None:
        """The prefix of a stream, or None while it is not all there. Only after the type
        ``mark`` comes the number of a session."""
        kind = read_varint(data)
        if kind is None:
            return None
        if kind[0] != mark:
            return cls(kind[0], 0, data[: kind[1]])
        session_id = read_varint(data, kind[1])
        if session_id is None:
            return None
        return cls(kind[0], session_id[0], data[: session_id[1]])
