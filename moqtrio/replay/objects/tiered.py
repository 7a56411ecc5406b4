"""A store of two tiers: a directory that is recorded to, and objects behind it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from ...errors import ReplayError, StreamCode
from ...model.frame import Frame
from ...model.source import (
    Bounds,
    End,
    GroupReader,
    Missing,
    Pending,
    Ready,
)
from ...model.track import Track
from ...scope import open_scope
from ..sqlite import SqliteStore, SqliteTrack, StoreStatistics
from ..sqlite.errors import store_error
from .archiver import Archiver, ArchiveSettings
from .collection import Collection
from .manifest import Manifest
from .store import MIB, ObjectStatistics, ObjectTarget, connect, describe
from .track import ObjectTrack

_ID_NAME = "archive-id"


@attrs.frozen
class ArchiveStatistics:
    """What a :class:`TieredStore` has archived since it was opened.

    Attributes:
        state: ``starting``, ``archiving``, ``failing`` (it is tried again), or ``refused``:
            another process writes there, and nothing is archived any more.
        pending_slices: slices on the disk that are to be archived.
        archived_slices, archived_bytes: objects made, and their size.
        removed_slices: objects that retention has removed.
        lost_slices: slices that went, or could not be read, before they were archived.
        swept_objects: left-overs of crashes that were deleted.
        failures: attempts that failed.
        last_error: what the last of them failed with.
    """

    state: str
    pending_slices: int
    archived_slices: int
    archived_bytes: int
    removed_slices: int
    lost_slices: int
    swept_objects: int
    failures: int
    last_error: str | None


@attrs.frozen
class TieredStatistics:
    """A snapshot of a :class:`TieredStore`: of the disk, of the objects, of the way there."""

    hot: StoreStatistics
    cold: ObjectStatistics
    archive: ArchiveStatistics


class TieredTrack:
    """One track of a :class:`TieredStore`, a :class:`~moqtrio.replay.ReplaySource`: on the
    disk, or else in objects."""

    def __init__(self, hot: SqliteTrack, collection: Collection, archiver: Archiver) -> None:
        self._hot = hot
        self._collection = collection
        self._archiver = archiver

    @property
    def broadcast(self) -> str:
        """The path of the broadcast the track belongs to."""
        return self._hot.broadcast

    @property
    def name(self) -> str:
        """The track's name within its broadcast."""
        return self._hot.name

    @property
    def cold(self) -> ObjectTrack | None:
        """The same numbering in objects; None while there is none of it."""
        hot = self._hot
        return self._collection.numbering(hot.broadcast, hot.name, hot.row.epoch)

    def bounds(self) -> Bounds:
        """What both tiers hold together."""
        hot, cold = self._hot.bounds(), self.cold
        if cold is None:
            return hot
        objects = cold.bounds()
        return Bounds(
            min((each for each in (hot.oldest, objects.oldest) if each is not None), default=None),
            hot.durable_end,
            hot.epoch,
            max((each for each in (hot.latest, objects.latest) if each is not None), default=None),
        )

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[GroupReader] | Pending | Missing:
        """Look for one group; see :class:`~moqtrio.replay.ReplaySource`.

        Raises ReplayError where the group cannot be read from either tier.
        """
        try:
            answer = self._hot.poll_group(sequence, priority=priority)
        except ReplayError:
            # What the disk cannot give the objects may have.
            found = self._poll_instead(sequence, priority)
            if found is None:
                raise
            return found
        if isinstance(answer, Ready):
            return Ready(TieredGroupReader(answer.value, self))
        if isinstance(answer, Pending):
            return answer
        objects = self._poll_objects(sequence, priority)
        if not isinstance(objects, Missing):
            return objects
        known = (answer.next_available, objects.next_available)
        return Missing(min((each for each in known if each is not None), default=None))

    def now(self) -> float:
        """The time on the clock that what is recorded is stamped with."""
        return self._hot.now()

    async def find_time(self, when: float) -> int | None:
        """The smallest sequence recorded at or after ``when``, in either tier; see
        :class:`~moqtrio.replay.TimeIndex`."""
        found = [await self._hot.find_time(when)]
        cold = self.cold
        if cold is not None and self._has_objects_since(cold, when):
            found.append(await cold.find_time(when))
        return min((each for each in found if each is not None), default=None)

    def _has_objects_since(self, cold: ObjectTrack, when: float) -> bool:
        """Whether anything that young has left the disk."""
        slices = self._collection.manifest.slices
        return any(
            slices[number].recorded >= when and not self._archiver.on_disk(number)
            for number in cold.spans.firsts()
        )

    def poll_rest(self, sequence: int, frames: int) -> Ready[GroupReader] | Pending | None:
        """A group in objects, from a frame on: its file has gone while it was read."""
        cold = self.cold
        answer = Missing(None) if cold is None else cold.poll_group(sequence)
        if isinstance(answer, Missing):
            return None
        if isinstance(answer, Ready):
            answer.value.skip(frames)
        return answer

    def _poll_instead(self, sequence: int, priority: int) -> Ready[GroupReader] | Pending | None:
        """The group in objects; None where it cannot be had there either."""
        cold = self.cold
        try:
            answer = Missing(None) if cold is None else cold.poll_group(sequence, priority=priority)
        except ReplayError:
            return None
        return None if isinstance(answer, Missing) else answer

    def _poll_objects(self, sequence: int, priority: int) -> Ready[GroupReader] | Pending | Missing:
        """The answer of those objects whose slices have left the disk: the others can only
        repeat what the disk has said, and asking them takes a network."""
        cold = self.cold
        if cold is None:
            return Missing(None)
        if any(not self._archiver.on_disk(each.slice) for each in cold.spans.covering(sequence)):
            return cold.poll_group(sequence, priority=priority)
        return cold.absent(sequence)


