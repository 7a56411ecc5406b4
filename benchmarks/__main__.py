"""``python -m benchmarks``: moqtrio beside aioquic and moq-rs, on this machine, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import trio

from moqtrio.wire import OFFERED

from .contestants import CONTESTANTS
from .million import MILLION, run_million
from .report import as_json, ratio_table, ratios, summarize, table
from .runner import Plan, Run, RunFailed, run_once
from .shapes import SHAPES, Shape, shape_named

QUICK_SECONDS = 0.8
QUICK_ROUNDS = 3
# Where no live run tells how much a replay should move in the time.
GUESSED_BYTES_PER_SECOND = 20_000_000
GUESSED_FRAMES_PER_SECOND = 20_000


def main() -> None:
    options = parse(sys.argv[1:])
    if options.million:
        sys.exit(trio.run(run_million, options.million))
    if options.replay:
        sys.exit(trio.run(run_replay, options))
    if options.profile:
        trio.run(profile, options)
        return
    sys.exit(trio.run(compare, options))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=QUICK_SECONDS, help="publish so long")
    parser.add_argument("--groups", type=int, default=0, help="publish so many groups instead")
    parser.add_argument("--rounds", type=int, default=QUICK_ROUNDS, help="interleaved rounds")
    parser.add_argument("--shape", action="append", type=shape_named, help="only this shape")
    parser.add_argument("--only", action="append", choices=CONTESTANTS, help="this contestant")
    parser.add_argument(
        "--version",
        choices=[version.name for version in OFFERED],
        default="",
        help="the protocol version moqtrio speaks; by default the newest",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    parser.add_argument(
        "--million",
        type=int,
        nargs="?",
        const=MILLION,
        metavar="GROUPS",
        help="instead: memory over a million groups, live and recorded",
    )
    parser.add_argument(
        "--replay", action="store_true", help="instead: what replay promises (a quarter of an hour)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="with --replay: less of everything, within a minute"
    )
    parser.add_argument(
        "--profile",
        choices=("serve", "subscribe"),
        help="instead: cProfile of one side of each chosen run",
    )
    return parser.parse_args(arguments)


async def compare(options: argparse.Namespace) -> int:
    runs: list[Run] = []
    failures = 0
    plan = Plan(seconds=options.seconds, groups=options.groups, version=options.version)
    contestants = options.only or [name for name, entry in CONTESTANTS.items() if entry.compared]
    for round_number in range(options.rounds):
        for shape in options.shape or SHAPES:
            for contestant in contestants:
                run = await attempt(contestant, shape, prepared(plan, contestant, shape, runs))
                if run is None:
                    failures += 1
                    continue
                runs.append(run)
                rate = run.subscriber.frames / run.subscriber.seconds
                progress(f"round {round_number + 1}  {shape.name:12} {contestant:15} {rate:9,.0f}")
    summary = sorted(summarize(runs), key=lambda entry: in_order(entry.shape, entry.contestant))
    print(table(summary))
    if found := ratios(summary):
        print()
        print(ratio_table(found))
    if options.json:
        document = as_json(runs, summary, environment())
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


def prepared(plan: Plan, contestant: str, shape: Shape, runs: Sequence[Run]) -> Plan:
    """Let a replay move as many groups as the live run before it."""
    if plan.groups or not CONTESTANTS[contestant].prepared:
        return plan
    counts = [
        run.server.groups for run in runs if run.shape == shape and run.contestant == "moqtrio live"
    ]
    return attrs.evolve(plan, groups=max(counts, default=guessed_groups(plan, shape)))


def guessed_groups(plan: Plan, shape: Shape) -> int:
    by_bytes = plan.seconds * GUESSED_BYTES_PER_SECOND / shape.group_bytes
    by_frames = plan.seconds * GUESSED_FRAMES_PER_SECOND / shape.frames
    return max(1, int(min(by_bytes, by_frames)))


async def attempt(contestant: str, shape: Shape, plan: Plan) -> Run | None:
    """One run, or None where it failed: the others still tell something."""
    try:
        return await run_once(contestant, shape, plan)
    except* (RunFailed, trio.TooSlowError) as group:
        progress(f"{contestant}, {shape.name}: {group.exceptions[0]!r}")
    return None


async def run_replay(options: argparse.Namespace) -> int:
    """Measure what replay promises; 0 where all of it is kept."""
    # libipld, which makes up the firehose, is not needed for anything else here.
    from .replay import measure, report

    plan = measure.QUICK if options.quick else measure.Plan()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        if options.profile:
            print(await measure.profile_load(plan, Path(directory), options.profile))
            return 0
        found = await measure.measure(plan, Path(directory), progress)
    findings = report.findings(found)
    print(report.table(findings))
    if options.json:
        document = report.as_json(found, findings, environment())
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if all(each.reached for each in findings) else 1


async def profile(options: argparse.Namespace) -> None:
    plan = Plan(
        seconds=options.seconds,
        groups=options.groups,
        profile=options.profile,
        version=options.version,
    )
    for shape in options.shape or SHAPES:
        for contestant in options.only or ["moqtrio live"]:
            run = await run_once(contestant, shape, prepared(plan, contestant, shape, []))
            side = run.server if options.profile == "serve" else run.subscriber
            print(f"== {contestant}, {shape.name}, {options.profile}, {side.groups} groups")
            print(side.profile)


def in_order(shape: str, contestant: str) -> tuple[int, int]:
    return [s.name for s in SHAPES].index(shape), list(CONTESTANTS).index(contestant)


def environment() -> dict[str, Any]:
    """What ran, so that a file of numbers can be read a year later."""
    packages = ("moqtrio", "aioquic", "trio", "moq-rs", "moq-ffi", "cryptography")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def progress(text: str) -> None:
    if sys.stderr.isatty() or "CI" not in os.environ:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
