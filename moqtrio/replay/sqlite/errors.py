"""What SQLite and the operating system report, in terms of what a person can do about it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from ...errors import ReplayError, StreamCode

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA}
_UNREADABLE = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
}
_HINTS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, or lower the store's retention",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the directory's permissions and mount",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check its permissions and the open file limit",
    sqlite3.SQLITE_BUSY: "another process holds it",
}
_OS_HINTS = {
    errno.ENOSPC: _HINTS[sqlite3.SQLITE_FULL],
    errno.EDQUOT: _HINTS[sqlite3.SQLITE_FULL],
    errno.EROFS: _HINTS[sqlite3.SQLITE_READONLY],
    errno.EACCES: "access is refused: check the directory's permissions",
}


def is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether what is in the file is at fault, so that asking again cannot help."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Raised by the module itself: a value of the wrong type, say.
        return isinstance(error, sqlite3.DatabaseError)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGE:
        return True
    if code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and not path.is_file():
        return True
    return bool(code == sqlite3.SQLITE_ERROR)  # No such table: the file is another's.


def is_file_at_fault(error: sqlite3.Error, path: Path) -> bool:
    """Whether another file may well be written in the place of this one, which cannot be: not
    so on a full disk, where the same would come of it. Rows that are in the way are at fault,
    too, as nothing is written that was there before."""
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    return (
        is_damage(error, path)
        or code in _UNREADABLE
        or primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CONSTRAINT)
    )


def describe(error: Exception, path: Path) -> str:
    """One line: the file, what is wrong with it, and what to do."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if not path.exists():
            hint = "the file is gone"
        elif not path.is_file():
            hint = "it is not a file"
        else:
            hint = _HINTS.get(code & 0xFF, str(error)) if code is not None else str(error)
        return f"{path}: {hint} ({name}: {error})"
    if isinstance(error, OSError):
        hint = _OS_HINTS.get(error.errno or 0, "the operating system refused")
        return f"{path}: {hint} ({error})"
    return f"{path}: {error}"


def describe_briefly(error: Exception, path: Path) -> str:
    """As :func:`describe`, for where the file is named already."""
    return describe(error, path).removeprefix(f"{path}: ")


def store_error(error: Exception, path: Path) -> ReplayError:
    """The ReplayError for trouble with a whole file of a store."""
    damaged = isinstance(error, sqlite3.Error) and is_damage(error, path)
    return ReplayError(describe(error, path), retryable=not damaged)


def write_error(error: Exception, path: Path) -> ReplayError:
    """The ReplayError for a file that could not be written. Whatever is the matter with it,
    what was to be written is not at fault: it will be when the disk is put right, or goes
    into the next file."""
    return ReplayError(describe(error, path), retryable=True)


def damage_error(where: str, detail: str) -> ReplayError:
    """The ReplayError for groups that were recorded and cannot be read any more."""
    return ReplayError(
        f"{where}: {detail}. What was recorded there is lost; the rest of the store is not "
        "affected",
        code=StreamCode.EVICTED,
        retryable=False,
    )
