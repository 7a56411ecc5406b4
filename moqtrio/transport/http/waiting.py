"""Clients that have not said what they want."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Waiting:
    """Bounds how many clients are waited for.

    One that says nothing takes memory all the same: 50 KB, once a TLS handshake has begun.
    Who has been waited for longest makes room for who comes.

    Args:
        most: how many are waited for at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._scopes: dict[trio.CancelScope, None] = {}  # the oldest first

    @contextmanager
    def one_more(self, scope: trio.CancelScope) -> Iterator[None]:
        """A client is waited for within the block, and ``scope`` is cancelled when it is to
        make room."""
        if len(self._scopes) >= self._most:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        self._scopes[scope] = None
        try:
            yield
        finally:
            self._scopes.pop(scope, None)
