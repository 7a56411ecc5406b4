"""What the two sides of a session say of themselves at its start (SETUP, since draft 05)."""

from __future__ import annotations

import trio

from ..errors import ProtocolError
from ..transport.connection import Connection
from ..wire import Version, lite
from .patience import REQUEST_TIMEOUT

DEFAULT_COST = 1
"""What subscribing from an endpoint costs that does not say ("Cost Parameter")."""


class PeerSetup:
    """What the peer has said of itself, once it has.

    Args:
        version: the session's. Before draft 05 nobody says anything.
    """

    def __init__(self, version: Version) -> None:
        self._received = trio.Event()
        self._setup = lite.Setup()
        if not lite.Setup.exists_in(version):
            self._received.set()

    def receive(self, setup: lite.Setup) -> None:
        """It has come. Raises ProtocolError for a second one."""
        if self._received.is_set():
            raise ProtocolError("a second SETUP")
        self._setup = setup
        self._received.set()

    @property
    def is_known(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self._received.is_set()

    @property
    def now(self) -> lite.Setup:
        """What is known by now; an empty one where that is nothing."""
        return self._setup

    async def wait(self, seconds: float = REQUEST_TIMEOUT) -> lite.Setup:
        """What the peer says, or :attr:`now` where it takes longer than that."""
        with trio.move_on_after(seconds):
            await self._received.wait()
        return self._setup


async def send_setup(connection: Connection, version: Version, setup: lite.Setup) -> None:
    """Say it, in a version in which that can be said. Raises what the connection raises."""
    if not lite.Setup.exists_in(version):
        return
    stream = await connection.open_uni()
    await stream.send_all(bytes([lite.UniStreamType.SETUP]) + setup.encode(version))
    stream.finish()
