"""Whether a slice still has every row that was written to it.

A checksum says of a row that is found that it is right. It says nothing of one that is no
longer found, by a flipped bit in a page's header or in the key itself: its groups would look
as if they had never been recorded. So the keys are summed up once, which takes the pages of
the tree but not those with the data, and compared with what is known of them: how many
groups the catalog has, and the sum that was noted in the file when it was sealed.

Everything here blocks, and belongs in a worker thread.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Mapping

import attrs

from .errors import describe, is_damage
from .records import Content, SliceFile

logger: logging.Logger = logging.getLogger("moqtrio.store")

# In halves, as SQLite raises an error for a sum beyond 63 bits.
_PACKS = (
    "SELECT track, sum(groups), count(*),"
    " sum(first_sequence & 0xFFFFFFFF), sum(first_sequence >> 32),"
    " sum(last_sequence & 0xFFFFFFFF), sum(last_sequence >> 32) FROM pack GROUP BY track"
)
_PARTS = (
    "SELECT track, count(*) FILTER (WHERE first_frame = 0), count(*),"
    " sum(sequence & 0xFFFFFFFF), sum(sequence >> 32), sum(first_frame)"
    " FROM part GROUP BY track"
)


@attrs.frozen
class Keys:
    """The keys of a slice, summed up.

    Attributes:
        groups: how many groups begin in it, by track.
        digest: of all keys; never 0.
    """

    groups: Mapping[int, int]
    digest: int


def sum_keys(connection: sqlite3.Connection) -> Keys:
    """Sum up the keys of an open slice. Raises sqlite3.Error."""
    groups: dict[int, int] = {}
    rows = [connection.execute(statement).fetchall() for statement in (_PACKS, _PARTS)]
    for track, count, *_ in rows[0] + rows[1]:
        groups[track] = groups.get(track, 0) + count
    # What SQLite keeps as the user version is a signed number of 32 bits, 0 where there is none.
    digest = zlib.crc32(repr(rows).encode()) & 0x7FFFFFFF
    return Keys({track: count for track, count in groups.items() if count}, digest or 1)


def note_keys(connection: sqlite3.Connection) -> None:
    """Note the sum in the file, which is about to be sealed. Raises sqlite3.Error."""
    connection.execute(f"PRAGMA user_version={sum_keys(connection).digest}")


def is_as_noted(connection: sqlite3.Connection) -> bool:
    """Whether the keys are those that were noted, if any were. Raises sqlite3.Error."""
    return _noted(connection) in (0, sum_keys(connection).digest)


def find_loss(
    connection: sqlite3.Connection, file: SliceFile, contents: Mapping[int, Content]
) -> str | None:
    """What is wrong with a slice that is written to no more, unless it has all that the
    catalog says it has, and under the same keys. Raises sqlite3.Error where that cannot be
    told for now."""
    expected = {track: each.groups for track, each in contents.items() if each.groups}
    try:
        noted, found = _noted(connection), sum_keys(connection)
    except (sqlite3.Error, TypeError) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error, file.path):
            raise
        loss = describe(error, file.path)
    else:
        if noted in (0, found.digest) and found.groups == expected:
            return None
        loss = f"{file.path}: its rows are not those that were recorded"
    logger.error("%s. What is not found in it is reported as lost, not as absent", loss)
    return loss


def _noted(connection: sqlite3.Connection) -> int:
    ((noted,),) = connection.execute("PRAGMA user_version").fetchall()
    return int(noted)
