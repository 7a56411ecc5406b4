"""Which slices may have a sequence, against the obvious way to find out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moqtrio.replay.sqlite.spans import SpanIndex

steps = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 40), st.integers(0, 15), st.booleans()),
    max_size=15,
)


@given(steps, st.lists(st.integers(0, 6), max_size=4))
def test_spans_are_found_as_by_looking_at_each(
    extensions: list[tuple[int, int, int, bool]], removed: list[int]
) -> None:
    index = SpanIndex()
    expected: dict[int, tuple[int, int]] = {}
    for number, first, length, look in extensions:
        last = first + length
        index.extend(number, first, last)
        before = expected.get(number, (first, last))
        expected[number] = (min(first, before[0]), max(last, before[1]))
        if look:  # What is remembered of the spans must follow them.
            check(index, expected)
    check(index, expected)
    for number in removed:
        span = index.remove(number)
        gone = expected.pop(number, None)
        assert gone == (None if span is None else (span.first, span.last))
        check(index, expected)


def check(index: SpanIndex, expected: dict[int, tuple[int, int]]) -> None:
    end = max((last for _, last in expected.values()), default=-1) + 1
    assert index.end == end
    assert index.oldest == min((first for first, _ in expected.values()), default=None)

    def slices(sequence: int) -> tuple[int, ...]:
        return tuple(
            number
            for number, (first, last) in sorted(expected.items())
            if first <= sequence <= last
        )

    for sequence in range(end):
        assert tuple(sorted(span.slice for span in index.covering(sequence))) == slices(sequence)
        stretch = index.stretch(sequence)
        assert stretch.slices == slices(sequence)
        assert all(slices(each) == stretch.slices for each in range(sequence, stretch.end))
        starts = [first for first, _ in expected.values()]
        assert stretch.end_exists == (stretch.end in starts)
        if stretch.end < end:  # No shorter than it could be.
            ends = [last + 1 for _, last in expected.values()]
            assert stretch.end in starts or stretch.end in ends
