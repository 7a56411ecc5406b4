"""The catalog: which tracks there are, and which slices, in one small database.

Everything here blocks, and belongs in a worker thread. Each method that writes is one
transaction, and what it wrote is durable when it returns.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from ...errors import ReplayError
from ..target import GapWrite
from .errors import store_error, write_error
from .records import Content, Totals
from .schema import connect, connect_durable, slice_number

logger: logging.Logger = logging.getLogger("moqtrio.store")

CATALOG_NAME = "catalog.db"
FORMAT_VERSION = 2
_APPLICATION_ID = 0x6D6F7174  # "moqt"

_GAP_TABLE = """
CREATE TABLE gap(                  -- groups that were lost before they were recorded
    track INTEGER, start INTEGER, "end" INTEGER, code INTEGER,
    PRIMARY KEY(track, start)) WITHOUT ROWID;
"""

_TABLES = f"""
BEGIN;
PRAGMA application_id={_APPLICATION_ID};
PRAGMA user_version={FORMAT_VERSION};
CREATE TABLE track(
    id INTEGER PRIMARY KEY, broadcast TEXT NOT NULL, name TEXT NOT NULL,
    epoch INTEGER NOT NULL, reserved_end INTEGER NOT NULL, created REAL NOT NULL,
    next_sequence INTEGER,         -- NULL while it is recorded, and after a kill
    UNIQUE(broadcast, name));
CREATE TABLE slice(
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, created REAL NOT NULL,
    recorded REAL NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE content(
    slice INTEGER, track INTEGER, first INTEGER, last INTEGER, groups INTEGER,
    frames INTEGER, bytes INTEGER, first_us INTEGER, last_us INTEGER,
    PRIMARY KEY(slice, track)) WITHOUT ROWID;
CREATE TABLE continuation(         -- groups that began in an earlier slice
    slice INTEGER, track INTEGER, sequence INTEGER, first_frame INTEGER,
    PRIMARY KEY(slice, track, sequence)) WITHOUT ROWID;
CREATE TABLE clock(now REAL NOT NULL);
{_GAP_TABLE}
COMMIT;
"""

# What makes of a catalog with that version one with the next.
_UPGRADES = {
    1: f"""
BEGIN IMMEDIATE;
{_GAP_TABLE}
PRAGMA user_version=2;
COMMIT;
""",
}

CREATING = "creating"
ACTIVE = "active"
SEALED = "sealed"
DROPPING = "dropping"


@attrs.frozen
class TrackRow:
    """One track as the catalog has it; ``next_sequence`` is None after a kill."""

    id: int
    broadcast: str
    name: str
    epoch: int
    reserved_end: int
    created: float
    next_sequence: int | None


@attrs.define(slots=True)
class SliceRow:
    """One slice as the catalog has it.

    ``created`` and ``recorded`` (the time of the last commit) are in seconds of the store's
    clock. ``contents`` is by track, ``continuations`` has the first frame here
    of every (track, sequence) that began in an earlier slice; both are empty while it is
    written to.
    """

    number: int
    state: str
    created: float
    recorded: float
    bytes: int
    contents: dict[int, Content] = attrs.Factory(dict)
    continuations: dict[tuple[int, int], int] = attrs.Factory(dict)


class Catalog:
    """An open catalog. Raises ReplayError for trouble, having changed nothing."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, directory: Path) -> Catalog:
        """Open the catalog of ``directory`` to write to, made if need be.

        One of an older version is brought up to date, in a single transaction.
        """
        path = directory / CATALOG_NAME
        try:
            connection = connect_durable(path, create=True)
        except sqlite3.Error as error:
            raise _open_error(error, path) from error
        try:
            version = read_version(path, connection)
            if version == 0:
                _refuse_orphans(directory)
                connection.executescript(_TABLES)
            else:
                _check(connection)
                _upgrade(path, connection, version)
        except sqlite3.Error as error:
            connection.close()
            raise _open_error(error, path) from error
        except ReplayError:
            connection.close()
            raise
        return cls(path, connection)

    @classmethod
    def inspect(cls, directory: Path) -> Catalog:
        """Open the catalog of ``directory`` to look at, whoever else has it open."""
        path = directory / CATALOG_NAME
        if not path.exists():
            raise ReplayError(
                f"{directory} is not a store: it has no {CATALOG_NAME}", retryable=False
            )
        try:
            connection = connect(path, "mode=ro")
            version = read_version(path, connection)
        except sqlite3.Error as error:
            raise store_error(error, path) from error
        if version == 0:
            connection.close()
            raise ReplayError(f"{path} is empty: the store was never opened", retryable=False)
        return cls(path, connection)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def tracks(self) -> list[TrackRow]:
        """Every track."""
        columns = "id, broadcast, name, epoch, reserved_end, created, next_sequence"
        rows = self._read(f"SELECT {columns} FROM track ORDER BY id")
        return [TrackRow(*row) for row in rows]

    def slices(self) -> list[SliceRow]:
        """Every slice, oldest first, with what is in it."""
        rows = self._read("SELECT number, state, created, recorded, bytes FROM slice")
        slices = {row[0]: SliceRow(*row) for row in sorted(rows)}
        for number, track, first, last, groups, *totals in self._read("SELECT * FROM content"):
            if number in slices:
                content = Content(first, last, groups, Totals(*totals))
                slices[number].contents[track] = content
        for number, track, sequence, frame in self._read("SELECT * FROM continuation"):
            if number in slices:
                slices[number].continuations[track, sequence] = frame
        return list(slices.values())

    def put_tracks(self, tracks: Iterable[TrackRow]) -> None:
        """Record tracks, new ones or changed."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO track(id, broadcast, name, epoch, reserved_end, created,"
                " next_sequence) VALUES(?, ?, ?, ?, ?, ?, ?)",
                [attrs.astuple(track) for track in tracks],
            )

    def gaps(self) -> dict[int, list[GapWrite]]:
        """The recorded gaps, by track."""
        gaps: dict[int, list[GapWrite]] = {}
        for track, start, end, code in self._read('SELECT track, start, "end", code FROM gap'):
            gaps.setdefault(track, []).append(GapWrite(start, end, code))
        return gaps

    def put_gaps(self, track: int, gaps: Iterable[GapWrite]) -> None:
        """Replace what is recorded of a track's gaps."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM gap WHERE track=?", (track,))
            connection.executemany(
                "INSERT INTO gap VALUES(?, ?, ?, ?)",
                [(track, gap.start, gap.end, gap.code) for gap in gaps],
            )

    def clock(self) -> float:
        """The store's clock as it was last written down; 0 where it never was."""
        return max((now for (now,) in self._read("SELECT now FROM clock")), default=0.0)

    def put_clock(self, now: float) -> None:
        """Write the store's clock down."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM clock")
            connection.execute("INSERT INTO clock VALUES(?)", (now,))

    def put_slice(self, number: int, state: str, created: float) -> None:
        """Record that a slice is being made, or is being written."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO slice VALUES(?, ?, ?, ?, 0)",
                (number, state, created, created),
            )

    def close_slice(
        self,
        number: int,
        state: str,
        recorded: float,
        size: int,
        contents: Mapping[int, Content],
        continuations: Mapping[tuple[int, int], int],
    ) -> None:
        """Record what is in a slice that is written to no more. Its state is SEALED where the
        file will not change any more, ACTIVE where it could not be sealed."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE slice SET state=?, recorded=?, bytes=? WHERE number=?",
                (state, recorded, size, number),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO content VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (number, track, each.first, each.last, each.groups, *attrs.astuple(each.totals))
                    for track, each in contents.items()
                ],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO continuation VALUES(?, ?, ?, ?)",
                [(number, *key, frame) for key, frame in continuations.items()],
            )

    def begin_drop(self, numbers: Sequence[int]) -> None:
        """Record that the files of these slices are about to go."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE slice SET state=? WHERE number=?",
                [(DROPPING, number) for number in numbers],
            )

    def finish_drop(self, numbers: Sequence[int], oldest: Mapping[int, int] | None = None) -> None:
        """Forget slices whose files are gone, and the gaps below what is the oldest sequence
        of a track from now on."""
        keys = [(number,) for number in numbers]
        with self._transaction() as connection:
            connection.executemany("DELETE FROM slice WHERE number=?", keys)
            connection.executemany("DELETE FROM content WHERE slice=?", keys)
            connection.executemany("DELETE FROM continuation WHERE slice=?", keys)
            for track, sequence in (oldest or {}).items():
                connection.execute('DELETE FROM gap WHERE track=? AND "end"<=?', (track, sequence))
                connection.execute(
                    "UPDATE gap SET start=? WHERE track=? AND start<?",
                    (sequence, track, sequence),
                )

    def _read(self, statement: str) -> list[tuple]:  # type: ignore[type-arg] # any columns
        try:
            return self._connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise _open_error(error, self.path) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise write_error(error, self.path) from error


