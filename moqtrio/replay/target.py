"""The interface between the recorder and a store it writes one track to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from ..model.frame import Frame
from ..model.group import Aborted, Finished
from ..model.source import ReplaySource

__all__ = ["Aborted", "Finished", "GapWrite", "GroupWrite", "ReplayTarget"]


@attrs.frozen
class GroupWrite:
    """The next frames of one group, and its end where that is reached.

    Attributes:
        sequence: the group.
        first_frame: the index within the group of ``frames[0]``; writes of one group are
            contiguous and in order.
        frames: may be empty where only the end is to be recorded.
        end: how the group ended, or None while it goes on.
    """

    sequence: int
    first_frame: int
    frames: Sequence[Frame]
    end: Finished | Aborted | None


@attrs.frozen
class GapWrite:
    """Groups in ``[start, end)`` were published and are lost, but for those recorded.

    Attributes:
        start, end: the range, half-open.
        code: the :class:`~moqtrio.errors.StreamCode` subscribers are told; not 0, which says
            that there never was such a group.
    """

    start: int
    end: int = attrs.field()
    code: int = attrs.field(validator=attrs.validators.gt(0))

    @end.validator
    def _check_end(self, _attribute: object, end: int) -> None:
        if not 0 <= self.start < end:
            raise ValueError(f"[{self.start}, {end}) is not a range of sequences")


class ReplayTarget(ReplaySource, Protocol):
    """A replay source that can be recorded to. One writer at a time.

    Everything here that is asynchronous is durable (survives ``kill -9`` and a power cut)
    when it returns, raises :exc:`~moqtrio.errors.ReplayError` for trouble, having changed
    nothing, and may be cancelled (the write itself then still completes or fails whole).
    """

    @property
    def reserved_end(self) -> int:
        """Every sequence below this may have been used; it is durable. After a clean close
        it may be ``next_sequence``, until something is reserved again."""
        ...

    @property
    def next_sequence(self) -> int:
        """The first sequence that was never used: where a publisher goes on after a
        restart. After a clean close one more than the last group, after a kill
        ``reserved_end``."""
        ...

    async def reserve(self, end: int) -> None:
        """Move ``reserved_end`` up to ``end`` (a no-op where it is there already)."""
        ...

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        """Record all of ``writes`` in one transaction. Groups may come in any order."""
        ...

    async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
        """Record that groups are lost, in one transaction.

        From then on ``poll_group`` raises :exc:`~moqtrio.errors.ReplayError`, not retryable
        and with the gap's code, for every sequence in it that is not recorded, also after a
        restart; what is recorded, before or later, is found as ever. A store keeps a
        bounded number and may merge neighbours, with what lies between them, to do so. It
        forgets gaps below what retention has removed. They are no part of ``bounds()``.
        """
        ...

    def mark_used(self, end: int) -> None:
        """Say that sequences below ``end`` were used, recorded or not: none of them is
        ``next_sequence`` again after a clean close. Cheap: kept in memory until then."""
        ...

    def set_durable_end(self, end: int) -> None:
        """Say that every group below ``end`` that will be recorded has been: moves
        ``bounds().durable_end``. Cheap: kept in memory, worked out anew on opening."""
        ...
