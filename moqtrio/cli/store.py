"""``moqtrio store``: look into a store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

import moqtrio

from ..replay.sqlite import StoredTrack, StoreInfo
from .options import GENERAL, GeneralOptions
from .output import open_output

store: App = App(name="store", help="Look into a store.")


@store.command
async def info(
    directory: Path,
    /,
    *,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Show which tracks a store holds, from where to where, and how much.

    Changes nothing; the store may be in use.

    Parameters
    ----------
    directory
        The store, as given to serve --store.
    """
    found = await trio.to_thread.run_sync(moqtrio.SqliteStore.inspect, directory)
    if not general.json:
        _print_tracks(found)
        return
    async with open_output() as output:
        for track in found.tracks:
            await output.write_json({"type": "track", **_describe(track)})
        await output.write_json(
            {
                "type": "store",
                "path": str(found.path),
                "format": found.format_version,
                "files": len(found.slices),
                "bytes": found.bytes,
                "problems": _problems(found),
            }
        )


def _describe(track: StoredTrack) -> dict[str, object]:
    return {
        "broadcast": track.broadcast,
        "track": track.name,
        "epoch": track.epoch,
        "oldest": track.oldest,
        "next_sequence": track.next_sequence,
        "groups": track.groups,
        "frames": track.frames,
        "bytes": track.bytes,
        "first_timestamp_us": track.first_timestamp_us,
        "last_timestamp_us": track.last_timestamp_us,
    }


def _problems(found: StoreInfo) -> list[str]:
    return [each.problem for each in found.slices if each.problem is not None]


def _print_tracks(found: StoreInfo) -> None:
    console = Console(highlight=False)
    for track in found.tracks:
        rows = Table.grid(padding=(0, 2))
        rows.add_row("  groups", _format_range(track))
        rows.add_row("  holding", f"{track.frames:,} frames, {track.bytes / 1e6:,.1f} MB")
        rows.add_row("  next", f"group {track.next_sequence}, of epoch {track.epoch}")
        if track.first_timestamp_us is not None and track.last_timestamp_us is not None:
            first, last = track.first_timestamp_us, track.last_timestamp_us
            rows.add_row("  time", f"{_format_instant(first)} to {_format_instant(last)}")
        console.print(f"{track.broadcast} [bold]{track.name}")
        console.print(rows)
    console.print(f"{found.bytes / 1e6:,.1f} MB in {len(found.slices)} files")
    for problem in _problems(found):
        console.print(f"[red]{problem}")


def _format_range(track: StoredTrack) -> str:
    if track.oldest is None:
        return "none"
    return f"{track.groups:,}, the oldest is {track.oldest}"


def _format_instant(timestamp_us: int) -> str:
    try:
        instant = datetime.fromtimestamp(timestamp_us / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_us} us"  # the publisher's clock need not be the calendar's
    return instant.strftime("%Y-%m-%d %H:%M:%SZ")
