"""Archives sealed slices as objects, and keeps the manifest that says which there are.

One task does all of it. What fails is tried again for as long as it takes, and nothing else
waits for it: recording and live go on, and the slices stay on the disk meanwhile.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from ...errors import ReplayError
from ..sqlite.shelf import Shelf, Slice
from ..sqlite.store import SqliteStore
from ..sqlite.track import SqliteTrack
from .answers import SLICES
from .collection import Collection
from .keeper import Keeper, Refused
from .revise import ArchivedSlice
from .writer import ObjectWriter, TrackName

if TYPE_CHECKING:
    from .client import ObjectClient

logger: logging.Logger = logging.getLogger("moqtrio.objects")

_FIRST_DELAY, _LARGEST_DELAY = 0.5, 30.0
_SWEEP_SECONDS = 3600.0
_SWEPT_AT_ONCE = 1000


@attrs.frozen
class ArchiveSettings:
    """Seconds: how long objects are kept, how long they still exist for readers that have an
    older manifest, how old an object must be to be taken for a left-over, and how often a
    writer that was refused looks for what is new."""

    retention: float | None
    grace: float
    orphan_age: float
    interval: float


@attrs.define(eq=False)
class ArchiveCounters:
    """What was counted since the store was opened."""

    slices: int = 0
    bytes: int = 0
    lost_slices: int = 0
    removed_slices: int = 0
    swept_objects: int = 0
    failures: int = 0
    last_error: str | None = None


class _Stopped(Exception):
    """Nobody waits for this upload any more."""


class Archiver:
    """See the module's docstring. Also the guard of the slices on the disk."""

    def __init__(
        self, client: ObjectClient, collection: Collection, settings: ArchiveSettings
    ) -> None:
        self.counters: ArchiveCounters = ArchiveCounters()
        self.state: str = "starting"
        self._client = client
        self._collection = collection
        self._settings = settings
        self._hot: SqliteStore | None = None
        self._keeper: Keeper | None = None
        self._unreadable: set[int] = set()
        self._gone: list[Slice] = []  # before it was known whether they were archived
        self._swept_at: float | None = None
        self._failed_in_a_row = 0
        self._progress = trio.Event()

    # Opening.

    async def begin(self, hot: SqliteStore, hot_id: str, patience: float) -> None:
        """Become the writer, if the object store answers within ``patience`` seconds.

        Raises ReplayError where it never can: it has no conditional puts, say.
        """
        self._hot = hot
        self._keeper = Keeper(self._client, self._collection, hot, hot_id)
        try:
            with trio.move_on_after(patience) as scope:
                await self._claim_patiently()
            if scope.cancelled_caught:
                self._note_failure(ReplayError(f"{self._client.label} did not answer"))
        except Refused as error:
            self._refuse(error)

    async def _claim_patiently(self) -> None:
        """An empty disk is worth waiting for what the manifest knows: it will be too late to
        go on with a numbering once another has begun."""
        while True:
            try:
                await self._manifest.claim(adopt=True)
                return
            except ReplayError as error:
                if not error.retryable:
                    raise
                delay = self._note_failure(error)
            if self._store.tracks():
                return
            await trio.sleep(delay)

    async def run(self) -> None:
        """Archive until cancelled. Never raises."""
        shelf = self._shelf
        while self.state != "refused":
            changed = shelf.changed
            try:
                if not self._manifest.claimed:
                    await self._manifest.claim(adopt=False)
                await self._work()
                self._note_success()
                delay = self._next_deadline() - shelf.now()
            except Refused as error:
                self._refuse(error)
                break
            except ReplayError as error:
                delay = self._note_failure(error)
            with trio.move_on_after(max(delay, 0.0)):
                await changed.wait()
        await self._follow()

    async def flush(self) -> None:
        """Wait until every slice that is sealed now is archived.

        Raises ReplayError where another writer has taken over.
        """
        numbers = {each.number for each in self._shelf.sealed()}
        self._shelf.notify()
        while numbers & {each.number for each in self.pending()}:
            if self.state == "refused":
                raise ReplayError(
                    f"nothing is archived any more: {self.counters.last_error}", retryable=False
                )
            await self._progress.wait()

    def pending(self) -> list[Slice]:
        """The slices that are still to be archived, oldest first."""
        return [each for each in self._shelf.sealed() if self._is_wanted(each)]

    def on_disk(self, number: int) -> bool:
        """Whether the slice an object was made from is still on the disk."""
        return self._manifest.on_disk(number)

    # For the slices on the disk: see SliceGuard.

    def may_expire(self, each: Slice) -> bool:
        """A slice may go once it is archived, and so is all that its groups go on in; or
        where it is too old to be archived at all."""
        if self._hot is None:
            return False
        if self._is_outdated(each.recorded) or each.number in self._unreadable:
            return True
        return each.number in self._manifest.archived and not self._shelf.goes_on(
            each, self._is_archived
        )

    def dropped(self, each: Slice) -> None:
        """A slice is going; if it is not archived, its groups are lost."""
        if self._is_outdated(each.recorded):
            return
        if self._keeper is None or not self._keeper.claimed:
            self._gone.append(each)
        elif not self._is_archived(each):
            self._note_loss(each)

    def _note_loss(self, each: Slice) -> None:
        counters = self.counters
        counters.lost_slices += 1
        logger.error(
            "slice %d had to go before it was archived (%d so far): the disk has no room for "
            "more, and the object store is slower than the tracks, or failing (%s)",
            each.number,
            counters.lost_slices,
            counters.last_error or "no error so far",
        )

    def check_reserve(self, track: SqliteTrack, end: int) -> None:
        """See :meth:`Keeper.check_reserve`."""
        if self._keeper is not None:
            self._keeper.check_reserve(track, end)

    # What there is to do.

    async def _work(self) -> None:
        if self._manifest.doubtful:
            await self._manifest.read_own()
        while self._gone:
            each = self._gone.pop()
            if not self._is_archived(each):
                self._note_loss(each)
        await self._manifest.renew_leases()
        while pending := self.pending():
            await self._archive(pending[0])
            self._note_progress()
        await self._remove_expired()
        await self._delete_doomed()
        await self._sweep()

    async def _archive(self, each: Slice) -> None:
        rows = [track.row for track in self._store.tracks()]
        tracks = {row.id: TrackName(row.broadcast, row.name, row.epoch) for row in rows}
        writer = ObjectWriter(
            self._shelf.file(each.number), {key: tracks[key] for key in each.contents}
        )
        name = f"{SLICES}/{each.number:08d}-{secrets.token_hex(8)}"
        try:
            await self._upload(name, writer)
        except ReplayError as error:
            if error.retryable:
                raise
            self._unreadable.add(each.number)
            self.counters.lost_slices += 1
            logger.error("slice %d cannot be archived: %s", each.number, error)
            return
        made = ArchivedSlice(name, writer.size, writer.directory_at, each)
        await self._manifest.update(lambda revision: revision.add_slice(made))
        self.counters.slices += 1
        self.counters.bytes += writer.size
        self._shelf.notify()

    async def _upload(self, name: str, writer: ObjectWriter) -> None:
        stopped = threading.Event()

        def pieces() -> Iterator[bytes]:
            for piece in writer.pieces():
                if stopped.is_set():
                    raise _Stopped
                yield piece

        try:
            await self._manifest.in_thread(lambda: self._client.put(name, pieces()))
        finally:
            stopped.set()

    async def _remove_expired(self) -> None:
        manifest = self._manifest.manifest
        expired = [each for each in manifest.slices.values() if self._is_outdated(each.recorded)]
        if not expired:
            return
        now = self._shelf.now()
        numbers = [each.number for each in expired]
        await self._manifest.update(lambda revision: revision.remove_slices(numbers, now))
        self.counters.removed_slices += len(expired)

    async def _delete_doomed(self) -> None:
        now, grace = self._shelf.now(), self._settings.grace
        names = [
            each.name
            for each in self._manifest.manifest.doomed
            if now - each.since >= grace and each.name not in self._manifest.deleted
        ]
        if names:
            await self._manifest.in_thread(lambda: self._client.delete(names))
            self._manifest.deleted.update(names)

    async def _sweep(self) -> None:
        """Delete what crashes between an object and its entry in the manifest have left."""
        now = self._shelf.now()
        if self._swept_at is not None and now - self._swept_at < _SWEEP_SECONDS:
            return
        manifest = self._manifest.manifest
        known = {each.name for each in manifest.slices.values()}
        known.update(each.name for each in manifest.doomed)
        age = timedelta(seconds=self._settings.orphan_age)
        orphans = await self._manifest.in_thread(partial(_find_orphans, self._client, known, age))
        if orphans:
            # Who has been replaced does not know which objects are its successor's.
            await self._manifest.read_own()
            await self._manifest.in_thread(lambda: self._client.delete(orphans))
            self.counters.swept_objects += len(orphans)
        self._swept_at = now

    async def _follow(self) -> None:
        """Read on as any reader does."""
        while True:
            try:
                await self._manifest.follow()
            except ReplayError as error:
                logger.debug("what is new cannot be seen, for now: %s", error)
            await trio.sleep(self._settings.interval)

    def _next_deadline(self) -> float:
        manifest, settings = self._manifest.manifest, self._settings
        deadlines = [(self._swept_at or 0.0) + _SWEEP_SECONDS]
        if settings.retention is not None:
            deadlines += [each.recorded + settings.retention for each in manifest.slices.values()]
        deadlines += [
            each.since + settings.grace
            for each in manifest.doomed
            if each.name not in self._manifest.deleted
        ]
        return min(deadlines)

    def _is_wanted(self, each: Slice) -> bool:
        if self._is_archived(each):
            return False
        return not self._is_outdated(each.recorded)

    def _is_archived(self, each: Slice) -> bool:
        return each.number in self._manifest.archived or each.number in self._unreadable

    def _is_outdated(self, recorded: float) -> bool:
        retention = self._settings.retention
        return retention is not None and self._shelf.now() - recorded >= retention

    # How it goes.

    def _note_success(self) -> None:
        if self.state == "failing":
            logger.warning("%s: archiving goes on", self._client.label)
        self.state = "archiving"
        self._failed_in_a_row = 0
        self._note_progress()

    def _note_failure(self, error: ReplayError) -> float:
        """Count and report a failure; returns how many seconds to wait before the next try."""
        self.counters.failures += 1
        self.counters.last_error = str(error)
        delay: float = min(_FIRST_DELAY * 2 ** min(self._failed_in_a_row, 10), _LARGEST_DELAY)
        self._failed_in_a_row += 1
        if self.state != "failing":
            logger.error("archiving failed, and is tried again; live goes on: %s", error)
        self.state = "failing"
        return delay * random.uniform(0.5, 1.0)

    def _refuse(self, error: Refused) -> None:
        self.state = "refused"
        self.counters.last_error = str(error)
        logger.error("nothing is archived any more, recording goes on: %s", error)
        self._note_progress()

    def _note_progress(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    @property
    def _store(self) -> SqliteStore:
        assert self._hot is not None, "begin() comes first"
        return self._hot

    @property
    def _shelf(self) -> Shelf:
        return self._store.shelf

    @property
    def _manifest(self) -> Keeper:
        assert self._keeper is not None, "begin() comes first"
        return self._keeper


def _find_orphans(client: ObjectClient, known: set[str], age: timedelta) -> Sequence[str]:
    """Objects that are in no manifest and were made long before the last one. Blocks."""
    now = client.manifest_time()  # by the same clock as the objects' times
    orphans: list[str] = []
    for some in client.list():
        orphans += [name for name, made in some if name not in known and now - made >= age]
        if len(orphans) >= _SWEPT_AT_ONCE:
            break
    return orphans
