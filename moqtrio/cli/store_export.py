"""``moqtrio store export``: write out what a store has of a track."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter

import moqtrio

from ..replay.sqlite import ExportReport, ReadOnlyStore, ReadOnlyTrack, export_track
from .failures import EXIT_FAILURE, EXIT_SUCCESS, UsageError
from .options import GENERAL, GeneralOptions, SequenceNumber
from .output import Output, open_output
from .positions import Moment, Start, check_range, parse_start
from .progress import Progress
from .receiving import GroupPrinter
from .sizes import format_size
from .stores import (
    BroadcastOption,
    StoreDirectory,
    TrackOption,
    count,
    format_groups,
    judging_store,
)

STANDARD_OUTPUT = "-"

Format = Literal["lines", "jsonl", "frames"]


async def export(
    directory: StoreDirectory,
    /,
    *,
    broadcast: BroadcastOption = None,
    track: TrackOption = None,
    from_: Annotated[
        str, Parameter(name="--from", metavar="SEQ|oldest|latest|TIME", allow_leading_hyphen=True)
    ] = "oldest",
    until: Annotated[SequenceNumber | None, Parameter(metavar="SEQ")] = None,
    output: Annotated[str, Parameter(metavar="-|FILE", allow_leading_hyphen=True)] = "-",
    format: Format | None = None,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> int:
    """Write out what a store has of a track, as subscribe would print it.

    Changes nothing; the store may be in use, and what is durable when the command starts is
    written. The exit code is 0 if that is all of it, 1 if there are gaps, which standard error
    names, and 2 where the store cannot be read.

    Parameters
    ----------
    directory
        The store, as given to serve --store.
    broadcast
        The broadcast's path; need not be given where there is only one.
    track
        The track's name; need not be given where there is only one.
    from_
        The first group: its sequence, the oldest there is, the latest, or the first recorded
        since a time: how long ago (-10m) or when (2026-01-31T12:00:00Z).
    until
        The first group that is not wanted any more.
    output
        Where to. - is standard output; a file is overwritten.
    format
        lines: each frame followed by a newline. jsonl: a JSON object per group, gap and end.
        frames: the same, and one per frame with its payload in base64.
    """
    start = parse_start(from_)
    check_range(start if isinstance(start, int) else None, until)
    chosen: Format = format or ("jsonl" if general.json else "lines")
    to_file = output != STANDARD_OUTPUT
    if general.json and chosen == "lines" and not to_file:
        raise UsageError("--json with --format lines needs --output FILE: they would mix")
    with judging_store():
        async with ReadOnlyStore.open(directory) as store:
            source = store.track(broadcast, track)
            oldest = from_.strip().lower() == "oldest"  # with no gap before it
            first = None if oldest else await _find_start(source, start)
            async with _open_sink(output, chosen) as sink:
                report = await export_track(store, source, sink, start=first, end=until)
                await sink.end(report)
    await _tell(report, json=general.json, to_file=to_file)
    return EXIT_FAILURE if report.missing else EXIT_SUCCESS


async def _find_start(track: ReadOnlyTrack, start: Start) -> int:
    if start is None:
        latest = track.spans.end - 1
        while latest in track.unfinished:
            latest -= 1
        return max(latest, 0)
    if not isinstance(start, Moment):
        return start
    if start.remark is not None:
        print(f"moqtrio: {start.remark}", file=sys.stderr)
    found = await track.find_time(start.when)
    return track.spans.end if found is None else found


class _Sink:
    """Prints as subscribe does; of gaps it always tells on standard error, too."""

    def __init__(self, output: Output, format: Format, progress: Progress) -> None:
        self._json = format != "lines"
        general = GeneralOptions(json=self._json)
        self._printer = GroupPrinter(output, general, frames=format == "frames")
        self._progress = progress
        self._bytes = 0

    async def write_frames(
        self, sequence: int, first_frame: int, frames: Sequence[moqtrio.Frame]
    ) -> None:
        """See :class:`~moqtrio.replay.sqlite.ExportSink`."""
        await self._printer.print_frames(sequence, first_frame, frames)

    async def end_group(self, sequence: int, frames: int, size: int) -> None:
        """See :class:`~moqtrio.replay.sqlite.ExportSink`."""
        self._bytes += size
        await self._printer.print_group_end(sequence, frames, size)
        self._progress.update(lambda: f"group {sequence}, {format_size(self._bytes)}")

    async def write_gap(self, start: int, end: int, code: int, reason: str) -> None:
        """See :class:`~moqtrio.replay.sqlite.ExportSink`."""
        if self._json:
            await self._printer.print_gap(start, end, code)
        print(f"moqtrio: {format_groups(start, end)}: {reason}", file=sys.stderr)

    async def end(self, report: ExportReport) -> None:
        """All has been written."""
        await self._printer.print_end(report.end)


@asynccontextmanager
async def _open_sink(path: str, format: Format) -> AsyncIterator[_Sink]:
    """Raises OSError where the file cannot be made."""
    to_file = path != STANDARD_OUTPUT
    descriptor = 1
    if to_file:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        async with open_output(descriptor) as output:
            with Progress(beside_output=not to_file) as progress:
                yield _Sink(output, format, progress)
    finally:
        if to_file:
            os.close(descriptor)


async def _tell(report: ExportReport, *, json: bool, to_file: bool) -> None:
    if report.unfinished is not None:
        print(
            f"moqtrio: ends before group {report.unfinished}, which has no end yet: it is being "
            "recorded, or was cut short when that was stopped",
            file=sys.stderr,
        )
    elif not report.groups and not report.missing:
        print("moqtrio: there is nothing to export there", file=sys.stderr)
    if not to_file:
        return
    if json:
        async with open_output() as output:
            await output.write_json({"type": "exported", **attrs.asdict(report)})
        return
    held = f"{count(report.groups, 'group')}, {format_size(report.bytes)}"
    missing = f"; {count(report.missing, 'group')} missing" if report.missing else ""
    print(f"moqtrio: exported {held}{missing}", file=sys.stderr)
