"""The application's end of a group that somebody asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from ...errors import ProtocolError, ReplayError, StreamCode
from ..group import EndedByBlock
from .buffer import GroupBuffer


class ReplayWriter(EndedByBlock):
    """Writes a group that was asked for. Made by :meth:`ReplayRequest.accept`.

    What is written goes at once to all who wait for it. A group that fits into
    ``buffer_bytes`` (see :meth:`Track.requests`) is written without waiting; of a larger
    one only that much is in memory at a time, and :meth:`send_frame` waits for its readers.

    As a context manager it finishes the group on the way out, or aborts it with
    :attr:`StreamCode.INTERNAL` where an exception passes (:attr:`StreamCode.CANCEL` for
    :exc:`trio.Cancelled`). A group whose writer is forgotten is aborted.
    """

    __slots__ = ("__weakref__", "_buffer", "_ended", "_token")

    def __init__(self, buffer: GroupBuffer) -> None:
        self._ended = False
        self._buffer = buffer
        self._token = trio.lowlevel.current_trio_token()

    @property
    def sequence(self) -> int:
        """The group's number on its track."""
        return self._buffer.sequence

    def write_frame(self, payload: bytes, timestamp_us: int | None = None) -> None:
        """Append one frame, if there is room for it.

        Args:
            payload: the bytes, delivered as they are. Must not be changed afterwards.
            timestamp_us: microseconds; by default now, on the track's clock. For history
                that is hardly ever what you want.

        Raises:
            trio.WouldBlock: the buffer is full: :meth:`wait_ready` first.
            trio.BrokenResourceError: nobody has read the group for a second, or the channel
                its request came from was closed.
            ProtocolError: it has been finished or aborted.
            ValueError: the payload is larger than the track's ``max_frame_bytes``, or the
                timestamp is not in ``[0, 2**61)``, which is what can be sent.
        """
        self._check_open()
        self._buffer.write(payload, timestamp_us)

    async def wait_ready(self) -> None:
        """Wait until there is room for a frame, however large; always a checkpoint.

        Raises ProtocolError and trio.BrokenResourceError as :meth:`write_frame` does.
        Cancelling it changes nothing.
        """
        self._check_open()
        await self._buffer.wait_room()

    async def send_frame(self, payload: bytes, timestamp_us: int | None = None) -> None:
        """Append one frame when there is room for it; always a checkpoint.

        Raises as :meth:`write_frame` does, except for WouldBlock. Where it is cancelled the
        frame has not been written. One task at a time may call it.
        """
        await self.wait_ready()
        self.write_frame(payload, timestamp_us)

    def finish(self) -> None:
        """The group is complete. A no-op if it has ended already."""
        self._ended = True
        self._buffer.finish()

    def abort(self, code: int = StreamCode.CANCEL) -> None:
        """End the group early: after what was written its readers get this error code
        instead of an end. A no-op if it has ended already.
        """
        self._ended = True
        self._buffer.fail(
            ReplayError(f"group {self.sequence} was aborted", code=int(code), retryable=False)
        )

    def _check_open(self) -> None:
        if self._ended:
            raise ProtocolError(f"group {self.sequence} takes no more frames: it has ended")

    def __del__(self) -> None:
        if not self._ended:
            call_soon(self._token, self._buffer.fail, forgotten(self.sequence))


def forgotten(sequence: int) -> ReplayError:
    """The error for who waits for a group that nobody will provide."""
    return ReplayError(
        f"group {sequence} was asked for, and what took the request has gone away",
        code=StreamCode.CANCEL,
        retryable=False,
    )


def call_soon(
    token: trio.lowlevel.TrioToken, function: Callable[..., object], *args: object
) -> None:
    """Call a function in Trio's thread, where Trio still runs: objects are collected in any."""
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(function, *args)
