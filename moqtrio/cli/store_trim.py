"""``moqtrio store trim``: remove the oldest part of a store."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import attrs
import trio
from cyclopts import Parameter

from ..replay.sqlite import TrimLimits, TrimmedTrack, TrimReport, trim_store
from .failures import UsageError
from .options import GENERAL, Duration, GeneralOptions, SequenceNumber, Size
from .output import open_output
from .sizes import format_size
from .stores import (
    BroadcastOption,
    StoreDirectory,
    TrackOption,
    count,
    format_groups,
    format_instant,
    judging_store,
)


async def trim(
    directory: StoreDirectory,
    /,
    *,
    before: Annotated[SequenceNumber | None, Parameter(metavar="SEQ")] = None,
    older_than: Duration | None = None,
    keep_bytes: Size | None = None,
    broadcast: BroadcastOption = None,
    track: TrackOption = None,
    dry_run: bool = False,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Remove the oldest files of a store that no server has open.

    Whole files go, oldest first, with all they hold of any track; one that has anything to be
    kept stays. Of several limits, the one that removes most counts.

    Parameters
    ----------
    directory
        The store, as given to serve --store.
    before
        Remove what holds only groups below this sequence.
    older_than
        Remove what was recorded longer ago than this, such as 24h.
    keep_bytes
        Remove until the rest takes no more than this on the disk, such as 10GB.
    broadcast
        With --before, the broadcast of the track it is a sequence of.
    track
        With --before, the name of that track.
    dry_run
        Say what would go, and remove nothing. Works while a server has the store open.
    """
    limits = TrimLimits(
        before=before,
        older_than=older_than,
        keep_bytes=keep_bytes,
        broadcast=broadcast,
        track=track,
    )
    _check(limits)
    with judging_store():
        report = await trio.to_thread.run_sync(
            partial(trim_store, directory, limits, dry_run=dry_run)
        )
    async with open_output() as output:
        if general.json:
            await output.write_json(_describe(report))
        else:
            await output.write("".join(f"{line}\n" for line in _sum_up(report)).encode())


def _check(limits: TrimLimits) -> None:
    """Raises UsageError for options that do not say what to remove."""
    if limits.before is None and (limits.broadcast is not None or limits.track is not None):
        raise UsageError(
            "--broadcast and --track go with --before: files go whole, with all tracks in them"
        )
    if limits.before is None and limits.older_than is None and limits.keep_bytes is None:
        raise UsageError("what is to go? Give --before SEQ, --older-than 24h or --keep-bytes 10GB")


def _describe(report: TrimReport) -> dict[str, object]:
    return {
        "type": "trimmed",
        "path": str(report.path),
        "dry_run": report.dry_run,
        "files": report.slices,
        "bytes": report.bytes,
        "created": report.created,
        "recorded": report.recorded,
        "tracks": [_describe_track(each) for each in report.tracks],
        "kept_files": report.kept_slices,
        "kept_bytes": report.kept_bytes,
    }


def _describe_track(track: TrimmedTrack) -> dict[str, object]:
    described = attrs.asdict(track)
    described["track"] = described.pop("name")
    return described


def _sum_up(report: TrimReport) -> list[str]:
    kept = f"{count(report.kept_slices, 'file')} with {format_size(report.kept_bytes)}"
    if report.created is None or report.recorded is None:
        return [f"nothing to remove, as files go whole: {kept} stay"]
    verb = "would remove" if report.dry_run else "removed"
    span = f"{format_instant(report.created)} to {format_instant(report.recorded)}"
    files = f"{count(report.slices, 'whole file')}, {format_size(report.bytes)}"
    lines = [f"{verb} {files}, recorded {span}"]
    for each in report.tracks:
        groups = f"{format_groups(each.start, each.end)} ({each.groups:,})"
        lines.append(f"  {each.broadcast} {each.name}: {groups}, {format_size(each.bytes)}")
    return [*lines, f"{kept} {'would stay' if report.dry_run else 'stay'}"]
