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


class TickPacer:
    """A token bucket of bytes, with the interface aioquic's pacer has."""

    def __init__(self, *, max_datagram_size: int) -> None:
        self._datagram = max_datagram_size
        self._rate: float | None = None
        self._tokens = 0.0
        self._capacity = 0.0
        self._filled_at = 0.0

    def next_send_time(self, now: float) -> float | None:
        """None to send now, else when to ask again."""
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
        if self._rate is not None:
            self._tokens -= self._datagram

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The window or the round trip changed."""
        rate = _GAIN * congestion_window / max(smoothed_rtt, _SHORTEST_RTT)
        self._capacity = max(_SMALLEST_BURST * self._datagram, 2 * TICK * rate)
        if self._rate is None:
            self._tokens = self._capacity
        self._rate = rate
