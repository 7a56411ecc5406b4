"""The indexes of objects, read piece by piece and kept up to a number of bytes.

Everything here blocks, and belongs in worker threads, any number of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from ..sqlite.chunks import DamagedChunk
from .layout import Block, Directory, TrackIndex, decode_directory

if TYPE_CHECKING:
    from .client import ObjectClient

T = TypeVar("T")

_RECORD_BYTES = 400  # of memory for a record with its integers, roughly


@attrs.frozen
class ObjectFile:
    """Where an object is, and the number that the track in question has in it."""

    number: int
    name: str
    size: int
    directory_at: int
    key: int


class IndexCache:
    """Least recently used first out. Two threads that miss the same piece both read it."""

    def __init__(self, client: ObjectClient, limit: int) -> None:
        self.client = client
        self._limit = limit
        self._bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, int], tuple[Any, int]] = OrderedDict()

    def track(self, file: ObjectFile) -> TrackIndex:
        """The index of a track. Raises DamagedChunk, ObjectMissing and ReplayError."""
        directory = self._get((file.name, -1), partial(self._read_directory, file))
        found = directory.tracks.get(file.key)
        if found is None:
            raise DamagedChunk("its directory does not have the track")
        return found

    def block(self, file: ObjectFile, block: Block) -> list[Any]:
        """The records of a block. Raises as :meth:`track` does."""
        return self._get((file.name, block.offset), partial(self._read_block, file, block))

    def _read_directory(self, file: ObjectFile) -> tuple[Directory, int]:
        data = self.client.read_range(file.name, file.directory_at, file.size)
        if len(data) != file.size - file.directory_at:
            raise DamagedChunk("it is shorter than it was")
        directory = decode_directory(data, file.directory_at)
        return directory, 8 * directory.size

    def _read_block(self, file: ObjectFile, block: Block) -> tuple[list[Any], int]:
        records = block.decode(self.client.read_range(file.name, block.offset, block.end))
        return records, _RECORD_BYTES * len(records)

    def _get(self, key: tuple[str, int], read: Callable[[], tuple[T, int]]) -> T:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                return cast(T, entry[0])
        value, size = read()
        with self._lock:
            before = self._entries.pop(key, None)
            self._entries[key] = (value, size)
            self._bytes += size - (before[1] if before is not None else 0)
            while self._bytes > self._limit and len(self._entries) > 1:
                _, (_, gone) = self._entries.popitem(last=False)
                self._bytes -= gone
        return value
