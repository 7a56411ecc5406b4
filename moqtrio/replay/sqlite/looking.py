"""Looking at a store from outside: it may be in use, killed, or in a directory that cannot be
written to, and is left as it was found.

Everything here blocks, and belongs in a worker thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import attrs

from ...errors import ReplayError
from ..target import GapWrite
from .catalog import ACTIVE, CATALOG_NAME, SEALED, Catalog, SliceRow, TrackRow, read_version
from .errors import store_error
from .records import SliceFile
from .schema import connect, slice_number, slice_path

T = TypeVar("T")

_ATTEMPTS = 5
_FIRST_WITH_GAPS = 2


@attrs.frozen
class CatalogView:
    """What a catalog said at one instant.

    ``gaps`` is by track. ``slices`` are those that count: neither half made nor on their way
    out. ``numbers`` are those of all.
    """

    directory: Path
    version: int
    clock: float
    tracks: list[TrackRow]
    gaps: dict[int, list[GapWrite]]
    slices: list[SliceRow]
    numbers: frozenset[int]

    def file(self, row: SliceRow) -> SliceFile:
        """Where a slice is."""
        sealed = row.state == SEALED
        path = slice_path(self.directory, row.number)
        return SliceFile(row.number, path, sealed, row.contents if sealed else None)


def read_catalog(directory: Path) -> CatalogView:
    """Everything the catalog of ``directory`` says.

    Raises ReplayError: not retryable where there is no store, its catalog is damaged or of
    a newer version; retryable where the disk failed.
    """
    path = find_catalog(directory)

    def read(connection: sqlite3.Connection) -> CatalogView:
        connection.execute("BEGIN")
        version = read_version(path, connection)
        if version == 0:
            raise ReplayError(f"{path} is empty: the store was never opened", retryable=False)
        catalog = Catalog(path, connection)
        rows = catalog.slices()
        return CatalogView(
            directory,
            version,
            catalog.clock(),
            catalog.tracks(),
            catalog.gaps() if version >= _FIRST_WITH_GAPS else {},
            [row for row in rows if row.state in (ACTIVE, SEALED)],
            frozenset(row.number for row in rows),
        )

    try:
        return look(path, read)
    except sqlite3.Error as error:
        raise store_error(error, path) from error


def find_catalog(directory: Path) -> Path:
    """The catalog in ``directory``. Raises ReplayError, saying what is there instead."""
    path = directory / CATALOG_NAME
    try:
        if path.is_file():
            return path
        what = _describe_place(directory)
    except OSError as error:
        raise store_error(error, directory) from error
    raise ReplayError(f"{directory} is not a store: {what}", retryable=False)


def _describe_place(directory: Path) -> str:
    if not directory.exists():
        return "there is no such directory"
    if not directory.is_dir():
        return "it is a file; a store is a directory"
    if any(slice_number(each) is not None for each in directory.iterdir()):
        return f"its {CATALOG_NAME} is missing; restore that file from a backup"
    return f"it has no {CATALOG_NAME}"


def select_tracks(
    directory: Path, tracks: Collection[TrackRow], broadcast: str | None, track: str | None
) -> list[TrackRow]:
    """Those of ``tracks`` of that broadcast and name, None being any.

    Raises ReplayError where there are none, saying which there are.
    """
    found = [
        row for row in tracks if broadcast in (None, row.broadcast) and track in (None, row.name)
    ]
    if found or (broadcast is None and track is None):
        return found
    pairs = (("broadcast", broadcast), ("track", track))
    wanted = " ".join(f"{what} {name!r}" for what, name in pairs if name is not None)
    raise ReplayError(f"{directory} has no {wanted}: {describe_tracks(tracks)}", retryable=False)


def select_track(
    directory: Path, tracks: Collection[TrackRow], broadcast: str | None, track: str | None
) -> TrackRow:
    """The one track of that broadcast and name. Raises ReplayError unless there is one."""
    found = select_tracks(directory, tracks, broadcast, track)
    if len(found) == 1:
        return found[0]
    which = "which track is meant?" if found else "there is no track:"
    raise ReplayError(f"{directory}: {which} {describe_tracks(found)}", retryable=False)


def describe_tracks(tracks: Collection[TrackRow]) -> str:
    """Which tracks there are, in a few words."""
    if not tracks:
        return "it has no tracks at all"
    names = [f"{row.broadcast!r} {row.name!r}" for row in tracks]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it has {', '.join(names[:8])}{more}"


def look(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What ``read`` makes of a database that somebody may be writing to.

    Raises what ``read`` raises, and sqlite3.Error.
    """
    # Opened in the ordinary way, a database that nobody uses gets empty -wal and -shm files
    # that stay, or cannot be opened where they cannot be made. Without a -wal file the main
    # file is all there is, and unless it changes meanwhile, what was read of it is right.
    for _ in range(_ATTEMPTS):
        before = _stamp(path)
        if before is None:
            break
        try:
            with _connected(path, "mode=ro&immutable=1") as connection:
                result = read(connection)
        except (sqlite3.Error, ReplayError):
            if before == _stamp(path):
                raise
            continue
        if before == _stamp(path):
            return result
    with _connected(path, "mode=ro") as connection:
        return read(connection)


@contextmanager
def looking_at(file: SliceFile) -> Iterator[sqlite3.Connection]:
    """A connection to a slice. Raises sqlite3.Error."""
    connection = connect_looker(file)
    try:
        yield connection
    finally:
        connection.close()


def connect_looker(file: SliceFile) -> sqlite3.Connection:
    """Open a slice to look into. Raises sqlite3.Error."""
    # Without a -wal file the killed process had sealed it, but for saying so.
    alone = file.immutable or _stamp(file.path) is not None
    connection = connect(file.path, "mode=ro&immutable=1" if alone else "mode=ro")
    try:
        connection.execute("PRAGMA cache_size=-2048")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    connection = connect(path, mode)
    try:
        yield connection
    finally:
        connection.close()


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells whether a database has changed; None while it is in use, or was left so."""
    if path.with_name(f"{path.name}-wal").exists():
        return None
    with suppress(OSError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None