def _open_error(error: sqlite3.Error, path: Path) -> ReplayError:
    trouble = store_error(error, path)
    if trouble.retryable:
        return trouble
    return ReplayError(
        f"{trouble}: restore it from a backup, or move {path.parent} elsewhere to begin anew",
        retryable=False,
    )


def _check(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError for a catalog that is damaged: half of it read is worse
    than none, for what it does not name looks as if it had never been recorded."""
    for (found,) in connection.execute("PRAGMA quick_check(1)"):
        if found != "ok":
            raise sqlite3.DatabaseError(found)


def _refuse_orphans(directory: Path) -> None:
    """Raise ReplayError where a catalog was lost: a new one would make everything the slices
    hold look as if it had never been recorded."""
    orphans = sorted(path.name for path in directory.iterdir() if slice_number(path) is not None)
    if orphans:
        raise ReplayError(
            f"{directory / CATALOG_NAME} is missing or empty, but there are slices beside it "
            f"({orphans[0]} to {orphans[-1]}), which cannot be read without it: restore "
            f"it from a backup, or move {directory} elsewhere to begin anew",
            retryable=False,
        )


def _upgrade(path: Path, connection: sqlite3.Connection, version: int) -> None:
    for before in range(version, FORMAT_VERSION):
        connection.executescript(_UPGRADES[before])
        logger.info(
            "%s: upgraded from format version %d to %d: an older moqtrio cannot use it any more",
            path,
            before,
            before + 1,
        )


def read_version(path: Path, connection: sqlite3.Connection) -> int:
    """The format version; 0 for a new database. Raises ReplayError for one we cannot use."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and application == 0 and tables == 0:
        return 0
    if application != _APPLICATION_ID:
        raise ReplayError(f"{path} is not the catalog of a moqtrio store", retryable=False)
    if version > FORMAT_VERSION:
        raise ReplayError(
            f"{path} has format version {version}, and this moqtrio reads up to "
            f"{FORMAT_VERSION}: use the newer moqtrio that wrote it",
            retryable=False,
        )
    return int(version)
