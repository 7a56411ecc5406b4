"""One process at a time may write to a store."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ...errors import ReplayError
from .errors import store_error

LOCK_NAME = "lock"


class DirectoryLock:
    """An exclusive lock on a store's directory, gone with the process that holds it.

    It is on the directory itself. The file beside the slices only says who holds it, for
    one that somebody takes for stale and removes must not let a second process in.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises ReplayError where another holds it."""
        note = directory / LOCK_NAME
        try:
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise store_error(error, directory) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            note.write_text(f"{os.getpid()}\n")
        except BlockingIOError as error:
            self.release()
            holder = ""
            with suppress(OSError, UnicodeDecodeError):
                holder = note.read_text()[:32].strip()
            raise ReplayError(
                f"the store {directory} is in use by process {holder or 'unknown'}: only one "
                "process at a time may write to a store",
                retryable=False,
            ) from error
        except OSError as error:
            self.release()
            raise store_error(error, note) from error

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)
