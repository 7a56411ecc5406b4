"""RangeSet against a plain set."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from moqtrio.model.ranges import RangeSet

numbers = st.integers(0, 40)
operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "discard", "discard_range", "discard_below"]), numbers, numbers
    ),
    max_size=25,
)


@given(operations)
def test_it_is_a_set(plan: list[tuple[str, int, int]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for operation, start, end in plan:
        if operation == "add":
            assert ranges.add(start, end) is None
            model |= set(range(start, end))
        elif operation == "discard_range":
            ranges.discard_range(start, end)
            model -= set(range(start, end))
        elif operation == "discard":
            ranges.discard(start)
            model.discard(start)
        else:
            ranges.discard_below(start)
            model = {value for value in model if value >= start}
        check(ranges, model)


def check(ranges: RangeSet, model: set[int]) -> None:
    pairs = ranges.ranges()
    assert {value for start, end in pairs for value in range(start, end)} == model
    # Disjoint, sorted, and never two where one would do.
    assert all(start < end for start, end in pairs)
    assert all(left[1] < right[0] for left, right in pairwise(pairs))
    assert len(ranges) == len(model)
    assert bool(ranges) == bool(model)
    for value in range(-1, 43):
        assert (value in ranges) == (value in model)
        assert ranges.end_of(value) == next(
            (end for start, end in pairs if start <= value < end), None
        )
        assert ranges.next_start(value) == next((s for s, _ in pairs if s > value), None)


@given(st.lists(st.tuples(numbers, st.integers(0, 4)), max_size=30), st.integers(1, 4))
def test_a_limit_forgets_the_lowest(plan: list[tuple[int, int]], limit: int) -> None:
    ranges, model = RangeSet(limit), set[int]()
    for start, size in plan:
        forgotten = ranges.add(start, start + size)
        model |= set(range(start, start + size))
        runs = sorted(value for value in model if value - 1 not in model)
        if len(runs) > limit:
            assert forgotten is not None
            assert set(range(*forgotten)) == {value for value in model if value < runs[1]}
            model = {value for value in model if value >= runs[1]}
        else:
            assert forgotten is None
        check(ranges, model)


def test_ranges_cost_what_their_number_is_not_what_they_hold() -> None:
    ranges = RangeSet()
    ranges.add(0, 2**62)
    ranges.discard(2**61)
    assert ranges.ranges() == [(0, 2**61), (2**61 + 1, 2**62)]
    assert repr(ranges) == f"RangeSet({ranges.ranges()})"
