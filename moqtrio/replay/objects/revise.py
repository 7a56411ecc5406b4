"""Changes to the manifest, worked out in memory before they are put."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

import attrs

from ..gaps import Gaps
from ..sqlite.shelf import Slice
from ..sqlite.store import SqliteStore
from ..sqlite.track import SqliteTrack
from ..target import GapWrite
from .manifest import Doomed, Manifest, ManifestSlice, ManifestTrack, SliceContent

LEASE = 2**40
"""So many sequences are reserved beyond those in use. Whoever goes on without the disk of
who came before begins after them; so a lease must last for as long as the object store may
be out of reach: a million groups a second take twelve days."""

_SEQUENCE_END = 2**62 - 1
_UNFINISHED = 1024


@attrs.frozen
class ArchivedSlice:
    """A slice that has become an object."""

    name: str
    size: int
    directory_at: int
    slice: Slice


class Revision:
    """A manifest on its way to the next state."""

    def __init__(self, hot: SqliteStore, hot_id: str, manifest: Manifest) -> None:
        self.forgotten: set[str] = set()
        self._hot = hot
        self._hot_id = hot_id
        self._manifest = attrs.evolve(manifest, revision=manifest.revision + 1)
        self._tracks = dict(manifest.tracks)
        self._slices = dict(manifest.slices)
        self._doomed = list(manifest.doomed)

    def claim(self, writer: str) -> None:
        """There is a new writer."""
        self._manifest = attrs.evolve(
            self._manifest,
            store=self._manifest.store or secrets.token_hex(8),
            writer=writer,
            generation=self._manifest.generation + 1,
        )

    def adopt(self) -> list[ManifestTrack]:
        """Reserve sequences for the numberings that go on here although the disk does not
        know all that was used of them; returns how the manifest has them now."""
        adopted = []
        for row in self._manifest.newest().values():
            hot = self._hot.find(row.broadcast, row.name)
            if hot is not None and (
                hot.row.epoch != row.epoch
                or hot.row.reserved_end >= self._manifest.used_end(row.id)
            ):
                continue
            if row.lease_end + LEASE < _SEQUENCE_END:
                row = attrs.evolve(row, lease_end=row.lease_end + LEASE)
                self._tracks[row.id] = row
                adopted.append(row)
        return adopted

    def add_slice(self, made: ArchivedSlice) -> None:
        """There is an object more."""
        each = made.slice
        source = f"{self._hot_id}/{each.number}"
        archived = next((one for one in self._slices.values() if one.source == source), None)
        if archived is not None:
            # An earlier attempt has succeeded after all, and its object is the one. (It may
            # be this one: a put may arrive twice.)
            if archived.name != made.name:
                self._doomed.append(Doomed(made.name, 0.0))
            return
        number = self._manifest.next_number
        contents: dict[int, SliceContent] = {}
        for track in self._hot.tracks():
            content = each.contents.get(track.row.id)
            if content is not None:
                continued = {
                    sequence: frame
                    for (owner, sequence), frame in each.continuations.items()
                    if owner == track.row.id
                }
                contents[self._row(track).id] = SliceContent(track.row.id, content, continued)
        self._slices[number] = ManifestSlice(
            number,
            made.name,
            source,
            made.size,
            made.directory_at,
            each.created,
            each.recorded,
            contents,
        )
        self._manifest = attrs.evolve(self._manifest, next_number=number + 1)

    def remove_slices(self, numbers: Iterable[int], now: float) -> None:
        """These objects are not part of the store any more."""
        self._doomed += [Doomed(self._slices.pop(number).name, now) for number in numbers]

    def forget_doomed(self, names: set[str]) -> None:
        """These objects have been deleted."""
        self.forgotten = {each.name for each in self._doomed if each.name in names}
        self._doomed = [each for each in self._doomed if each.name not in names]

    def lease_is_due(self) -> bool:
        """Whether half of a lease has been used."""
        rows = self._known()
        return any(row.lease_end < self._lease(row, track) for row, track in rows)

    def finish(self, wanted: Mapping[int, int]) -> Manifest:
        """The next state. ``wanted`` is by epoch, what is to be reserved at least."""
        archived = slices_from(self._hot_id, self._slices.values())
        for row, track in self._known():
            self._tracks[row.id] = attrs.evolve(
                row,
                lease_end=self._lease(row, track, wanted.get(row.epoch, 0)),
                gaps=self._gaps(row, track),
                unfinished=self._unfinished(track, archived),
            )
        return attrs.evolve(
            self._manifest,
            tracks=self._needed_tracks(),
            slices=self._slices,
            doomed=tuple(self._doomed),
        )

    def _known(self) -> list[tuple[ManifestTrack, SqliteTrack]]:
        """The numberings that are on the disk as well."""
        by_epoch = {track.row.epoch: track for track in self._hot.tracks()}
        rows = list(self._tracks.values())
        return [(row, by_epoch[row.epoch]) for row in rows if row.epoch in by_epoch]

    def _row(self, track: SqliteTrack) -> ManifestTrack:
        """A numbering's entry, made if need be."""
        row = track.row
        key = (row.broadcast, row.name, row.epoch)
        for each in self._tracks.values():
            if (each.broadcast, each.name, each.epoch) == key:
                return each
        number = max(self._tracks, default=0) + 1
        self._tracks[number] = ManifestTrack(number, *key, 0)
        return self._tracks[number]

    def _lease(self, row: ManifestTrack, track: SqliteTrack, wanted: int = 0) -> int:
        used = max(track.row.reserved_end, wanted)
        if row.lease_end - used >= LEASE // 2:
            return row.lease_end
        return max(row.lease_end, min(used + LEASE, _SEQUENCE_END))

    def _gaps(self, row: ManifestTrack, track: SqliteTrack) -> tuple[GapWrite, ...]:
        """What was never recorded of the groups that objects cover, or will."""
        gaps = Gaps([*row.gaps, *track.gaps])
        if not gaps:
            return ()  # as nearly always; looking through all slices takes its time
        firsts = (
            each.contents[row.id].content.first
            for each in self._slices.values()
            if row.id in each.contents
        )
        known = [track.spans.oldest, *firsts]
        gaps.discard_below(min((each for each in known if each is not None), default=0))
        return tuple(gaps)

    def _unfinished(self, track: SqliteTrack, archived: Mapping[int, int]) -> dict[int, int]:
        """The groups of which not everything is in objects yet, and how much is."""
        waiting = [each for each in self._hot.shelf.slices() if each.number not in archived]
        frames = {
            sequence: group.frames
            for sequence, group in track.open_parts().items()
            if group.part.slice in archived
        }
        for each in waiting:
            for (owner, sequence), frame in each.continuations.items():
                if owner == track.row.id:
                    frames[sequence] = min(frame, frames.get(sequence, frame))
        return dict(sorted(frames.items())[-_UNFINISHED:])

    def _needed_tracks(self) -> dict[int, ManifestTrack]:
        """Every track's latest numbering, and those that there are objects of."""
        needed = set[int]().union(*(each.contents for each in self._slices.values()))
        latest = {(row.broadcast, row.name): row.id for row in self._tracks.values()}
        needed.update(latest.values())
        return {number: row for number, row in sorted(self._tracks.items()) if number in needed}


def slices_from(hot_id: str, slices: Iterable[ManifestSlice]) -> dict[int, int]:
    """By its number on one disk, the number of the object that a slice has become."""
    prefix = f"{hot_id}/"
    return {
        int(each.source.removeprefix(prefix)): each.number
        for each in slices
        if each.source.startswith(prefix)
    }
