"""The manifest in memory, and the tracks in it, as whoever reads them sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from ...errors import ReplayError
from ..sqlite.cache import Cache
from ..sqlite.loads import Reading
from .index import IndexCache
from .manifest import Manifest, ManifestTrack
from .track import ObjectTrack

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import ObjectClient

T = TypeVar("T")

LARGEST_LOAD = 4 * 2**20
_READER_THREADS = 8
_INDEX_BYTES = 16 * 2**20
_SLOW_SECONDS, _REST_SECONDS = 1.0, 0.5


@attrs.define(eq=False)
class ObjectReading(Reading):
    """Runs loads in threads of their own, which nobody waits for once it is closed.

    A request to an endpoint that does not answer keeps its thread until it times out. So
    that those who wait for a thread do not all wait for that, one after the other, a failure
    that took long makes all loads fail for a moment: whoever wants them asks again.
    """

    _failed: ReplayError | None = None
    _rest_until: float = 0.0
    _limiter: trio.CapacityLimiter = attrs.Factory(lambda: trio.CapacityLimiter(_READER_THREADS))

    async def in_thread(self, read: Callable[[], T]) -> T:
        """Run ``read`` in a worker thread. Cancelling it abandons the thread."""
        if self._failed is not None and trio.current_time() < self._rest_until:
            raise ReplayError(f"{self._failed} (a moment ago)", code=self._failed.code)
        started = trio.current_time()
        try:
            answer = await trio.to_thread.run_sync(
                read, abandon_on_cancel=True, limiter=self._limiter
            )
        except ReplayError as error:
            now = trio.current_time()
            if now - started >= _SLOW_SECONDS:
                self._failed, self._rest_until = error, now + _REST_SECONDS
            raise
        self._failed = None
        return answer


class Collection:
    """See the module's docstring.

    Args:
        client: where the objects are.
        cache_bytes: memory for what was read.
        manifest: what is known so far.
    """

    def __init__(self, client: ObjectClient, cache_bytes: int, manifest: Manifest) -> None:
        self.client = client
        self.manifest: Manifest = Manifest("", 0, 0)
        self.indexes: IndexCache = IndexCache(client, min(_INDEX_BYTES, cache_bytes))
        self.cache: Cache = Cache(cache_bytes)
        self.reading: ObjectReading = ObjectReading(
            trio.CapacityLimiter(_READER_THREADS), cache_bytes, largest=LARGEST_LOAD
        )
        self._tracks: dict[int, ObjectTrack] = {}
        self._by_epoch: dict[tuple[str, str, int], ObjectTrack] = {}
        self.apply(manifest)

    def check_open(self) -> None:
        """Raise ReplayError once the store is closed."""
        if self.reading.closed:
            raise ReplayError(f"the store {self.client.label} is closed", retryable=False)

    def tracks(self) -> list[ObjectTrack]:
        """The latest numbering of every track."""
        return [self._tracks[row.id] for row in self.manifest.newest().values()]

    def track(self, broadcast: str, name: str) -> ObjectTrack | None:
        """The latest numbering of a track; None where there is none."""
        row = self.manifest.newest().get((broadcast, name))
        return None if row is None else self._tracks[row.id]

    def numbering(self, broadcast: str, name: str, epoch: int) -> ObjectTrack | None:
        """One numbering of a track; None where there is none."""
        return self._by_epoch.get((broadcast, name, epoch))

    def apply(self, manifest: Manifest) -> None:
        """From now on this is what there is. Raises ReplayError for another store's."""
        before = self.manifest
        if before.store not in ("", manifest.store):
            raise ReplayError(
                f"the store in {self.client.label} was replaced by another: open it anew",
                retryable=False,
            )
        self.manifest = manifest
        for row in manifest.tracks.values():
            self._put_track(row)
        for number, removed in before.slices.items():
            if number not in manifest.slices:
                for owner in removed.contents:
                    self._tracks[owner].remove(removed)
        for number, added in manifest.slices.items():
            if number not in before.slices:
                for owner in added.contents:
                    self._tracks[owner].add(added)
        for track in self._tracks.values():
            track.wake()
        self._forget_tracks()

    def close(self) -> None:
        """Nothing more is read; whoever waits is told so."""
        self.reading.closed = True
        for track in self._tracks.values():
            track.close()

    def _put_track(self, row: ManifestTrack) -> None:
        track = self._tracks.get(row.id)
        if track is None:
            track = ObjectTrack(self, row, self.cache, self.reading)
            self._tracks[row.id] = track
            self._by_epoch[row.broadcast, row.name, row.epoch] = track
        track.put_row(row)

    def _forget_tracks(self) -> None:
        for number in [each for each in self._tracks if each not in self.manifest.tracks]:
            row = self._tracks.pop(number).row
            self._by_epoch.pop((row.broadcast, row.name, row.epoch), None)
