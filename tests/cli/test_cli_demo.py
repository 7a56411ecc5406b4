"""The demo's verdict: it must notice every way in which the late subscriber was cheated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moqtrio.cli.comparing import Arrival, Received, digest_frames
from moqtrio.cli.demo import Run, assess

RECORDED = {sequence: digest_frames([(sequence, b"%d" % sequence)]) for sequence in range(10)}


def receive_all() -> Received:
    return Received(
        groups={
            sequence: Arrival(digest, bytes=1, at=float(sequence))
            for sequence, digest in RECORDED.items()
        },
        end=10,
        began=-1.0,
    )


def make_run() -> Run:
    return Run({"oldest": 4, "next_sequence": 7}, early=receive_all(), late=receive_all())


def test_all_is_well() -> None:
    result = assess(RECORDED, make_run())
    assert (result.from_store, result.from_memory, result.live) == (4, 3, 3)
    assert (result.gaps, result.mismatches, result.early_mismatches) == (0, 0, 0)
    assert result.replayed_bytes == 7
    assert result.ok


def change_a_byte(run: Run) -> None:
    run.late.groups[2].digest = digest_frames([(2, b"x")])


def change_a_timestamp(run: Run) -> None:
    run.late.groups[2].digest = digest_frames([(3, b"2")])


def lose_a_group(run: Run) -> None:
    del run.late.groups[5]


def lose_the_last_group(run: Run) -> None:
    del run.late.groups[9]


def invent_a_group(run: Run) -> None:
    run.late.groups[10] = run.late.groups[9]


def report_a_gap(run: Run) -> None:
    run.late.gaps = 1


def miss_the_end(run: Run) -> None:
    run.late.end = None


def change_what_was_live(run: Run) -> None:
    run.early.groups[0].digest = "0"


def replay_nothing_from_the_store(run: Run) -> None:
    run.joined["oldest"] = 0


@pytest.mark.parametrize(
    "spoil",
    [
        change_a_byte,
        change_a_timestamp,
        lose_a_group,
        lose_the_last_group,
        invent_a_group,
        report_a_gap,
        miss_the_end,
        change_what_was_live,
        replay_nothing_from_the_store,
    ],
)
def test_nothing_goes_unnoticed(spoil: Callable[[Run], None]) -> None:
    run = make_run()
    spoil(run)
    assert not assess(RECORDED, run).ok


def test_a_hole_in_the_record_is_noticed() -> None:
    recorded = {sequence: digest for sequence, digest in RECORDED.items() if sequence != 5}
    assert not assess(recorded, make_run()).ok


def test_frames_cannot_be_cut_differently() -> None:
    assert digest_frames([(0, b"ab")]) != digest_frames([(0, b"a"), (0, b"b")])
    assert digest_frames([(0, b"a"), (0, b"b")]) != digest_frames([(0, b"a0 1 b")])
