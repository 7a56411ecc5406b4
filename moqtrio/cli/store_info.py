"""``moqtrio store info``: which tracks a store holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ..replay.sqlite import StoredSlice, StoredTrack, StoreInfo, inspect_store
from .options import GENERAL, GeneralOptions
from .output import open_output
from .pages import open_page
from .sizes import format_size
from .store_objects import show_objects
from .stores import count, format_groups, format_instant, judging_store

_GAPS_SHOWN = 5


async def info(
    directory: str,
    /,
    *,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Show which tracks a store holds, from where to where, and how much.

    Changes nothing, and reads little; the store may be in use.

    Parameters
    ----------
    directory
        The store, as given to serve --store: a directory or a URL.
    """
    if "://" in directory:
        await show_objects(directory, json=general.json)
        return
    with judging_store():
        found = await trio.to_thread.run_sync(inspect_store, Path(directory))
    if not general.json:
        async with open_page() as page:
            _print(page, found)
        return
    async with open_output() as output:
        for track in found.tracks:
            await output.write_json({"type": "track", **_describe_track(track)})
        for each in found.slices:
            await output.write_json({"type": "file", **_describe_file(each)})
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


def _describe_track(track: StoredTrack) -> dict[str, object]:
    described = attrs.asdict(track, recurse=False)
    described["track"] = described.pop("name")
    described["files"] = described.pop("slices")
    described["gaps"] = [attrs.asdict(gap) for gap in track.gaps]
    return {**described, "missing": track.missing}


def _describe_file(each: StoredSlice) -> dict[str, object]:
    return {**attrs.asdict(each), "path": str(each.path)}


def _problems(found: StoreInfo) -> list[str]:
    return [each.problem for each in found.slices if each.problem is not None]


def _print(console: Console, found: StoreInfo) -> None:
    for track in found.tracks:
        rows = Table.grid(padding=(0, 2))
        for name, value in _rows(track):
            rows.add_row(f"  {name}", value)
        console.print(f"{track.broadcast} {track.name}", style="bold")
        console.print(rows)
    if not found.tracks:
        console.print("no tracks: nothing was recorded yet")
    _print_files(console, found)


def _rows(track: StoredTrack) -> list[tuple[str, str]]:
    rows = [("groups", _format_range(track))]
    rows.append(("holding", f"{count(track.frames, 'frame')}, {format_size(track.bytes)}"))
    if track.missing:
        rows.append(("missing", f"{count(track.missing, 'sequence')} in between without a group"))
    for gap in track.gaps[:_GAPS_SHOWN]:
        rows.append(("lost", f"{format_groups(gap.start, gap.end)} could not be recorded"))
    if len(track.gaps) > _GAPS_SHOWN:
        rows.append(("", f"and {count(len(track.gaps) - _GAPS_SHOWN, 'more gap')}"))
    rows.append(("next", f"group {track.next_sequence}, of epoch {track.epoch}"))
    if track.first_timestamp_us is not None and track.last_timestamp_us is not None:
        first, last = track.first_timestamp_us / 1e6, track.last_timestamp_us / 1e6
        rows.append(("time", f"{format_instant(first)} to {format_instant(last)}"))
    return rows


def _format_range(track: StoredTrack) -> str:
    if track.oldest is None:
        return "none"
    return f"{track.groups:,}, the oldest is {track.oldest}, the latest {track.latest}"


def _print_files(console: Console, found: StoreInfo) -> None:
    files = count(len(found.slices), "file")
    console.print(f"{format_size(found.bytes)} in {files}, format version {found.format_version}")
    for each in found.slices:
        if each.state == "active" and each.problem is None:
            name = os.path.basename(each.path)
            console.print(f"{name} is being written, or was when its process was killed")
    for problem in _problems(found):
        console.print(problem, style="red", soft_wrap=True)
    if _problems(found):
        console.print("moqtrio store verify says which groups that concerns")