class TieredGroupReader:
    """Reads a group from the disk, and goes on with its object where the file goes."""

    __slots__ = ("_frames", "_reader", "_track", "sequence")

    def __init__(self, reader: GroupReader, track: TieredTrack) -> None:
        self.sequence: int = reader.sequence
        self._reader = reader
        self._track: TieredTrack | None = track
        self._frames = 0

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        try:
            answer = self._reader.poll_frames(max_bytes)
        except ReplayError as error:
            if self._track is None or error.retryable or error.code != StreamCode.EVICTED:
                raise
            found = self._track.poll_rest(self.sequence, self._frames)
            if found is None:
                raise
            if isinstance(found, Pending):
                return found
            self._reader.close()
            self._reader, self._track = found.value, None
            return self.poll_frames(max_bytes)
        if isinstance(answer, Ready):
            self._frames += len(answer.value)
        return answer

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._reader.close()


class TieredStore:
    """Records to a directory and archives what is complete. Made by :meth:`open`."""

    def __init__(self, hot: SqliteStore, collection: Collection, archiver: Archiver) -> None:
        self._hot = hot
        self._collection = collection
        self._archiver = archiver

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        hot: str | os.PathLike[str],
        cold: ObjectTarget,
        *,
        retention: float | None = None,
        hot_retention: float = 3600.0,
        hot_bytes: int | None = None,
        slice_seconds: float = 120.0,
        slice_bytes: int = 96 * MIB,
        cache_bytes: int = 64 * MIB,
        interval: float = 5.0,
        grace: float = 60.0,
        orphan_age: float = 3600.0,
        request_timeout: float = 10.0,
        wall_clock: Callable[[], float] = time.time,
    ) -> AsyncIterator[TieredStore]:
        """Open a store of two tiers, to record and to replay.

        Everything is recorded to the directory; a file that is complete is copied to an
        object. Where the object store does not answer, also now, the store works all the
        same: files stay on the disk until they are archived.

        On the way out the directory is closed as :meth:`SqliteStore.open` says. An upload
        that is under way is abandoned, and done again when the store is next opened.

        Args:
            hot: the directory. One process at a time may have it open.
            cold: where the objects are; see :meth:`ObjectStore.open`. One process at a time
                archives there: whoever opens it last.
            retention: seconds to keep what was recorded; None for ever.
            hot_retention: seconds for which it stays on the disk at least, once archived.
            hot_bytes: what the files on the disk may take: the oldest go when they take
                more, even if they have not been archived, which is logged and counted.
            slice_seconds, slice_bytes: how long, and how much, one file is written to.
            cache_bytes: memory for what was read, of each tier.
            interval: seconds between looks at the manifest, once another process has it.
            grace: seconds between taking an object out of the manifest and deleting it. More
                than the ``interval`` of those who read, and than their longest subscription
                may be behind.
            orphan_age: seconds after which an object that is in no manifest is a left-over.
            request_timeout: seconds one request may take, for a URL, and for which opening
                waits for the object store.
            wall_clock: see :meth:`SqliteStore.open`.

        Raises:
            ReplayError: as :meth:`SqliteStore.open`; and where obstore is not installed, the
                URL is not understood, or the object store ignores the conditions of puts.
        """
        client = connect(cold, request_timeout)
        collection = Collection(client, cache_bytes, Manifest("", 0, 0))
        settings = ArchiveSettings(retention, grace, orphan_age, interval)
        archiver = Archiver(client, collection, settings)
        async with SqliteStore.open(
            hot,
            retention=hot_retention,
            retention_bytes=hot_bytes,
            slice_seconds=slice_seconds,
            slice_bytes=slice_bytes,
            cache_bytes=cache_bytes,
            wall_clock=wall_clock,
            guard=archiver,
        ) as disk:
            hot_id = await trio.to_thread.run_sync(_read_id, disk.directory)
            await archiver.begin(disk, hot_id, request_timeout)
            async with open_scope() as nursery:
                collection.reading.start_soon = nursery.start_soon
                nursery.start_soon(archiver.run)
                try:
                    yield cls(disk, collection, archiver)
                finally:
                    collection.close()

    def attach(self, track: Track) -> TieredTrack:
        """Record ``track`` from now on, and replay what is there, from both tiers.

        Raises as :meth:`SqliteStore.attach`.
        """
        return self._tiered(self._hot.attach(track))

    def track(self, broadcast: str, name: str) -> TieredTrack:
        """The track of that name, as a source."""
        return self._tiered(self._hot.track(broadcast, name))

    def tracks(self) -> list[TieredTrack]:
        """Every track."""
        return [self._tiered(each) for each in self._hot.tracks()]

    async def archive(self) -> None:
        """Archive what has been recorded up to now, without waiting for files to be complete.

        Takes as long as the object store does not answer. Raises ReplayError where another
        process archives there. Cancelling it leaves the rest for later.
        """
        await self._hot.shelf.seal()
        await self._archiver.flush()

    def statistics(self) -> TieredStatistics:
        """A snapshot of sizes and counters."""
        archiver, counters = self._archiver, self._archiver.counters
        archive = ArchiveStatistics(
            state=archiver.state,
            pending_slices=len(archiver.pending()),
            archived_slices=counters.slices,
            archived_bytes=counters.bytes,
            removed_slices=counters.removed_slices,
            lost_slices=counters.lost_slices,
            swept_objects=counters.swept_objects,
            failures=counters.failures,
            last_error=counters.last_error,
        )
        cold = describe(self._collection, counters.last_error)
        return TieredStatistics(self._hot.statistics(), cold, archive)

    def _tiered(self, hot: SqliteTrack) -> TieredTrack:
        return TieredTrack(hot, self._collection, self._archiver)


def _read_id(directory: Path) -> str:
    """What tells the slices of this directory from those of any other: made when it is first
    archived. Blocks."""
    path = directory / _ID_NAME
    try:
        if not path.exists():
            new = path.with_suffix(".new")
            with new.open("w") as file:
                file.write(secrets.token_hex(8))
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        return path.read_text().strip()
    except OSError as error:
        raise store_error(error, path) from error
