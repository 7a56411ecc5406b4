"""Pacing in bursts of a millisecond.

RFC 9002 section 7.7 wants packets spread over the round trip. Waking for each of them
costs more than sending it, so a burst goes out per tick instead.
"""

from __future__ import annotations

TICK = 0.001
_SHORTEST_RTT = 0.000_001
# RFC 9002 section 7.7 recommends a rate a little above the window per round trip.
_GAIN = 1.25
_SMALLEST_BURST = 16  # datagrams
# Making more of them at once takes so long that the other connections feel it.
_LARGEST_FLUSH = 32 * 1024  # bytes


class TickPacer:
    """A token bucket of bytes, with the interface aioquic's pacer has."""

    def __init__(self, *, max_datagram_size: int) -> None:
        self._datagram = max_datagram_size
        self._rate: float | None = None
        self._tokens = 0.0
        self._capacity = 0.0
        self._filled_at = 0.0
        self.begin_flush()

    def begin_flush(self) -> None:
        """A row of datagrams is about to be made."""
        self._flush_left = max(_LARGEST_FLUSH, _SMALLEST_BURST * self._datagram)

    def next_send_time(self, now: float) -> float | None:
        """None to send now, else when to ask again: at once, where that is enough for now."""
        if self._flush_left <= 0:
            return now
        if self._rate is None:
            return None
        if now > self._filled_at:
            grown = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = min(grown, self._capacity)
            self._filled_at = now
        if self._tokens > 0:
            return None
        return now + max(TICK, -self._tokens / self._rate)

    def update_after_send(self, now: float) -> None:
        """One datagram went out."""
        self._flush_left -= self._datagram
        if self._rate is not None:
            self._tokens -= self._datagram

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The window or the round trip changed."""
        rate = _GAIN * congestion_window / max(smoothed_rtt, _SHORTEST_RTT)
        self._capacity = max(_SMALLEST_BURST * self._datagram, 2 * TICK * rate)
        if self._rate is None:
            self._tokens = self._capacity
        self._rate = rate


class SlowStartExit:
    """When the round trip grows enough to say that a queue builds up.

    aioquic leaves slow start when the round trip grew by a quarter, which on a short
    path is the scheduler's jitter: a window of a dozen packets is all that remains. RFC
    9406 section 4.2 wants at least 4 ms of growth.
    """

    _SAMPLES = 8
    _SMALLEST_GROWTH = 0.004
    _LARGEST_GROWTH = 0.016

    def __init__(self) -> None:
        self._shortest = float("inf")
        self._round = float("inf")
        self._count = 0

    def is_rtt_increasing(self, *, now: float, rtt: float) -> bool:
        """Take a sample; True once the last round's shortest is far above the best."""
        self._round = min(self._round, rtt)
        self._count += 1
        if self._count < self._SAMPLES:
            return False
        growth = min(max(self._shortest / 8, self._SMALLEST_GROWTH), self._LARGEST_GROWTH)
        increasing = self._round >= self._shortest + growth
        self._shortest = min(self._shortest, self._round)
        self._round = float("inf")
        self._count = 0
        return increasing


class SendingRate:
    """How fast a connection may send: what its congestion window allows per round trip, as
    far as it was put to use.

    aioquic's window grows with every acknowledgement, used or not, and soon says nothing of
    the path. So no more is claimed than twice what was lately in flight at once, which is
    what slow start would try next (RFC 9002 section 7.8, RFC 7661).
    """

    _MEMORY = 10.0  # seconds, and up to twice that

    def __init__(self, initial_window: int) -> None:
        self._initial_window = initial_window
        self._peak = self._peak_before = 0
        self._since = float("-inf")

    def note(self, in_flight: int, now: float) -> None:
        """So many bytes are on their way."""
        if now - self._since > self._MEMORY:
            self._since = now
            self._peak_before, self._peak = self._peak, 0
        if in_flight > self._peak:
            self._peak = in_flight

    def bits_per_second(self, congestion_window: int, smoothed_rtt: float) -> float | None:
        """The estimate; None before the first round trip."""
        if smoothed_rtt <= 0:
            return None
        used = 2 * max(self._peak, self._peak_before)
        window = min(congestion_window, max(used, self._initial_window))
        return 8 * window / smoothed_rtt
