"""Removing slices, so that a kill in between leaves no doubt about what is gone.

Everything here blocks, and belongs in a worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ...errors import ReplayError
from .catalog import Catalog, TrackRow
from .errors import store_error
from .records import Content
from .schema import remove_files, slice_path, sync_directory

logger: logging.Logger = logging.getLogger("moqtrio.store")


def remove_slices(
    directory: Path,
    catalog: Catalog,
    numbers: Sequence[int],
    oldest: Mapping[int, int],
    retire: Callable[[int], None] = lambda _: None,
) -> None:
    """Remove slices for good. Raises ReplayError where the disk refuses.

    Args:
        oldest: by track, the oldest sequence there is without them.
        retire: called before the files of each are removed.
    """
    try:
        catalog.begin_drop(numbers)
    except ReplayError as error:
        # On a full disk there is no room to write this down until files are gone. Killed
        # in between, these slices look lost, until retention removes them once more.
        logger.warning("removing slices without having noted it first: %s", error)
    for number in numbers:
        path = slice_path(directory, number)
        retire(number)
        try:
            remove_files(path)
            sync_directory(directory)
        except OSError as error:
            raise store_error(error, path) from error
    catalog.finish_drop(numbers, oldest)


class SliceContents(Protocol):
    """What has to be known of a slice here."""

    number: int
    contents: dict[int, Content]


def find_oldest(
    tracks: Iterable[TrackRow], slices: Sequence[SliceContents], gone: Collection[int]
) -> dict[int, int]:
    """By track, the oldest sequence there is without the slices that are gone; for those
    that lose something."""
    oldest: dict[int, int] = {}
    for track in tracks:
        lost: list[int] = []
        kept: list[int] = []
        for each in slices:
            content = each.contents.get(track.id)
            if content is None or content.first is None or content.last is None:
                continue
            if each.number in gone:
                lost.append(content.last + 1)
            else:
                kept.append(content.first)
        if lost:
            oldest[track.id] = min(kept, default=max(lost))
    return oldest
