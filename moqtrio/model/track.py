"""A track: a named sequence of groups, as its publisher holds it."""

from __future__ import annotations

import secrets
from typing import Protocol

import attrs
import trio

from ..errors import ProtocolError, ReplayError, StreamCode
from .clock import MediaClock
from .group import GroupProducer
from .log import LogLimits, LogStatistics, TrackLog
from .notify import Wakeup
from .recording import RecordingMode, RecordingStatistics
from .requests import ReplayRequests, RequestLimits, RequestQueue
from .source import ReplaySource, TimeIndex
from .timeline import Timeline


@attrs.frozen
class TrackInfo:
    """What never changes about a track.

    Attributes:
        priority: 0 to 255; tracks with a higher one are sent first.
        ordered: whether older groups should be delivered before newer ones.
        max_latency: seconds after which a subscriber should no longer expect a group that
            was superseded. None is as long as the track has it: its cache's age, or any
            time where it is recorded.
        timescale: timestamp units per second on the wire.
    """

    priority: int = attrs.field(
        default=127, validator=[attrs.validators.ge(0), attrs.validators.le(255)]
    )
    ordered: bool = True
    max_latency: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0))
    )
    timescale: int = attrs.field(default=1_000_000, validator=attrs.validators.gt(0))


class TrackStore(Protocol):
    """Something that records tracks and replays them."""

    def attach(self, track: Track) -> ReplaySource:
        """Begin to record ``track``; returns its source."""
        ...


