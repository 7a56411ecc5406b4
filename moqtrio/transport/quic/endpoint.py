"""One socket, the connections on it, and the two tasks that drive them.

The receiving task drains the socket in batches and serves every connection a batch
touched once. The pump sleeps until the earliest timer, or until somebody wrote: writing
only marks a connection dirty, so all that runs in one scheduler tick shares one flush.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ...errors import ConnectError, SessionClosed, SessionCode
from .connection import QuicConnection
from .udp import DatagramSocket

logger: logging.Logger = logging.getLogger("moqtrio.transport")

CONNECTION_ID_LENGTH = 8

_BATCH = 64
# What one step of the event loop sends: a few milliseconds' worth.
_STEP_BYTES = 32 * 1024
_NEVER = float("inf")

#: Asked for a connection when a datagram belongs to none: (data, address, now).
Acceptor = Callable[[bytes, Any, float], QuicConnection | None]


class Endpoint:
    """Drives every connection on one UDP socket. Close the socket after :meth:`run`."""

    def __init__(self, sock: DatagramSocket) -> None:
        self.socket: DatagramSocket = sock
        self._accept: Acceptor | None = None
        self._reopen: Callable[[], DatagramSocket] | None = None
        self._by_id: dict[bytes, QuicConnection] = {}
        self._ids_of: dict[QuicConnection, set[bytes]] = {}
        self._handshakes: set[QuicConnection] = set()
        self._dirty: dict[QuicConnection, None] = {}
        self._bytes_sent = 0
        # Deadlines, earliest first. A connection has an entry only if it is earlier than
        # all it already has: timers mostly move later, and then nothing is done. Entries
        # of connections that are gone stay until their time, so they keep nothing alive.
        self._timers: list[tuple[float, int, weakref.ref[QuicConnection]]] = []
        self._timer_order = itertools.count()
        self._pump_task: trio.lowlevel.Task | None = None
        self._pump_sleeps_until = _NEVER
        self._serving = False
        self._unblocked = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    def accept_with(self, accept: Acceptor) -> None:
        """Ask ``accept`` about datagrams that belong to no connection."""
        self._accept = accept

    # The connection table

    @property
    def connection_count(self) -> int:
        """Connections known, including those that are closing."""
        return len(self._ids_of)

    @property
    def handshake_count(self) -> int:
        """Connections whose handshake is not complete."""
        return len(self._handshakes)

    def add(self, connection: QuicConnection, *connection_ids: bytes) -> None:
        """Route datagrams to these ids to ``connection``."""
        self._ids_of[connection] = set()
        self._handshakes.add(connection)
        for connection_id in connection_ids:
            self.add_connection_id(connection_id, connection)
        self._arm(connection)

    def add_connection_id(self, connection_id: bytes, connection: QuicConnection) -> None:
        """The connection told its peer another id."""
        self._by_id[connection_id] = connection
        self._ids_of[connection].add(connection_id)

    def remove_connection_id(self, connection_id: bytes) -> None:
        """The peer retired an id."""
        connection = self._by_id.pop(connection_id, None)
        if connection is not None:
            self._ids_of[connection].discard(connection_id)

    def handshake_completed(self, connection: QuicConnection) -> None:
        """The peer has shown that it owns its address."""
        self._handshakes.discard(connection)

    def _remove(self, connection: QuicConnection) -> None:
        self._handshakes.discard(connection)
        for connection_id in self._ids_of.pop(connection, ()):
            del self._by_id[connection_id]
        self._dirty.pop(connection, None)
        connection._engine.end_log()

    # Driving

    def send(self, datagrams: list[tuple[bytes, Any]]) -> None:
        """Send now, or as soon as the socket takes more."""
        self.socket.send(datagrams)
        if self.socket.blocked:
            self._unblocked.unpark_all()

    def mark_dirty(self, connection: QuicConnection) -> None:
        """There may be something to send: flush it soon."""
        self._dirty[connection] = None
        if not self._serving:
            self._wake_pump()

    def flush(self, connection: QuicConnection) -> None:
        """Send what a connection has to say now, rather than soon."""
        if not self.socket.blocked:
            self._guarded(connection, self._flush, connection, trio.current_time())

    def reopen_with(self, reopen: Callable[[], DatagramSocket]) -> None:
        """Get another socket from ``reopen`` when this one's address seems to be gone."""
        self._reopen = reopen

    def move(self, connection: QuicConnection) -> None:
        """Go on from another local address, if there is a way to it."""
        if self._reopen is None or not connection._engine.can_move():
            return
        try:
            fresh = self._reopen()
        except ConnectError as error:
            logger.debug("cannot leave %s: %s", self.socket.address, error)
            return
        logger.info("%s was silent: going on from another port", connection.remote_address)
        old, self.socket = self.socket, fresh
        old.close()
        connection._engine.move()
        self.mark_dirty(connection)

    async def run(self) -> None:
        """Serve until cancelled or stopped."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive_forever)
                nursery.start_soon(self._pump_forever)
                nursery.start_soon(self._unblock_forever)

    def stop(self) -> None:
        """Close every connection, and end :meth:`run`, even one that has yet to begin."""
        self.close_all(0, "")
        self._scope.cancel()

    def close_all(self, code: int, reason: str) -> None:
        """Close every connection, send the CONNECTION_CLOSEs, and forget them all."""
        now = trio.current_time()
        for connection in tuple(self._ids_of):
            connection.close(code, reason)
            # A server takes a first packet that only says goodbye for a fault.
            if connection.statistics().datagrams_sent or not connection.is_client:
                self._guarded(connection, self._flush, connection, now)
            self._remove(connection)

    async def _receive_forever(self) -> None:
        more = False
        while True:
            if more:
                await trio.lowlevel.checkpoint()
            else:
                await self._wait_for_socket(lambda sock: sock.wait_readable())
            batch = self.socket.receive(_BATCH)
            more = len(batch) >= _BATCH
            self._serve_batch(batch)

    def _serve_batch(self, batch: list[tuple[bytes, Any]]) -> None:
        now = trio.current_time()
        touched: dict[QuicConnection, None] = {}
        self._serving = True
        try:
            for data, address in batch:
                connection = self._route(data, address, now)
                if connection is not None:
                    touched[connection] = None
                    self._guarded(connection, connection.feed, data, address, now)
            if self.socket.refused:
                self._refused()
            for connection in touched:
                if connection.is_junk:
                    self._remove(connection)
                else:
                    self._guarded(connection, connection.settle)
            self._dirty |= touched
            self._flush_some(now)
        finally:
            self._serving = False
        if self._dirty or (self._timers and self._timers[0][0] < self._pump_sleeps_until):
            self._wake_pump()

    def _route(self, data: bytes, address: Any, now: float) -> QuicConnection | None:
        """Whose datagram it is (RFC 9000 section 5.2), or None to ignore it."""
        if not data:
            return None
        if data[0] & 0x80:
            connection_id = data[6 : 6 + data[5]] if len(data) > 5 else b""
        else:
            connection_id = data[1 : 1 + CONNECTION_ID_LENGTH]
        connection = self._by_id.get(connection_id)
        if connection is None and self._accept is not None and data[0] & 0x80:
            connection = self._accept(data, address, now)
        return connection

    def _refused(self) -> None:
        """ICMP says nobody listens. Believed only before the peer was ever heard."""
        self.socket.refused = False
        for connection in tuple(self._ids_of):
            connection.refused()

    async def _pump_forever(self) -> None:
        while True:
            if self._dirty and not self.socket.blocked:
                await trio.lowlevel.checkpoint()
            else:
                await self._sleep_until(self._timers[0][0] if self._timers else _NEVER)
            now = trio.current_time()
            self._serving = True
            try:
                self._dirty |= self._fire_timers(now)
                self._flush_some(now)
            finally:
                self._serving = False

    async def _sleep_until(self, deadline: float) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._pump_task = None
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.CancelScope(deadline=deadline):
            self._pump_sleeps_until = deadline
            self._pump_task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake_pump(self) -> None:
        task = self._pump_task
        if task is not None:
            self._pump_task = None
            trio.lowlevel.reschedule(task)

    async def _unblock_forever(self) -> None:
        while True:
            if not self.socket.blocked:
                await self._unblocked.park()
            await self._wait_for_socket(lambda sock: sock.wait_writable())
            self.socket.send_queued()
            if not self.socket.blocked and self._dirty:
                self._wake_pump()

    async def _wait_for_socket(self, ready: Callable[[DatagramSocket], Awaitable[None]]) -> None:
        """Wait until the socket is ready, or another took its place."""
        sock = self.socket
        try:
            await ready(sock)
        except trio.ClosedResourceError:
            if sock is self.socket:
                raise

    # Timers

    def _arm(self, connection: QuicConnection) -> None:
        deadline = connection.deadline()
        entries = connection._timer_entries
        if entries and entries[-1] <= deadline:
            return
        if deadline == _NEVER:
            return
        entries.append(deadline)
        heapq.heappush(self._timers, (deadline, next(self._timer_order), weakref.ref(connection)))
        if deadline < self._pump_sleeps_until and not self._serving:
            self._wake_pump()

    def _fire_timers(self, now: float) -> dict[QuicConnection, None]:
        due: dict[QuicConnection, None] = {}
        timers = self._timers
        while timers and timers[0][0] <= now:
            connection = heapq.heappop(timers)[2]()
            if connection is None or connection not in self._ids_of:
                continue
            connection._timer_entries.pop()
            if connection.deadline() <= now:
                self._guarded(connection, connection.fire, now)
                self._guarded(connection, connection.settle)
                due[connection] = None
            else:
                self._arm(connection)
        return due

    # Sending

    def _flush_some(self, now: float) -> None:
        """Send for one step of the event loop; what is left is sent in the next one.

        A connection that has little to say does not wait for those that have much: who
        follows live would feel everybody who catches up.
        """
        sent = self._bytes_sent
        for connection in sorted(self._dirty, key=_has_much_to_send):
            if self.socket.blocked or self._bytes_sent - sent >= _STEP_BYTES:
                return
            self._guarded(connection, self._flush, connection, now)

    def _flush(self, connection: QuicConnection, now: float) -> None:
        self._dirty.pop(connection, None)
        if connection not in self._ids_of:
            return
        datagrams = connection.flush(now)
        if datagrams:
            self.send(datagrams)
            self._bytes_sent += sum([len(data) for data, _ in datagrams])
        if connection._engine.terminated:
            self._remove(connection)
        else:
            self._arm(connection)

    def _guarded(self, connection: QuicConnection, step: Callable[..., None], *args: Any) -> None:
        """A defect met in one connection ends that connection, never its siblings."""
        try:
            step(*args)
        except Exception:
            logger.exception("connection with %s failed", connection.remote_address)
            # Maybe it can still say goodbye, which spares the peer the idle timeout.
            with contextlib.suppress(Exception):
                connection._engine.shut(SessionCode.INTERNAL, "internal error")
                self.send(connection._engine.transmit(trio.current_time()))
            self._remove(connection)
            connection._terminate(
                SessionClosed("internal error", code=SessionCode.INTERNAL, remote=False)
            )


def _has_much_to_send(connection: QuicConnection) -> bool:
    return connection._engine.unsent > _STEP_BYTES // 2
