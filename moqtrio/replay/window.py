"""Finds where a track's recent past begins, by the timestamps of its groups."""

from __future__ import annotations

from ..errors import ReplayError
from ..model.log import TrackLog
from ..model.source import GroupReader, Missing, Pending, Ready, ReplaySource


class WindowStart:
    """Looks for the first group that is not older than the latest by more than some seconds.

    That is a bisection over memory and store together, so its cost hardly grows with the
    history. It takes groups to be in the order of their timestamps. What cannot be read is
    taken to be young enough: whoever asks gets too much rather than too little.

    Args:
        log: the track's groups in memory.
        source: the store behind it, or None.
        floor: the first sequence that is wanted.
        seconds: how much older than the latest group.
    """

    def __init__(
        self, log: TrackLog, source: ReplaySource | None, floor: int, seconds: float
    ) -> None:
        self._log = log
        self._source = source
        self._window_us = seconds * 1_000_000
        self._low = floor
        self._high: int | None = None
        self._latest_us: int | None = None
        self._looking_at: int | None = None
        self._reader: GroupReader | None = None

    def poll(self) -> Ready[int] | Pending:
        """The first sequence that may be wanted; there need not be a group of it."""
        if self._high is None:
            waiting = self._find_latest()
            if waiting is not None:
                return waiting
        while self._high is not None and self._low < self._high and self._latest_us is not None:
            middle = (self._low + self._high) // 2
            found = self._first_from(middle)
            if isinstance(found, Pending):
                return found
            if found is None or found[0] >= self._high or self._is_within(found[1]):
                self._high = middle
            else:
                self._low = found[0] + 1
        return Ready(self._low)

    def close(self) -> None:
        """Let go of what was being read. Idempotent."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _is_within(self, first_us: int | None) -> bool:
        assert self._latest_us is not None
        return first_us is None or self._latest_us - first_us <= self._window_us

    def _find_latest(self) -> Pending | None:
        """Which group is the latest, and how old; nothing further is to be found out where
        there is none."""
        latest, self._latest_us = self._log.latest, self._log.latest_first_us
        if self._latest_us is None:
            latest = None if self._source is None else self._source.bounds().latest
            if latest is not None and latest >= self._low:
                found = self._first_from(latest)
                if isinstance(found, Pending):
                    return found
                self._latest_us = None if found is None else found[1]
        self._high = latest
        if self._latest_us is not None:
            in_memory = self._log.first_from(self._low)
            if in_memory is not None and not self._is_within(self._log_time(in_memory)):
                self._low = in_memory + 1  # all of it is in memory: no need to ask the store
        return None

    def _first_from(self, sequence: int) -> tuple[int, int | None] | Pending | None:
        """The first group from ``sequence`` on and its first timestamp, if that is known."""
        at = sequence if self._looking_at is None else self._looking_at
        while True:
            in_log = self._log.first_from(at)
            if in_log == at:
                return self._found(at, self._log_time(at))
            try:
                answer = self._read_first(at)
            except ReplayError:
                return self._found(at, None)
            if isinstance(answer, Pending):
                self._looking_at = at
                return answer
            if not isinstance(answer, Missing):
                return self._found(at, answer.value)
            following = [each for each in (in_log, answer.next_available) if each is not None]
            if not following:
                self._looking_at = None
                return None
            at = min(following)

    def _found(self, sequence: int, first_us: int | None) -> tuple[int, int | None]:
        self.close()
        self._looking_at = None
        return sequence, first_us

    def _log_time(self, sequence: int) -> int | None:
        group = self._log.get(sequence)
        return group.frames[0].timestamp_us if group is not None and group.frames else None

    def _read_first(self, sequence: int) -> Ready[int | None] | Pending | Missing:
        """The first timestamp of a group of the store."""
        if self._source is None:
            return Missing(None)
        if self._reader is None:
            answer = self._source.poll_group(sequence)
            if not isinstance(answer, Ready):
                return answer
            self._reader = answer.value
        frames = self._reader.poll_frames(1)
        if isinstance(frames, Pending):
            return frames
        return Ready(frames.value[0].timestamp_us if isinstance(frames, Ready) else None)
