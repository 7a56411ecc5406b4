"""The account of a subscription's groups, against one that remembers every sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moqtrio import Gap
from moqtrio.session.reconnect_ledger import Ledger

SEQUENCES = st.integers(0, 30)
EVENTS = st.one_of(
    st.tuples(st.just("take"), SEQUENCES, SEQUENCES),
    st.tuples(st.just("drop"), SEQUENCES, SEQUENCES),
    st.tuples(st.just("begin"), SEQUENCES, SEQUENCES),
    st.tuples(st.just("skip"), SEQUENCES, SEQUENCES),
)


@given(SEQUENCES, st.lists(EVENTS, max_size=30))
def test_every_group_is_accounted_for_once(start: int, events: list[tuple[str, int, int]]) -> None:
    ledger = Ledger()
    assert ledger.begin(start) == []
    known: set[int] = set()  # of those from start on
    for kind, first, length in events:
        told: set[int] = set()
        new = set(range(max(first, start), first + length)) - known
        if kind == "take":
            new = {first} - known if first >= start else set()
            assert ledger.take(first) == bool(new)
        elif kind == "drop":
            gaps = ledger.drop(Gap(first, first + length, 7))
            told = {each for gap in gaps for each in range(gap.start, gap.end)}
            assert told == new
            assert len(told) == sum(gap.end - gap.start for gap in gaps)
            assert all(gap.code == 7 and gap.start < gap.end for gap in gaps)
        elif kind == "begin":
            new = set(range(start, first)) - known
            gaps = ledger.begin(first)
            assert {each for gap in gaps for each in range(gap.start, gap.end)} == new
            assert all(gap.code == 0 for gap in gaps)
        else:
            new = set(range(start, first)) - known
            ledger.skip_to(first)
        known |= new
        expected = next(each for each in range(start, 200) if each not in known)
        assert ledger.next == expected
        assert ledger.is_untouched == (not known)


def test_what_is_skipped_before_it_is_known_where_it_begins() -> None:
    ledger = Ledger()
    ledger.skip_to(7)
    assert ledger.next is None
    assert ledger.begin(3) == []
    assert (ledger.start, ledger.next) == (3, 7)
