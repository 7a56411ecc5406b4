"""What was measured beside what is promised."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import attrs

from ..report import aligned
from .measure import Found, Load

FIREHOSE_MEGABYTES = 3.75  # a second


@attrs.frozen
class Finding:
    """One number, and what it should be: at least, or at most, ``limit``."""

    what: str
    value: float
    unit: str
    limit: float
    at_most: bool
    detail: str

    @property
    def reached(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def findings(found: Found) -> list[Finding]:
    """Everything that is promised, in the order it is promised."""
    return [
        throughput(found),
        *first_group(found),
        memory(found),
        *(catching_up(load) for load in found.loads if load.joiners),
        live_delay(found.loads),
    ]


def throughput(found: Found) -> Finding:
    live, replay = max(found.throughput.live), max(found.throughput.replay)
    cpu = median(found.throughput.replay_cpu) / median(found.throughput.live_cpu)
    detail = (
        f"{replay:.1f} and {live:.1f} MB/s, the best of {len(found.throughput.live)}; "
        f"{cpu:.2f} times live's CPU time for each byte"
    )
    return Finding("replay / live, MB/s", replay / live, "x", 0.9, False, detail)


def first_group(found: Found) -> list[Finding]:
    measured = []
    for kind, waits, limit in (
        ("warm", found.first_group.warm, 50.0),
        ("cold", found.first_group.cold, 150.0),
    ):
        whole = [each[1] for each in waits]
        first = median([each[0] for each in waits])
        detail = f"its first frame {first:.1f}; at worst {max(whole):.1f}, of {len(whole)}"
        measured.append(
            Finding(f"first group, {kind}, median", median(whole), "ms", limit, True, detail)
        )
    return measured


def memory(found: Found) -> Finding:
    minute, three_days = found.minute, found.three_days
    growth = (three_days.peak / minute.peak - 1) * 100
    detail = (
        f"peak {minute.peak / 2**20:.1f} MiB over {minute.groups:,} groups, "
        f"{three_days.peak / 2**20:.1f} over {three_days.groups:,}; "
        f"{minute.opened / 2**20:.1f} and {three_days.opened / 2**20:.1f} when opened"
    )
    return Finding("memory, 72 h over a minute", growth, "%", 5.0, True, detail)


def catching_up(load: Load) -> Finding:
    value = load.megabytes_per_second / FIREHOSE_MEGABYTES
    who = "1 joiner" if load.joiners == 1 else f"{load.joiners} joiners together"
    detail = (
        f"{load.megabytes_per_second:.1f} MB/s beside live; "
        f"busy: server {load.server_busy:.0%}, joiners {load.joiners_busy:.0%} of a core"
    )
    limit = 5.0 if load.joiners == 1 else 8.0
    return Finding(f"{who} / {FIREHOSE_MEGABYTES} MB/s", value, "x", limit, False, detail)


def live_delay(loads: Sequence[Load]) -> Finding:
    calm, busy = loads[0], loads[-1]
    detail = "; ".join(
        f"{load.joiners} replays: p50 {load.delay(50):.1f}, p99 {load.delay(99):.1f} ms"
        for load in loads
    )
    return Finding(
        f"live p99 under {busy.joiners} replays",
        busy.delay(99) - calm.delay(99),
        "ms more",
        5.0,
        True,
        detail,
    )


def table(measured: Sequence[Finding]) -> str:
    rows = [["promise", "measured", "wanted", "verdict"]]
    for each in measured:
        wanted = f"{'<=' if each.at_most else '>='} {each.limit:g}"
        verdict = "reached" if each.reached else "MISSED"
        rows.append([each.what, f"{each.value:.2f} {each.unit}", wanted, verdict])
    details = [f"{each.what}: {each.detail}" for each in measured]
    return "\n".join([aligned(rows), "", *details])


def as_json(found: Found, measured: Sequence[Finding], environment: Any) -> dict[str, Any]:
    """Everything that was measured, for a file; the delays as percentiles."""
    raw = attrs.asdict(found)
    for load, described in zip(found.loads, raw["loads"], strict=True):
        described["delays"] = len(load.delays)
        described["milliseconds"] = {f"p{n}": load.delay(n) for n in (50, 90, 99)}
    return {
        "environment": environment,
        "findings": [{**attrs.asdict(each), "reached": each.reached} for each in measured],
        "measured": raw,
    }
