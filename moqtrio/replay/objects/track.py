"""One numbering of a track in objects, and how it is polled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...model.source import Bounds, Missing
from ..gaps import Gaps
from ..sqlite.cache import Cache
from ..sqlite.extents import Extent, Piece
from ..sqlite.loads import Reading
from ..sqlite.lookup import PieceRequest, RangeRequest, SlicedTrack
from ..sqlite.records import Content
from .index import ObjectFile
from .loader import find_recorded_since, load_piece, load_range
from .manifest import ManifestSlice, ManifestTrack

if TYPE_CHECKING:
    from .collection import Collection


class ObjectTrack(SlicedTrack[ObjectFile]):
    """One track of an :class:`ObjectStore`: a :class:`~moqtrio.replay.ReplaySource`.

    Polls ask nothing of the network: what is not in the cache is read by a worker thread
    while the answer is :class:`~moqtrio.replay.Pending`.
    """

    def __init__(
        self, collection: Collection, row: ManifestTrack, cache: Cache, reading: Reading
    ) -> None:
        super().__init__(row.id, row.broadcast, row.name, cache, reading, row.gaps)
        self.row: ManifestTrack = row
        self._collection = collection
        self._groups = 0
        self._bytes = 0

    def bounds(self) -> Bounds:
        """What the objects hold of the track, as far as the manifest is known."""
        spans = self.spans
        return Bounds(spans.oldest, spans.end, self.row.epoch, spans.latest)

    def content(self) -> Content:
        """How much there is of the track; of its sequences the smallest and the largest."""
        total = Content()
        for each in self._collection.manifest.slices.values():
            found = each.contents.get(self.row.id)
            if found is not None:
                total.add(found.content)
        return total

    def absent(self, sequence: int) -> Missing:
        """The answer for a group that no object has, without asking for one.

        Raises ReplayError (not retryable) where it was lost before it was recorded.
        """
        nearest = next(self.spans.after(sequence), None)
        return self.gaps.check(sequence, Missing(None if nearest is None else nearest.first))

    # For looking up.

    def check_open(self) -> None:
        """Raise ReplayError once the store is closed."""
        self._collection.check_open()

    def has_slice(self, number: int) -> bool:
        """Whether the manifest has an object."""
        return number in self._collection.manifest.slices

    def file(self, number: int) -> ObjectFile:
        """Where an object is."""
        found = self._collection.manifest.slices[number]
        key = found.contents[self.row.id].key
        return ObjectFile(number, found.name, found.size, found.directory_at, key)

    def created(self, number: int) -> float:
        """A time before the first commit of a slice."""
        return self._collection.manifest.slices[number].created

    def recorded(self, number: int) -> float:
        """When the last commit of a slice was."""
        return self._collection.manifest.slices[number].recorded

    def find_in_slice(
        self, file: ObjectFile, when: float, *, oldest: int, unreadable: int
    ) -> int | None:
        """See :meth:`SlicedTrack.find_in_slice`. Looks into the index of one object."""
        indexes = self._collection.indexes
        return find_recorded_since(indexes, file, when, oldest=oldest, unreadable=unreadable)

    def mean_group_bytes(self) -> int:
        """The mean size of the groups; 0 where there are none."""
        return self._bytes // self._groups if self._groups else 0

    def open_groups(self) -> Iterable[int]:
        """The groups that more may come of."""
        return self.row.unfinished

    def recorded_frames(self, sequence: int) -> int | None:
        """How many frames there are of a group that more may come of; None for others."""
        return self.row.unfinished.get(sequence)

    def load_range(self, request: RangeRequest[ObjectFile]) -> Extent:
        """Read an extent, in a worker thread. Raises ReplayError (retryable)."""
        return load_range(self._collection.indexes, request)

    def load_piece(self, request: PieceRequest[ObjectFile]) -> Piece:
        """Read frames of one group, in a worker thread. Raises ReplayError (retryable)."""
        return load_piece(self._collection.indexes, request)

    # For the collection.

    def put_row(self, row: ManifestTrack) -> None:
        """This is what the manifest says of the track now."""
        self.row = row
        self.gaps: Gaps = Gaps(row.gaps)

    def add(self, added: ManifestSlice) -> None:
        """The manifest has an object more."""
        found = added.contents[self.row.id]
        content = found.content
        if content.first is not None and content.last is not None:
            if content.first < self.spans.end:
                self._loads.invalidate(content.first - 1, content.last)
            self.spans.extend(added.number, content.first, content.last)
        self._groups += content.groups
        self._bytes += content.totals.bytes
        self.times.clear()
        self.add_continuations(added.number, dict(found.continued))

    def remove(self, removed: ManifestSlice) -> None:
        """The manifest has an object less."""
        found = removed.contents[self.row.id]
        self._groups -= found.content.groups
        self._bytes -= found.content.totals.bytes
        self.remove_slice(removed.number, found.continued)
