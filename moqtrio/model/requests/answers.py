"""What applications have answered lately, for those who ask for the same a moment later."""

from __future__ import annotations

from collections import OrderedDict

import attrs
import trio

from ...errors import ReplayError
from ..source import Missing
from .buffer import GroupBuffer

# What is missing now may be there later: the answer is good for those who asked together.
_MISSING_SECONDS = 1.0
# Long enough for all who waited to see it; whoever asks later causes another attempt.
_FAILURE_SECONDS = 0.02
_ANSWERS_KEPT = 64


@attrs.frozen
class _Absence:
    start: int
    end: int
    answer: Missing | ReplayError
    until: float


class RecentAnswers:
    """Finished groups, as many as fit, and for a short time what is missing or failed.

    The latest group is kept in any case: who waited for it has yet to come for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._groups: OrderedDict[int, GroupBuffer] = OrderedDict()
        self._absences: OrderedDict[int, _Absence] = OrderedDict()  # by start
        self.bytes: int = 0

    def find(self, sequence: int) -> GroupBuffer | Missing | None:
        """The answer for a sequence, if there is one. Raises it where it is an error."""
        group = self._groups.get(sequence)
        if group is not None:
            self._groups.move_to_end(sequence)
            return group
        self._forget_expired()
        for absence in reversed(self._absences.values()):
            if absence.start <= sequence < absence.end:
                if isinstance(absence.answer, ReplayError):
                    raise absence.answer.again()
                return absence.answer
        return None

    def keep(self, group: GroupBuffer) -> None:
        """Remember a finished group, and forget others if need be."""
        before = self._groups.pop(group.sequence, None)
        self._groups[group.sequence] = group
        self.bytes += group.size - (0 if before is None else before.size)
        while self.bytes > self._max_bytes and len(self._groups) > 1:
            _, oldest = self._groups.popitem(last=False)
            self.bytes -= oldest.size

    def keep_missing(self, sequence: int, next_available: int) -> None:
        """Remember that there is nothing from ``sequence`` up to ``next_available``."""
        self._keep(sequence, next_available, Missing(next_available), _MISSING_SECONDS)

    def keep_failure(self, sequence: int, error: ReplayError) -> None:
        """Remember that a group could not be provided."""
        self._keep(sequence, sequence + 1, error, _FAILURE_SECONDS)

    def clear(self) -> None:
        """Forget everything."""
        self._groups.clear()
        self._absences.clear()
        self.bytes = 0

    def _keep(self, start: int, end: int, answer: Missing | ReplayError, seconds: float) -> None:
        self._absences.pop(start, None)
        self._absences[start] = _Absence(start, end, answer, trio.current_time() + seconds)
        if len(self._absences) > _ANSWERS_KEPT:
            self._absences.popitem(last=False)

    def _forget_expired(self) -> None:
        now = trio.current_time()
        for absence in tuple(self._absences.values()):
            if absence.until <= now:
                del self._absences[absence.start]
