"""Turns runs into numbers, and numbers into a table of ratios."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

import attrs

from .contestants import CONTESTANTS
from .runner import Run
from .shapes import Shape

PER_FRAMES = 10_000
MEGABYTE = 1_000_000
MEBIBYTE = 1 << 20
NOTHING_EXPECTED = 0.0  # shown for comparison alone


@attrs.frozen
class Numbers:
    """One contestant's runs of one shape.

    Rates are the subscriber's, of the fastest run: the one that other programs on the
    machine disturbed least. CPU time hardly feels them, and is the median of each side.
    """

    contestant: str
    shape: str
    runs: int
    frames_per_second: float
    groups_per_second: float
    megabytes_per_second: float
    server_cpu_per_10k_frames: float
    subscriber_cpu_per_10k_frames: float
    megabytes_per_server_cpu_second: float
    megabytes_per_subscriber_cpu_second: float
    server_peak_mebibytes: float
    subscriber_peak_mebibytes: float
    lost_groups: int

    @property
    def frames_per_cpu_second(self) -> float:
        """Of the busier side: what an undisturbed processor could do, whatever else runs."""
        return PER_FRAMES / max(self.server_cpu_per_10k_frames, self.subscriber_cpu_per_10k_frames)


def numbers(runs: Sequence[Run]) -> Numbers:
    """All rounds of one contestant and shape in one line."""
    first = runs[0]
    fastest = max((run.subscriber for run in runs), key=lambda side: side.bytes / side.seconds)

    return Numbers(
        contestant=first.contestant,
        shape=first.shape.name,
        runs=len(runs),
        frames_per_second=fastest.frames / fastest.seconds,
        groups_per_second=fastest.groups / fastest.seconds,
        megabytes_per_second=fastest.bytes / MEGABYTE / fastest.seconds,
        server_cpu_per_10k_frames=median(
            r.server.cpu_seconds / r.subscriber.frames * PER_FRAMES for r in runs
        ),
        subscriber_cpu_per_10k_frames=median(
            r.subscriber.cpu_seconds / r.subscriber.frames * PER_FRAMES for r in runs
        ),
        megabytes_per_server_cpu_second=median(
            r.subscriber.bytes / MEGABYTE / r.server.cpu_seconds for r in runs
        ),
        megabytes_per_subscriber_cpu_second=median(
            r.subscriber.bytes / MEGABYTE / r.subscriber.cpu_seconds for r in runs
        ),
        server_peak_mebibytes=max(r.server.peak_resident_bytes for r in runs) / MEBIBYTE,
        subscriber_peak_mebibytes=max(r.subscriber.peak_resident_bytes for r in runs) / MEBIBYTE,
        lost_groups=sum(r.lost_groups for r in runs),
    )


def summarize(runs: Sequence[Run]) -> list[Numbers]:
    grouped: defaultdict[tuple[Shape, str], list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.shape, run.contestant].append(run)
    return [numbers(same) for same in grouped.values()]


COLUMNS = (
    ("frames/s", "frames_per_second", ",.0f"),
    ("groups/s", "groups_per_second", ",.0f"),
    ("MB/s", "megabytes_per_second", ",.1f"),
    ("frames/CPU s", "frames_per_cpu_second", ",.0f"),
    ("CPU s/10k fr. tx", "server_cpu_per_10k_frames", ".3f"),
    ("rx", "subscriber_cpu_per_10k_frames", ".3f"),
    ("MB/CPU s tx", "megabytes_per_server_cpu_second", ",.1f"),
    ("rx", "megabytes_per_subscriber_cpu_second", ",.1f"),
    ("MiB tx", "server_peak_mebibytes", ",.0f"),
    ("rx", "subscriber_peak_mebibytes", ",.0f"),
    ("lost groups", "lost_groups", "d"),
)


def table(summary: Sequence[Numbers]) -> str:
    """The numbers themselves, a block per shape."""
    rows = [["shape", "contestant", *(title for title, _, _ in COLUMNS)]]
    for entry in summary:
        cells = [format(getattr(entry, name), form) for _, name, form in COLUMNS]
        rows.append([entry.shape, entry.contestant, *cells])
    return aligned(rows)


@attrs.frozen
class Ratio:
    """One number over another, and what was hoped for."""

    shape: str
    what: str
    value: float
    expected: float

    @property
    def reached(self) -> bool:
        return self.value >= self.expected


def ratios(summary: Sequence[Numbers]) -> list[Ratio]:
    """moqtrio beside the others, as far as each of them ran."""
    by_shape: defaultdict[str, dict[str, Numbers]] = defaultdict(dict)
    for entry in summary:
        by_shape[entry.shape][entry.contestant] = entry
    found: list[Ratio] = []
    for index, (shape, ran) in enumerate(by_shape.items()):
        live = ran.get("moqtrio live")
        if live is not None:
            found += shape_ratios(shape, live, ran, is_last=index == len(by_shape) - 1)
    return found


def shape_ratios(
    shape: str, live: Numbers, ran: dict[str, Numbers], *, is_last: bool
) -> list[Ratio]:
    found = []
    if aioquic := ran.get("aioquic"):
        for side, name in (("server", "tx"), ("subscriber", "rx")):
            field = f"megabytes_per_{side}_cpu_second"
            value = getattr(live, field) / getattr(aioquic, field)
            found.append(Ratio(shape, f"live / aioquic, MB per CPU-second {name}", value, 1.4))
    if moq_rs := ran.get("moq-rs"):
        value = live.frames_per_second / moq_rs.frames_per_second
        found.append(
            Ratio(shape, "live / moq-rs, frames/s", value, NOTHING_EXPECTED if is_last else 1.0)
        )
        value = live.frames_per_cpu_second / moq_rs.frames_per_cpu_second
        found.append(Ratio(shape, "live / moq-rs, frames/CPU s", value, NOTHING_EXPECTED))
    for binding in (name for name in ran if CONTESTANTS[name].scheme != "moqt"):
        value = ran[binding].frames_per_cpu_second / live.frames_per_cpu_second
        what = f"{binding} / live, frames/CPU s"
        found.append(Ratio(shape, what, value, NOTHING_EXPECTED))
    if replay := ran.get("moqtrio replay"):
        value = replay.megabytes_per_second / live.megabytes_per_second
        found.append(Ratio(shape, "replay / live, MB/s", value, 0.8))
        value = replay.frames_per_cpu_second / live.frames_per_cpu_second
        found.append(Ratio(shape, "replay / live, frames/CPU s", value, NOTHING_EXPECTED))
    return found


def ratio_table(found: Sequence[Ratio]) -> str:
    rows = [["shape", "ratio", "measured", "expected", ""]]
    for ratio in found:
        expected = f">= {ratio.expected:g}" if ratio.expected else "-"
        verdict = "" if not ratio.expected else "reached" if ratio.reached else "MISSED"
        rows.append([ratio.shape, ratio.what, f"{ratio.value:.2f}", expected, verdict])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(
        [line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])]
    )


def as_json(runs: Sequence[Run], summary: Sequence[Numbers], environment: Any) -> dict[str, Any]:
    """Everything that was measured, for a file."""
    return {
        "environment": environment,
        "summary": [attrs.asdict(entry) for entry in summary],
        "ratios": [attrs.asdict(ratio) for ratio in ratios(summary)],
        "runs": [attrs.asdict(run) for run in runs],
    }
