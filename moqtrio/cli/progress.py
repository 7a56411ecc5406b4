"""One line of progress, only where a person watches a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import TracebackType

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

_INTERVAL = 0.2


class Progress:
    """Shows the newest text on standard error, and takes it away at the end.

    Shows nothing where standard error is no terminal.

    Args:
        beside_output: the command prints meanwhile: then nothing is shown either where
            that goes to a terminal too.
    """

    def __init__(self, *, beside_output: bool) -> None:
        self._live: Live | None = None
        self._next_update = -math.inf
        if sys.stderr.isatty() and not (beside_output and sys.stdout.isatty()):
            console = Console(stderr=True)
            # No refresh thread: it is drawn when there is something new.
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def show(self, text: str) -> None:
        """Show ``text`` in place of what was there."""
        if self._live is not None:
            self._live.update(Text(text, style="dim"), refresh=True)

    def update(self, describe: Callable[[], str]) -> None:
        """Show what ``describe`` returns, unless something was shown a moment ago."""
        if self._live is not None and (now := trio.current_time()) >= self._next_update:
            self._next_update = now + _INTERVAL
            self.show(describe())

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
