"""The tables of a slice file, and how its files are opened, named and removed."""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from .records import FileIdentity, Part, SliceFile

BUSY_SECONDS = 5.0
PAGE_BYTES = 8192
"""With 64 KiB pages large batches are written 10 to 20 % faster, but a group of 100 KB takes
150 KB, and a commit of one small frame writes 200 KB to the log instead of 25."""
CHECKPOINT_PAGES = 4096
"""The write-ahead log is copied back after 32 MiB: what a crash leaves to be gone through."""

SLICE_TABLES = """
CREATE TABLE pack(                 -- many small groups, each whole, in one row
    track INTEGER, first_sequence INTEGER, last_sequence INTEGER, groups INTEGER,
    frames INTEGER, bytes INTEGER, first_us INTEGER, last_us INTEGER, recorded REAL,
    data BLOB, PRIMARY KEY(track, first_sequence)) WITHOUT ROWID;
CREATE TABLE part(                 -- what this slice holds of any other group
    track INTEGER, sequence INTEGER, first_frame INTEGER, frames INTEGER, bytes INTEGER,
    first_us INTEGER, last_us INTEGER, ending INTEGER, recorded REAL, checksum INTEGER,
    PRIMARY KEY(track, sequence)) WITHOUT ROWID;
CREATE TABLE chunk(                -- the frames of a part, in runs
    track INTEGER, sequence INTEGER, first_frame INTEGER, data BLOB,
    PRIMARY KEY(track, sequence, first_frame)) WITHOUT ROWID;
"""

_PART = struct.Struct("<qqqqqq")
_SUFFIXES = ("", "-wal", "-shm", "-journal")


def part_checksum(track: int, sequence: int, part: Part) -> int:
    """Guards what reading relies on in a row of ``part``."""
    totals = part.totals
    return zlib.crc32(
        _PART.pack(track, sequence, part.first_frame, totals.frames, totals.bytes, part.ending)
    )


def slice_path(directory: Path, number: int) -> Path:
    """The main file of a slice."""
    return directory / f"slice-{number:08d}.db"


def slice_number(path: Path) -> int | None:
    """The number in a slice's file name, or None for another file."""
    name, _, suffix = path.name.partition(".")
    digits = name.removeprefix("slice-")
    return int(digits) if digits != name and digits.isdigit() and suffix == "db" else None


def file_bytes(path: Path) -> int:
    """What a database takes on the disk, its write-ahead log included; 0 where that cannot be
    told."""
    total = 0
    for suffix in ("", "-wal"):
        with suppress(OSError):
            total += os.stat(f"{path}{suffix}").st_size
    return total


def file_identity(path: Path) -> FileIdentity | None:
    """Which file it is; None where there is none. Raises OSError."""
    # SQLite's locks would go if the file were opened, and closed, once more.
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def is_at(path: Path, identity: FileIdentity | None) -> bool:
    """Whether it is still that file, as far as can be told."""
    with suppress(OSError):
        return file_identity(path) == identity
    return True


def remove_files(path: Path) -> None:
    """Unlink a database and what lies beside it. Raises OSError."""
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def sync_directory(directory: Path) -> None:
    """Make new and removed directory entries survive a power cut. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Connection(sqlite3.Connection):
    """Raises sqlite3.Error whatever is in the file.

    SQLite's message about a damaged schema quotes it, and sqlite3 expects UTF-8 there.
    """

    def execute(self, *args: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*args)
        except UnicodeDecodeError as error:
            raise sqlite3.DatabaseError(f"malformed database schema ({error})") from error


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database file; ``mode`` is a query string such as ``mode=ro``.

    The connection commits nothing by itself and may be used by one thread after another.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )


def connect_durable(
    path: Path, *, create: bool, page_bytes: int | None = None
) -> sqlite3.Connection:
    """Open a database to write to: a commit is on the disk when it returns."""
    connection = connect(path, "mode=rwc" if create else "mode=rw")
    try:
        if page_bytes is not None:  # Has no effect any more once the journal mode is set.
            connection.execute(f"PRAGMA page_size={page_bytes}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(file: SliceFile) -> sqlite3.Connection:
    """Open a slice to read from. Raises sqlite3.Error."""
    # A sealed slice needs no locks and no shared memory, nor a directory to create it in.
    connection = connect(file.path, "mode=ro&immutable=1" if file.immutable else "mode=rw")
    try:
        if file.identity is not None and not is_at(file.path, file.identity):
            raise sqlite3.DatabaseError("another file has taken its place")
        connection.execute("PRAGMA query_only=1")
        connection.execute("PRAGMA cache_size=-512")
    except BaseException:
        connection.close()
        raise
    return connection
