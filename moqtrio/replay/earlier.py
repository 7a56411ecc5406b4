"""Tracks that have ended, are still being recorded, and have been taken up anew."""

from __future__ import annotations

from functools import partial

from ..errors import ReplayError
from ..model.log import TrackLog
from ..model.notify import Wakeup
from ..model.source import Missing, Pending


class EarlierLogs:
    """The logs of a track's earlier runs in this process, until all of them is durable.

    Who reads the new run finds nothing of theirs in its log, and not yet in the store. It
    is on its way there all the same, and not missing.
    """

    def __init__(self) -> None:
        self._logs: list[TrackLog] = []

    def add(self, log: TrackLog) -> None:
        """Take in the log of a run that has ended."""
        self._logs.append(log)

    def check(self, sequence: int, missing: Missing) -> Missing | Pending:
        """What becomes of the answer that ``sequence`` is not stored.

        Raises ReplayError (retryable) where it is to be, and the store is failing: nobody
        can say how long that lasts.
        """
        nearest = missing.next_available
        for log in self._unfinished():
            found = log.first_unrecorded(sequence)
            if found == sequence:
                _check_healthy(log, sequence)
                return Pending(partial(_wait_for_change, log))
            if found is not None and (nearest is None or found < nearest):
                nearest = found
        return Missing(nearest)

    def first(self) -> int | None:
        """The smallest sequence that is on its way to the store."""
        found = (log.first_unrecorded(0) for log in self._unfinished())
        return min((each for each in found if each is not None), default=None)

    def durable_end(self, end: int) -> int:
        """``end``, or where the first of them is behind it."""
        return min([end, *(log.durable_end for log in self._unfinished())])

    def _unfinished(self) -> list[TrackLog]:
        if self._logs:
            self._logs = [log for log in self._logs if log.first_unrecorded(0) is not None]
        return self._logs


def _check_healthy(log: TrackLog, sequence: int) -> None:
    recording = log.statistics().recording
    if recording is not None and recording.failing:
        raise ReplayError(f"group {sequence} is not recorded yet: {recording.last_error}")


async def _wait_for_change(log: TrackLog) -> None:
    wakeup = Wakeup()
    remove = log.watchers.add(wakeup.set)
    try:
        await wakeup.wait()
    finally:
        remove()
