"""One process at a time may write to a store."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ...errors import ReplayError
from .errors import store_error

LOCK_NAME = "lock"


class DirectoryLock:
    """An exclusive lock on a store's directory, gone with the process that holds it."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises ReplayError where another holds it."""
        path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise store_error(error, path) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            self.release()
            raise ReplayError(
                f"the store {directory} is in use by process {holder or 'unknown'}: only one "
                "process at a time may write to a store",
                retryable=False,
            ) from error
        except OSError as error:
            self.release()
            raise store_error(error, path) from error

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)
