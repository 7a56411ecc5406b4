"""Recorded gaps: bounded, and never less than what was lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.errors import ReplayError
from moqtrio.model.source import Missing
from moqtrio.replay.gaps import Gaps
from moqtrio.replay.target import GapWrite


def spans(gaps: Gaps) -> list[tuple[int, int, int]]:
    return [(gap.start, gap.end, gap.code) for gap in gaps]


def code_of(gaps: Gaps, sequence: int) -> int:
    try:
        gaps.check(sequence, Missing(None))
    except ReplayError as error:
        return 0 if error.retryable else error.code
    return 0


def test_neighbours_become_one() -> None:
    gaps = Gaps([GapWrite(5, 8, 53)])
    gaps.add(GapWrite(8, 9, 53))
    gaps.add(GapWrite(2, 4, 53))
    assert spans(gaps) == [(2, 4, 53), (5, 9, 53)]
    gaps.add(GapWrite(3, 6, 60))
    assert spans(gaps) == [(2, 9, 60)]


def test_the_nearest_merge_where_there_are_too_many() -> None:
    gaps = Gaps([GapWrite(start, start + 1, 53) for start in (0, 10, 14, 30)], most=3)
    assert spans(gaps) == [(0, 1, 53), (10, 15, 53), (30, 31, 53)]


@pytest.mark.parametrize(("start", "end", "code"), [(3, 3, 53), (4, 3, 53), (-1, 3, 53), (0, 1, 0)])
def test_a_gap_that_is_none_is_refused(start: int, end: int, code: int) -> None:
    with pytest.raises(ValueError, match=r"range of sequences|code"):
        GapWrite(start, end, code)


small = st.integers(0, 60)
steps = st.lists(st.tuples(st.booleans(), small, st.integers(1, 5), st.integers(1, 3)), max_size=30)


@given(steps, st.integers(1, 8))
def test_what_was_lost_is_said_to_be(plan: list[tuple[bool, int, int, int]], most: int) -> None:
    gaps, lost, floor = Gaps(most=most), dict[int, int](), 0
    for discard, start, size, code in plan:
        if discard:
            gaps.discard_below(start)
            lost = {each: was for each, was in lost.items() if each >= start}
            floor = max(floor, start)
        else:
            gaps.add(GapWrite(start, start + size, code))
            lost |= dict.fromkeys(range(start, start + size), code)
            floor = min(floor, start)
        kept = spans(gaps)
        assert len(gaps) == len(kept) <= most
        assert all(before[1] < after[0] for before, after in pairwise(kept))
        assert Gaps(gaps, most=most)._gaps == gaps._gaps, "what is stored is what was kept"
        codes = {each: code_of(gaps, each) for each in range(80)}
        assert all(codes[each] for each in lost)
        assert not any(codes[each] for each in range(floor))
        if len(kept) < most and not discard:
            assert codes[start] == code
        for sequence in (each for each in range(80) if not codes[each]):
            following = next((each for each in range(sequence, 90) if codes.get(each)), None)
            assert gaps.check(sequence, Missing(None)) == Missing(following)
            nearer = sequence + 1
            assert gaps.check(sequence, Missing(nearer)) == Missing(nearer)
