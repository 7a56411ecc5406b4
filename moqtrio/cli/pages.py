"""What a person reads on standard output: text and tables, with styles if that is a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from .output import open_output

_PIPE_WIDTH = 200


@asynccontextmanager
async def open_page() -> AsyncIterator[Console]:
    """A console whose text is written when the block ends. Raises as open_output does."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    with console.capture() as capture:
        yield console
    async with open_output() as output:
        await output.write(capture.get().encode(console.encoding, errors="backslashreplace"))
