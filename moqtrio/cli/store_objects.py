"""``moqtrio store info URL``: which tracks there are in objects."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import moqtrio

from ..replay.objects import ObjectTrack
from .output import open_output
from .pages import open_page
from .sizes import format_size
from .stores import count, format_instant, judging_store


async def show_objects(url: str, *, json: bool) -> None:
    """Print what the manifest says. Raises Failure where there is none."""
    with judging_store():
        async with moqtrio.ObjectStore.open(url) as objects:
            if json:
                await _write(url, objects)
            else:
                async with open_page() as page:
                    _print(page, objects)


async def _write(url: str, objects: moqtrio.ObjectStore) -> None:
    statistics = objects.statistics()
    async with open_output() as output:
        for track in objects.tracks():
            await output.write_json({"type": "track", **_describe(track)})
        await output.write_json(
            {
                "type": "store",
                "path": url,
                "objects": statistics.objects,
                "bytes": statistics.object_bytes,
                "revision": statistics.revision,
            }
        )


def _describe(track: ObjectTrack) -> dict[str, object]:
    content = track.content()
    return {
        "broadcast": track.broadcast,
        "track": track.name,
        "epoch": track.bounds().epoch,
        "oldest": content.first,
        "latest": content.last,
        "groups": content.groups,
        "frames": content.totals.frames,
        "bytes": content.totals.bytes,
        "first_timestamp_us": content.totals.first_us,
        "last_timestamp_us": content.totals.last_us,
    }


def _print(console: Console, objects: moqtrio.ObjectStore) -> None:
    for track in objects.tracks():
        rows = Table.grid(padding=(0, 2))
        for name, value in _rows(track):
            rows.add_row(f"  {name}", value)
        console.print(f"{track.broadcast} {track.name}", style="bold")
        console.print(rows)
    statistics = objects.statistics()
    size = format_size(statistics.object_bytes)
    console.print(f"{size} in {count(statistics.objects, 'object')}")


def _rows(track: ObjectTrack) -> list[tuple[str, str]]:
    content = track.content()
    totals = content.totals
    held = "none"
    if content.first is not None:
        held = f"{content.groups:,}, the oldest is {content.first}, the latest {content.last}"
    rows = [
        ("groups", held),
        ("holding", f"{count(totals.frames, 'frame')}, {format_size(totals.bytes)}"),
        ("epoch", str(track.bounds().epoch)),
    ]
    if totals.first_us is not None and totals.last_us is not None:
        first, last = format_instant(totals.first_us / 1e6), format_instant(totals.last_us / 1e6)
        rows.append(("time", f"{first} to {last}"))
    return rows
