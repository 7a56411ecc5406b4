"""Memory over a million groups: a live, recorded track and one subscriber that keeps up."""

from __future__ import annotations

from .runner import Plan, Side, run_once
from .shapes import Shape

MILLION = 1_000_000
SAMPLES = 20
# Caches, the store's page cache and the allocator fill up first; then nothing may grow.
WARM_UP = 0.2
ALLOWED_GROWTH = 0.05
SECONDS = 3600.0


async def run_million(groups: int) -> int:
    """Print the resident memory of both sides over the run; 0 where it stays flat."""
    plan = Plan(seconds=0, groups=groups, sample_every=groups // SAMPLES, deadline=SECONDS)
    run = await run_once("moqtrio recorded", Shape(100, 1), plan)
    rate = run.subscriber.groups / run.subscriber.seconds
    print(f"{run.subscriber.groups:,} groups at {rate:,.0f}/s, lost {run.lost_groups}")
    flat = [describe("server", run.server, groups), describe("subscriber", run.subscriber, groups)]
    return 0 if all(flat) and not run.lost_groups else 1


def describe(name: str, side: Side, groups: int) -> bool:
    settled = [resident for at, resident in side.samples if at >= groups * WARM_UP]
    for at, resident in side.samples:
        print(f"{name:11} {at:10,} groups  {resident / (1 << 20):8.1f} MiB")
    growth = max(settled) / settled[0] - 1
    verdict = "flat" if growth <= ALLOWED_GROWTH else "GROWS"
    print(f"{name:11} {verdict}: at most {growth:+.1%} after the first {WARM_UP:.0%}")
    return verdict == "flat"
