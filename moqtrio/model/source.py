"""The interface between the resolver and anything that remembers groups.

Two polls, neither of which ever blocks, both of which may fail. A poll that cannot be
answered yet returns :class:`Pending`, whose ``wait`` says when asking again is worth it.
Absence (:class:`Missing`) and trouble (:exc:`~moqtrio.errors.ReplayError`) are different
answers, because a subscriber must be told them apart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import attrs

from .frame import Frame

T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class Bounds:
    """What a source holds, as far as it knows without looking.

    Attributes:
        oldest: the smallest sequence it has, or None while it has none.
        durable_end: every recorded group below this sequence is durable (half-open).
        epoch: identifies this numbering; a sequence never means two contents in one epoch.
        latest: the largest sequence it has, or None while it has none.
    """

    oldest: int | None
    durable_end: int
    epoch: int
    latest: int | None = None


@attrs.frozen
class Ready(Generic[T_co]):
    """The answer is here."""

    value: T_co


@attrs.frozen
class Pending:
    """Not known yet. ``await wait()`` returns when polling again is worth it.

    Every waiter may call it, any number of times, and may be cancelled while it waits;
    cancelling one waiter does not end a load that others wait for.
    """

    wait: Callable[[], Awaitable[None]]


@attrs.frozen
class Missing:
    """The source does not have this sequence, nor any below ``next_available``.

    ``next_available`` is None when it has nothing at or above the sequence either.
    """

    next_available: int | None


class End:
    """The group is complete: there are no more frames (see :data:`END`)."""

    def __repr__(self) -> str:
        return "END"


END: Final = End()


class GroupReader(Protocol):
    """Reads one group in pieces, as fast as the subscriber's flow control admits."""

    @property
    def sequence(self) -> int:
        """The group's sequence."""
        ...

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames, in order: about ``max_bytes`` of payload, at least one frame.

        Returns :data:`END` after the last frame of a complete group. Raises
        :exc:`~moqtrio.errors.ReplayError` for trouble, and, with ``retryable=False`` and
        the group's code, at the end of a group that was aborted or is truncated: such a
        group never ends with :data:`END`.

        After an error that is retryable it may be polled again, and goes on where it was.
        """
        ...

    def close(self) -> None:
        """Let go of everything held for this reader. Never blocks; idempotent."""
        ...


class ReplaySource(Protocol):
    """A store of one track's groups."""

    def bounds(self) -> Bounds:
        """What the source holds: cached state that costs nothing to ask for."""
        ...

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[GroupReader] | Pending | Missing:
        """Look for one group, for somebody who wants it as much as ``priority`` says: of
        what is waited for, the highest comes first where the source can choose.

        Raises :exc:`~moqtrio.errors.ReplayError` for trouble.
        """
        ...


@runtime_checkable
class TimeIndex(Protocol):
    """What a source has besides, where it can be asked by time of day.

    Times are seconds since the Unix epoch, on a clock of the source's own that never runs
    backwards.
    """

    def now(self) -> float:
        """The time on the clock that what is recorded is stamped with."""
        ...

    async def find_time(self, when: float) -> int | None:
        """The smallest sequence of a group that the source still has and of which anything,
        a frame or its end, was recorded at or after ``when``; None where nothing is that
        young. May name an earlier group where it cannot tell, but never a later one.

        Costs the same however much history there is. Raises
        :exc:`~moqtrio.errors.ReplayError` for trouble. Cancelling it leaves nothing behind.
        """
        ...
