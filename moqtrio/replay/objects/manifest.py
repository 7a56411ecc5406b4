"""The manifest: which objects there are and what is in them, in one small object.

It is the only object that ever changes. Whoever writes replaces it only if it is still what
they last saw of it, so of two writers one is refused, and nobody overwrites unseen news.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs

from ...errors import ReplayError
from ..sqlite.records import Content, Totals
from ..target import GapWrite

FORMAT_VERSION = 1
_FORMAT = "moqtrio-objects"
_COMPACT = (",", ":")
_LARGEST = 512 * 2**20  # decoded; ten million slices would not fit any more


@attrs.frozen
class ManifestTrack:
    """One numbering of a track.

    Attributes:
        id: of it in this manifest; a later numbering has a higher one.
        broadcast, name: which track.
        epoch: identifies the numbering.
        lease_end: every sequence below this may have been used.
        unfinished: groups that more is to come of, and how many frames of each are here.
        gaps: what was published and never recorded.
    """

    id: int
    broadcast: str
    name: str
    epoch: int
    lease_end: int
    unfinished: Mapping[int, int] = attrs.Factory(dict)
    gaps: Sequence[GapWrite] = ()


@attrs.frozen
class SliceContent:
    """What an object holds of one track.

    Attributes:
        key: the track's number within the object.
        content: how much.
        continued: the first frame here of every group that began in an earlier object.
    """

    key: int
    content: Content
    continued: Mapping[int, int] = attrs.Factory(dict)


@attrs.frozen
class ManifestSlice:
    """One object.

    Attributes:
        number: rises in the order of archiving.
        name: of the object.
        source: of the slice it was made from: no two have the same.
        size: its bytes.
        directory_at: where its directory begins.
        created, recorded: when the slice was begun and last written to, in seconds.
        contents: by the id of the track.
    """

    number: int
    name: str
    source: str
    size: int
    directory_at: int
    created: float
    recorded: float
    contents: Mapping[int, SliceContent]

    @cached_property
    def encoded(self) -> str:
        """As the manifest has it. There may be ten thousand, and it is written often."""
        head = [self.number, self.name, self.source, self.size, self.directory_at]
        times = [self.created, self.recorded]
        contents = [_encode_content(track, content) for track, content in self.contents.items()]
        return json.dumps([*head, *times, contents], separators=_COMPACT)


@attrs.frozen
class Doomed:
    """An object that is not part of the store any more, and is to be deleted."""

    name: str
    since: float


@attrs.frozen
class Manifest:
    """See the module's docstring.

    Attributes:
        writer: who wrote this, by a random name.
        store: tells this store from any other that was or will be in the same place.
        generation: counts the writers that there have been.
        revision: counts the changes.
        next_number: for the next object.
        tracks: by id.
        slices: by number, rising.
        doomed: objects to delete once no reader asks for them any more.
    """

    writer: str
    generation: int = 1
    revision: int = 1
    next_number: int = 1
    tracks: Mapping[int, ManifestTrack] = attrs.Factory(dict)
    slices: Mapping[int, ManifestSlice] = attrs.Factory(dict)
    doomed: Sequence[Doomed] = ()
    store: str = ""

    def newest(self) -> dict[tuple[str, str], ManifestTrack]:
        """The latest numbering of every track."""
        return {
            (each.broadcast, each.name): each
            for each in sorted(self.tracks.values(), key=lambda track: track.id)
        }

    def used_end(self, track: int) -> int:
        """One more than the highest sequence here of a track."""
        contents = (each.contents.get(track) for each in self.slices.values())
        lasts = (each.content.last for each in contents if each is not None)
        return max((last for last in lasts if last is not None), default=-1) + 1

    @property
    def bytes(self) -> int:
        """The size of all objects."""
        return sum(each.size for each in self.slices.values())


def encode_manifest(manifest: Manifest) -> bytes:
    """As it is stored."""
    document = {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        "store": manifest.store,
        "writer": manifest.writer,
        "generation": manifest.generation,
        "revision": manifest.revision,
        "next_number": manifest.next_number,
        "tracks": [_encode_track(each) for each in manifest.tracks.values()],
        "doomed": [[each.name, each.since] for each in manifest.doomed],
    }
    text = json.dumps(document, separators=_COMPACT)
    slices = ",".join([each.encoded for each in manifest.slices.values()])
    return zlib.compress(f'{text[:-1]},"slices":[{slices}]}}'.encode(), 1)


def decode_manifest(data: bytes, where: str, known: Manifest | None = None) -> Manifest:
    """Read a manifest. Of what is the same as in one that is ``known``, nothing is made anew.

    Raises ReplayError, which no repetition heals, for other bytes.
    """
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(data, _LARGEST)
        if not decompressor.eof:
            raise ValueError("it does not end where it should")
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError("it is something else")
        if document["version"] <= FORMAT_VERSION:
            return _decode(document, {} if known is None else known.slices)
    except (zlib.error, ValueError, TypeError, KeyError) as error:
        raise ReplayError(
            f"{where} is not the manifest of a moqtrio store, or is damaged: {error}",
            retryable=False,
        ) from error
    raise ReplayError(
        f"{where} has format version {document['version']}, and this moqtrio reads up to "
        f"{FORMAT_VERSION}: use the newer moqtrio that wrote it",
        retryable=False,
    )


def _encode_track(each: ManifestTrack) -> list[Any]:
    gaps = [attrs.astuple(gap) for gap in each.gaps]
    head = [each.id, each.broadcast, each.name, each.epoch, each.lease_end]
    return [*head, _pairs(each.unfinished), gaps]


def _encode_content(track: int, each: SliceContent) -> list[Any]:
    content = each.content
    counted = attrs.astuple(content.totals)
    head = [track, each.key, content.first, content.last, content.groups]
    return [*head, *counted, _pairs(each.continued)]


def _decode(document: dict[str, Any], known: Mapping[int, ManifestSlice]) -> Manifest:
    tracks = [_decode_track(*row) for row in document["tracks"]]
    slices = [_decode_slice(known, *row) for row in document["slices"]]
    named = {each.id for each in tracks}
    if any(track not in named for each in slices for track in each.contents):
        raise ValueError("an object has a track that is not listed")
    return Manifest(
        document["writer"],
        document["generation"],
        document["revision"],
        document["next_number"],
        {each.id: each for each in tracks},
        {each.number: each for each in slices},
        tuple(Doomed(*row) for row in document["doomed"]),
        document["store"],
    )


def _decode_track(*row: Any) -> ManifestTrack:
    *head, unfinished, gaps = row
    return ManifestTrack(*[*head, dict(unfinished), tuple(GapWrite(*gap) for gap in gaps)])


def _decode_slice(known: Mapping[int, ManifestSlice], *row: Any) -> ManifestSlice:
    *head, contents = row
    found = known.get(head[0])
    if found is not None and found.name == head[1]:  # a name that is not used twice
        return found
    return ManifestSlice(*[*head, dict(map(_decode_content, contents))])


def _decode_content(row: list[Any]) -> tuple[int, SliceContent]:
    track, key, first, last, groups, *counted, continued = row
    content = Content(first, last, groups, Totals(*counted))
    return track, SliceContent(key, content, dict(continued))


def _pairs(numbers: Mapping[int, int]) -> list[tuple[int, int]]:
    return list(numbers.items())
