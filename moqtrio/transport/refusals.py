"""Which refusals of an HTTP server may be taken back."""

from __future__ import annotations

_PASSING = (408, 425, 429)  # timeout, too early, too many requests


def is_retryable(status: int) -> bool:
    """Whether the same request may succeed later (RFC 9110 section 15.5: 4xx is the client's
    error)."""
    return status // 100 != 4 or status in _PASSING
