"""Open read connections, a bounded number of them, each used by one thread at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .keys import find_loss
from .records import SliceFile
from .schema import connect_reader


class SliceRetired(Exception):
    """The slice is being removed, or the store closed: nothing more is read from it."""


class ConnectionPool:
    """Keeps read connections for later use. Everything here is for worker threads.

    Args:
        idle: how many connections to keep open that nobody uses.
        connect: opens a slice.
    """

    def __init__(
        self, idle: int, connect: Callable[[SliceFile], sqlite3.Connection] = connect_reader
    ) -> None:
        self._limit = idle
        self._connect = connect
        self._condition = threading.Condition()
        self._idle: OrderedDict[sqlite3.Connection, int] = OrderedDict()
        self._busy: dict[int, int] = {}
        self._retired: set[int] = set()
        self._losses: dict[int, str | None] = {}  # of the slices that were looked into

    @contextmanager
    def connection(self, file: SliceFile) -> Iterator[sqlite3.Connection]:
        """Use a connection to a slice, within one read transaction.

        Raises SliceRetired, or sqlite3.Error.
        """
        number = file.number
        with self._condition:
            if number in self._retired:
                raise SliceRetired
            connection = self._take(number)
            self._busy[number] = self._busy.get(number, 0) + 1
        try:
            if connection is None:
                connection = self._connect(file)
            connection.execute("BEGIN")
            yield connection
        finally:
            if connection is not None and not _end_transaction(connection):
                connection.close()
                connection = None
            self._give_back(number, connection)

    def find_loss(self, connection: sqlite3.Connection, file: SliceFile) -> str | None:
        """What is wrong with a slice in which groups may be hidden; None where those that are
        not found were never in it. Found out once. Raises sqlite3.Error where that cannot be
        told for now.
        """
        if file.contents is None:
            return None
        if file.number not in self._losses:
            self._losses[file.number] = find_loss(connection, file, file.contents)
        return self._losses.get(file.number)

    def retire(self, number: int) -> None:
        """Close every connection to a slice, waiting for those in use; allow no more."""
        with self._condition:
            self._retired.add(number)
            self._close_idle(number)
            while self._busy.get(number):
                self._condition.wait()

    def forget(self, number: int) -> None:
        """Close the idle connections to a slice: it is now to be opened in another way."""
        with self._condition:
            self._close_idle(number)

    def release_retired(self, number: int) -> None:
        """The files of a retired slice are gone, and nobody asks for it any more."""
        with self._condition:
            self._retired.discard(number)
            self._losses.pop(number, None)

    def close(self) -> None:
        """Close what is idle."""
        with self._condition:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _take(self, number: int) -> sqlite3.Connection | None:
        for connection, owner in reversed(self._idle.items()):
            if owner == number:
                del self._idle[connection]
                return connection
        return None

    def _give_back(self, number: int, connection: sqlite3.Connection | None) -> None:
        with self._condition:
            self._busy[number] -= 1
            if not self._busy[number]:
                del self._busy[number]
            if connection is not None and number not in self._retired:
                self._idle[connection] = number
                if len(self._idle) > self._limit:
                    oldest, _ = self._idle.popitem(last=False)
                    oldest.close()
            elif connection is not None:
                connection.close()
            self._condition.notify_all()

    def _close_idle(self, number: int) -> None:
        for connection in [each for each, owner in self._idle.items() if owner == number]:
            del self._idle[connection]
            connection.close()


def _end_transaction(connection: sqlite3.Connection) -> bool:
    """False where the connection is of no more use: a damaged file can make even this fail."""
    try:
        connection.execute("COMMIT")
    except sqlite3.Error:
        return False
    return True
