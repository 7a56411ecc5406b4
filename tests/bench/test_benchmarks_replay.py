"""The measurement of what replay promises runs, and says what it should of what it found."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import trio

from benchmarks.replay import measure, report
from benchmarks.replay.measure import FirstGroup, Found, Load, Memory, Plan, Throughput

TINY = Plan(
    rounds=1,
    live_seconds=0.2,
    groups=12,
    small_groups=60,
    slices=3,
    cold_starts=1,
    warm_groups=2,
    load_seconds=0.5,
    joiners=2,
)


async def test_everything_is_measured(tmp_path: Path) -> None:
    said: list[str] = []
    with trio.fail_after(110):
        found = await measure.measure(TINY, tmp_path, said.append)
    findings = report.findings(found)
    assert len(findings) == 7
    table = report.table(findings)
    for each in findings:
        assert each.what in table
    assert said
    assert found.minute.groups == 72
    assert found.three_days.groups == 72
    assert len(found.first_group.warm) == 2
    assert all(0 < first <= whole for first, whole in found.first_group.warm)
    assert [load.joiners for load in found.loads] == [0, 1, 2]
    assert all(load.megabytes_per_second > 0 for load in found.loads[1:])
    assert all(min(load.delays) > 0 for load in found.loads)
    document = json.loads(json.dumps(report.as_json(found, findings, {"python": "3"})))
    assert len(document["findings"]) == 7
    assert document["measured"]["loads"][0]["delays"] == len(found.loads[0].delays)


KEPT = Found(
    throughput=Throughput([50.0, 40.0], [45.0, 20.0], [10.0, 10.0], [11.0, 11.0]),
    first_group=FirstGroup(warm=[(9.0, 50.0)] * 3, cold=[(90.0, 150.0)] * 3),
    minute=Memory(groups=1, opened=1, peak=100, seconds=1.0),
    three_days=Memory(groups=2, opened=1, peak=104, seconds=1.0),
    loads=[
        Load(0, 0.0, [1000] * 200, 0.1, 0.0),
        Load(1, 18.75, [1000] * 200, 0.5, 0.5),
        Load(10, 30.0, [6000] * 200, 1.0, 0.5),
    ],
)


def test_what_is_just_kept_is_kept() -> None:
    assert all(each.reached for each in report.findings(KEPT))
    assert "MISSED" not in report.table(report.findings(KEPT))


@pytest.mark.parametrize(
    "spoilt",
    [
        attrs.evolve(KEPT, throughput=Throughput([50.0], [44.9], [1.0], [1.0])),
        attrs.evolve(KEPT, first_group=FirstGroup([(1.0, 51.0)], KEPT.first_group.cold)),
        attrs.evolve(KEPT, first_group=FirstGroup(KEPT.first_group.warm, [(1.0, 151.0)])),
        attrs.evolve(KEPT, three_days=attrs.evolve(KEPT.three_days, peak=106)),
        attrs.evolve(KEPT, loads=[KEPT.loads[0], Load(1, 18.7, [1000] * 200, 0, 0), KEPT.loads[2]]),
        attrs.evolve(KEPT, loads=[*KEPT.loads[:2], Load(10, 29.9, [6000] * 200, 0, 0)]),
        attrs.evolve(KEPT, loads=[*KEPT.loads[:2], Load(10, 30.0, [6100] * 200, 0, 0)]),
    ],
)
def test_what_is_missed_is_said_to_be(spoilt: Found) -> None:
    findings = report.findings(spoilt)
    assert [each.reached for each in findings].count(False) == 1
    assert report.table(findings).count("MISSED") == 1
