"""A progress bar for work in a thread, only where a person watches a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import attrs
import trio
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..scope import open_scope

T = TypeVar("T")

_INTERVAL = 0.1


@attrs.define(eq=False)
class Meter:
    """How far work in a thread has come. The thread calls :meth:`tell` now and then, and is
    cancelled there."""

    done: int = 0
    total: int = 0
    text: str = ""

    def tell(self, done: int, total: int, text: str) -> None:
        """Bytes done, of how many, and what is being done. Raises trio.Cancelled."""
        trio.from_thread.check_cancelled()
        self.done, self.total, self.text = done, total, text


async def run_with_bar(work: Callable[[Meter], T], title: str) -> T:
    """Run ``work`` in a worker thread, and show on standard error how far it has come.

    Cancelling it waits until the thread calls the meter.
    """
    meter = Meter()
    async with open_scope() as nursery:
        if sys.stderr.isatty():
            nursery.start_soon(_draw, meter, title)
        return await trio.to_thread.run_sync(partial(work, meter))


async def _draw(meter: Meter, title: str) -> None:
    columns = (
        TextColumn(title),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("[dim]{task.description}"),
    )
    # No refresh thread: it is drawn when there is something new.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True, expand=True
    ) as progress:
        task = progress.add_task("", total=None)
        while True:
            progress.update(
                task,
                completed=meter.done,
                total=meter.total or None,
                description=meter.text,
                refresh=True,
            )
            await trio.sleep(_INTERVAL)