class Track:
    """Publishes one track. Made by :meth:`moqtrio.Broadcast.create_track`.

    Nothing here blocks except the methods that say ``wait`` or ``find``. Groups may be open
    side by side.

    Attributes:
        broadcast: the path of the broadcast it belongs to.
        name: its name within the broadcast.
        info: its fixed properties.
        log: the groups in memory (for sessions and recorders).
        datagrams: whether live groups of one small frame may be sent as datagrams.
        source: where groups are looked for that have left memory, or None.
    """

    def __init__(
        self,
        broadcast: str,
        name: str,
        *,
        info: TrackInfo | None = None,
        limits: LogLimits | None = None,
        clock: MediaClock | None = None,
        store: TrackStore | None = None,
        recording: RecordingMode = "live",
        first_sequence: int = 0,
        datagrams: bool = False,
    ) -> None:
        self.broadcast = broadcast
        self.name = name
        self.info: TrackInfo = TrackInfo() if info is None else info
        self.datagrams: bool = datagrams
        self.log: TrackLog = TrackLog(limits, clock, recording=recording)
        self.log.begin_at(first_sequence)
        self._timeline: Timeline | None = None
        self._requests: RequestQueue | None = None
        self._epoch = secrets.randbits(62)
        self.source: ReplaySource | None = None if store is None else store.attach(self)
        if recording == "durable" and not self.log.is_recorded:
            raise ValueError("recording='durable' needs a store that records the track")

    def append_group(self) -> GroupProducer:
        """Open the next group. Raises ProtocolError once the track has ended."""
        return GroupProducer(self.log, self.log.create_group())

    def create_group(self, sequence: int) -> GroupProducer:
        """Open a group with a sequence of your own, which was never used before.

        Raises ProtocolError where it may have been, or where the track has ended.
        """
        return GroupProducer(self.log, self.log.create_group(sequence))

    def write_frame(self, payload: bytes, timestamp_us: int | None = None) -> None:
        """Publish one frame as a group of its own."""
        with self.append_group() as group:
            group.write_frame(payload, timestamp_us)

    def finish(self) -> None:
        """No group will follow. What there is stays readable."""
        self.log.finish()

    def abort(self, code: int = StreamCode.CANCEL) -> None:
        """End the track with an error: open groups and subscriptions end with ``code``."""
        self.log.abort(int(code))

    def statistics(self) -> LogStatistics:
        """A snapshot of what is in memory, evicted, durable and lost."""
        return self.log.statistics()

    def requests(
        self,
        *,
        max_unanswered: int = 64,
        buffer_bytes: int = 2**20,
        cache_bytes: int = 16 * 2**20,
        total_bytes: int = 64 * 2**20,
    ) -> ReplayRequests:
        """Answer for the track's old groups yourself: what subscriptions and fetches ask for
        that is not in memory arrives here as a request. Needs a running Trio.

        Without this, and without a store, such groups are said not to exist. So call it
        before the track is served, and see ``first_sequence`` of
        :meth:`Broadcast.create_track` for history from before this program started.

        Args:
            max_unanswered: requests to hand out before the first of them are answered.
                Beyond it those who ask wait.
            buffer_bytes: memory for one group while it is written. Larger ones flow through.
            cache_bytes: memory for groups that were answered, for others who ask soon after.
                The latest one stays in any case.
            total_bytes: memory for all groups that are written or read at once. Beyond it
                each of them has one frame at a time, and its writer waits for its readers.

        Raises ProtocolError where the track has a store, or has such a channel already that
        was not closed.
        """
        queue = self._requests
        if queue is None:
            if self.source is not None:
                raise ProtocolError(
                    f"track {self.broadcast}/{self.name} has a store, which answers for its "
                    "history: create a track without one"
                )
            queue = RequestQueue(self.log, f"{self.broadcast}/{self.name}")
        limits = RequestLimits(max_unanswered, buffer_bytes, cache_bytes, total_bytes)
        requests = ReplayRequests(queue, limits)
        self.source = self._requests = queue
        return requests

    @property
    def epoch(self) -> int:
        """Identifies the numbering: in one epoch a sequence never means two groups.

        It is that of the track's store, if it has one, and so the same after a restart;
        else of this object.
        """
        return self._epoch if self.source is None else self.source.bounds().epoch

    @property
    def timeline(self) -> Timeline | None:
        """What finds groups by the time of day; None where the track's source cannot."""
        source: object = self.source
        index = source if isinstance(source, TimeIndex) else None
        if source is not None and index is None:
            return None
        if self._timeline is None or self._timeline.index is not index:
            self._timeline = Timeline(self.log, index)
        return self._timeline

    async def find_time(self, when: float) -> int:
        """The sequence to start at to get everything that was published at or after ``when``.

        It is the smallest of a group of which anything was recorded (published, where it is
        not recorded yet, or the track is not) at or after ``when``, or that is still open:
        more of it may come. Where there is no such group, it is that of the next group.

        Args:
            when: seconds since the Unix epoch, by the clock of the track's store. See
                :meth:`moqtrio.SqliteStore.open` for what it does when the system's clock
                is set.

        Raises ReplayError where the track's source has no index of times, or cannot read
        it. Cancelling it leaves nothing behind.
        """
        timeline = self.timeline
        if timeline is None:
            raise ReplayError(
                f"the source of track {self.broadcast}/{self.name} cannot be asked by time: "
                "start at a sequence instead (0 is the oldest)",
                code=StreamCode.NOT_FOUND,
                retryable=False,
            )
        return await timeline.find(when)

    async def wait_trouble(self, seen: int = 0) -> RecordingStatistics:
        """Wait until recording has failed, or a group was lost, more than ``seen`` times.

        Pass the ``trouble`` of what is returned the next time, and nothing is missed,
        however much happens in between::

            seen = 0
            while True:
                recording = await track.wait_trouble(seen)
                seen = recording.trouble
                alert(recording.lost, recording.last_error)

        Raises ProtocolError for a track that is not recorded. Cancelling it changes nothing.
        """
        await trio.lowlevel.checkpoint()
        wakeup = Wakeup()
        remove = self.log.watchers.add(wakeup.set)
        try:
            while self.log.is_recorded and self.log.trouble <= seen:
                await wakeup.wait()
        finally:
            remove()
        recording = self.log.statistics().recording
        if recording is None:
            raise ProtocolError(f"track {self.broadcast}/{self.name} is not recorded")
        return recording

    async def wait_durable(self, behind_bytes: int = 0) -> None:
        """Wait until at most ``behind_bytes`` of what was written is still to be recorded.

        With 0, every group has ended and is durable. How a producer that reads a file, and
        so could be faster than any disk, keeps step with its store. Returns at once for a
        track that is not recorded. Cancelling it changes nothing.
        """
        await trio.lowlevel.checkpoint()
        wakeup = Wakeup()
        remove = self.log.watchers.add(wakeup.set)
        try:
            while self.log.is_behind(behind_bytes):
                await wakeup.wait()
        finally:
            remove()
