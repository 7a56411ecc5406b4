"""What the connections of every binding share: waiting for credit to open and to write."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import trio

from ..errors import SessionClosed
from .accepting import AcceptingConnection
from .connection import URGENT, BidiStream, SendStream
from .settings import TransportSettings
from .streams import SendHalf

# All that is unsent, whatever it waits for, may come to this many times the high-water mark.
_MOST_UNSENT = 4


class _Opening:
    """Tasks waiting to open streams of one kind, first come, first served.

    Credit promised to a woken task stays its own until it runs.
    """

    def __init__(self) -> None:
        self.lot = trio.lowlevel.ParkingLot()
        self.promised = 0
        self.refused = False

    def hand_out(self, credit: int) -> None:
        self.promised += len(self.lot.unpark(count=max(0, credit - self.promised)))


class ConnectionBase(AcceptingConnection):
    """The part of a connection that is the same whatever carries it."""

    def __init__(self, settings: TransportSettings) -> None:
        super().__init__(settings)
        self._opening_uni = _Opening()
        self._opening_bidi = _Opening()
        # How many wait for bytes, of a bidirectional and of a unidirectional stream.
        self._readers_waiting = [0, 0]
        # Streams on which a write was refused, in the order of the refusals.
        self._starved_streams: dict[SendHalf, None] = {}

    # What a binding provides

    @abc.abstractmethod
    def _unsent(self) -> int:
        """Bytes taken on all streams and not yet sent for the first time."""

    @abc.abstractmethod
    def _stuck(self) -> int:
        """Those of them that wait for credit of their own stream."""

    def _unsent_at(self) -> Mapping[int, int]:
        """Unsent bytes by the priority of their streams, where the binding sends by it."""
        return {URGENT - 1: self._unsent()}

    @abc.abstractmethod
    def _stream_credit(self, uni: bool) -> int:
        """How many streams can be opened now."""

    @abc.abstractmethod
    def _make_uni(self) -> SendHalf:
        """Open a stream; credit was checked."""

    @abc.abstractmethod
    def _make_bidi(self) -> BidiStream:
        """Open a stream; credit was checked."""

    def _lend_credit(self) -> None:
        """A reader waits for a stream. Where what is unread on others fills the connection's
        window, and could for ever, a binding over which streams may overtake one another
        gives the peer more."""

    def _flush_now(self) -> None:
        """Send what waits, as far as that can be done at once: a close comes next."""

    # What a binding calls

    def _credit_grew(self) -> None:
        """The peer allows more streams."""
        refused = False
        for opening, uni in ((self._opening_uni, True), (self._opening_bidi, False)):
            credit = self._stream_credit(uni)
            opening.hand_out(credit)
            if opening.refused and credit > opening.promised:
                opening.refused = False
                refused = True
        if refused:
            self._notify_writable()

    def _send_buffers_shrank(self) -> None:
        """Unsent bytes left: wake the writers that may go on."""
        if not self._starved_streams:
            return
        low = self._settings.stream_send_low
        admitted = self._admitted(self._settings.connection_send_low)
        drained = [
            stream
            for stream in self._starved_streams
            if (own := stream._unsent()) <= low
            and (stream._priority >= admitted or stream._goes_first(own))
        ]
        for stream in drained:
            stream._drained()
        if drained:
            self._notify_writable()

    def _is_congested(self, priority: int) -> bool:
        """Whether a write must wait because of what other streams have unsent."""
        high = self._settings.connection_send_high
        return self._unsent() >= high and priority < self._admitted(high - 1)

    def _admitted(self, most: int) -> int:
        """The lowest priority of which, together with all above it, no more than ``most``
        bytes are unsent.

        What waits for its reader does not count, within reason: the reader may well be
        waiting for another stream first. Nor does what goes later than the write in question.
        """
        unsent = self._unsent()
        if unsent >= _MOST_UNSENT * self._settings.connection_send_high:
            return URGENT
        unsent -= self._stuck()
        if unsent <= most:
            return 0
        unsent_at = self._unsent_at()
        for priority in sorted(unsent_at):  # most of it is where the backlog is
            unsent -= unsent_at[priority]
            if unsent <= most:
                return priority + 1
        return URGENT

    def _terminate(self, end: SessionClosed, *, discard: bool = False) -> None:
        super()._terminate(end, discard=discard)
        self._opening_uni.lot.unpark_all()
        self._opening_bidi.lot.unpark_all()

    # The public side

    async def open_uni(self) -> SendStream:
        await self._take_credit(self._opening_uni, True)
        return self._make_uni()

    def open_uni_nowait(self) -> SendStream:
        if self._end is not None:
            raise self._closed_error()
        opening = self._opening_uni
        if opening.lot or self._stream_credit(True) <= opening.promised:
            opening.refused = True
            raise trio.WouldBlock
        return self._make_uni()

    async def open_bidi(self) -> BidiStream:
        await self._take_credit(self._opening_bidi, False)
        return self._make_bidi()

    # Inside

    async def _take_credit(self, opening: _Opening, uni: bool) -> None:
        await trio.lowlevel.checkpoint()
        if self._end is None and (opening.lot or self._stream_credit(uni) <= opening.promised):
            await opening.lot.park()
            opening.promised = max(0, opening.promised - 1)
        if self._end is not None:
            raise self._closed_error()
