"""``moqtrio store verify``: read every byte of a store, and say what is wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from ..replay.sqlite import Problem, VerifyProgress, VerifyReport, verify_store
from .bars import Meter, run_with_bar
from .failures import EXIT_FAILURE, EXIT_SUCCESS
from .options import GENERAL, GeneralOptions
from .output import Output, open_output
from .sizes import format_size
from .stores import BroadcastOption, StoreDirectory, TrackOption, count, judging_store


async def verify(
    directory: StoreDirectory,
    /,
    *,
    broadcast: BroadcastOption = None,
    track: TrackOption = None,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> int:
    """Read a store whole, and say what is damaged.

    Checks every checksum, that each group has all its frames, and that the catalog agrees with the
    files. Changes nothing; the store may be in use. The exit code is 0 for a store in order,
    1 for damage, and 2 where it cannot be checked.

    Parameters
    ----------
    directory
        The store, as given to serve --store.
    broadcast
        Check only tracks of this broadcast.
    track
        Check only tracks of this name.
    """
    with judging_store():
        report = await run_with_bar(
            partial(_verify, directory, broadcast, track), f"checking {directory}"
        )
    async with open_output() as output:
        for problem in report.problems:
            await _print_problem(output, problem, json=general.json)
        if general.json:
            await output.write_json(_describe(report))
        else:
            await output.write("".join(f"{line}\n" for line in _sum_up(report)).encode())
    return EXIT_SUCCESS if report.clean else EXIT_FAILURE


def _verify(
    directory: Path, broadcast: str | None, track: str | None, meter: Meter
) -> VerifyReport:
    def tell(progress: VerifyProgress) -> None:
        meter.tell(progress.bytes, progress.total_bytes, progress.path.name)

    return verify_store(directory, broadcast=broadcast, track=track, progress=tell)


async def _print_problem(output: Output, problem: Problem, *, json: bool) -> None:
    if json:
        described = {**attrs.asdict(problem), "path": str(problem.path)}
        await output.write_json({"type": "problem", **described})
    else:
        await output.write(f"{problem}\n".encode(errors="surrogateescape"))


def _describe(report: VerifyReport) -> dict[str, object]:
    return {
        "type": "verified",
        "path": str(report.path),
        "files": report.slices,
        "groups": report.groups,
        "frames": report.frames,
        "bytes": report.bytes,
        "unfinished": report.unfinished,
        "gaps": report.gaps,
        "problems": report.problem_count,
    }


def _sum_up(report: VerifyReport) -> list[str]:
    lines = []
    unsaid = report.problem_count - len(report.problems)
    if unsaid:
        lines.append(f"and {count(unsaid, 'more problem')}")
    if report.unfinished:
        groups = count(report.unfinished, "group")
        lines.append(f"{groups} without an end: being recorded, or cut short when that was stopped")
    if report.gaps:
        lines.append(f"{count(report.gaps, 'recorded gap')}: store info lists them")
    read = f"{count(report.groups, 'group')}, {format_size(report.bytes)}"
    files = count(report.slices, "file")
    if report.clean:
        return [*lines, f"{read} in {files}: everything is in order"]
    problems = count(report.problem_count, "problem")
    lines.append(f"{problems}; {read} in {files} were read")
    if not report.slices:
        return [*lines, "nothing of it can be served; restore what is named above from a backup"]
    if not unsaid and all(problem.start is None for problem in report.problems):
        return [*lines, "the guide to operating a store says what to do about it"]
    return [*lines, "groups named above are lost, and subscribers are told so; the rest is served"]
