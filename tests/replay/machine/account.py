"""Judges one subscription: what its publisher says, at the instant it says it."""

from __future__ import annotations

from typing import Protocol

from moqtrio.errors import StreamCode
from moqtrio.model.group import Aborted, Group
from moqtrio.model.ranges import RangeSet
from moqtrio.session.latency import LONGEST_LATENCY

from .properties import Broken
from .tap import Wishes

_MILLISECOND = 0.001


class Truth(Protocol):
    """What is so, whatever anyone says. See :class:`machine.world.World`."""

    @property
    def failing(self) -> bool:
        """Whether reads of the store fail."""
        ...

    @property
    def knows_what_is_absent(self) -> bool:
        """Whether the store can tell what it does not have."""
        ...

    @property
    def most_blocked(self) -> int:
        """How many groups may have been begun without a byte for want of credit."""
        ...

    def report(self, broken: Broken) -> None:
        """A property does not hold."""
        ...

    @property
    def edge(self) -> int: ...
    @property
    def latest(self) -> int | None: ...
    @property
    def final(self) -> int | None: ...
    @property
    def aborted(self) -> int | None: ...
    def in_log(self, sequence: int) -> bool: ...
    def in_store(self, sequence: int) -> bool: ...
    def stored_whole(self, sequence: int) -> bool: ...
    def was_stored(self, sequence: int) -> bool: ...
    def is_lost(self, sequence: int) -> bool: ...
    def lag(self, sequence: int, *, by_clock: bool) -> float: ...
    def may_be_hidden(self, sequence: int) -> bool: ...
    def published(self, sequence: int) -> Group | None: ...
    def shown(self, sequence: int) -> None: ...


class WireAccount:
    """The account of one subscription as its publisher gives it, on the wire.

    Delivered, reset, dropped, skipped by an update: every sequence from the first on is in
    exactly one of them, up to ``cursor``.

    Args:
        truth: what is so.
        wishes: what was asked for.
        by_clock: whether a group is also as old as the time since it was published, and not
            only by its timestamps: until draft 05.
    """

    def __init__(self, truth: Truth, wishes: Wishes, *, by_clock: bool) -> None:
        self.truth = truth
        self.by_clock = by_clock
        self.max_latency = self.coming_max_latency = wishes.max_latency
        latest = truth.edge if truth.latest is None else min(truth.latest, truth.edge)
        # History that was asked for does not expire. Since draft 06 that is what was not too
        # old when it was asked for; the latest group may become so.
        is_recent = not by_clock and wishes.max_latency < LONGEST_LATENCY
        self.exempt_end = latest if is_recent else truth.edge
        if wishes.is_latest:
            self.exempt_end = 0
        self.asked = None if wishes.is_latest else wishes.start
        self.raised = wishes.start
        self.first_wanted = latest if wishes.is_latest else wishes.start
        self.end = wishes.end
        self.coming_end = wishes.end  # what an update that is on its way asks for
        self.start: int | None = None
        self.cursor: int | None = None
        self.first_was_available = False
        self.began: set[int] = set()  # streams that are open
        self.history_under_way: set[int] = set()  # those of groups that had ended before
        # Passed over by a drop: streams that are open, and for want of credit without a byte.
        self.owed: set[int] = set()
        self.delivered = RangeSet()
        self.reset = RangeSet()
        self.stopped = RangeSet()
        self.dropped = RangeSet()
        self.skipped = RangeSet()
        self.said_end: int | None = None
        self.has_left = False
        self.ended = False
        self.failed_with: int | None = None
        self.updated = False
        self.looked_up = 0

    def __repr__(self) -> str:
        names = ("delivered", "reset", "stopped", "dropped", "skipped")
        sets = ", ".join(f"{name} {getattr(self, name).ranges()}" for name in names)
        return (
            f"account of [{self.asked}, {self.end}): OK {self.start}, cursor {self.cursor}, "
            f"under way {sorted(self.began)}, owed {sorted(self.owed)}, {sets}; "
            f"END {self.said_end}; the edge is {self.truth.edge}"
        )

    def _require(self, holds: object, name: str, what: str) -> None:
        if not holds:
            self.truth.report(Broken(name, what, self))

    @property
    def is_live(self) -> bool:
        """Whether the subscription goes on."""
        return not self.has_left and not self.ended

    def settle(self) -> None:
        """Everything that was on its way has come."""
        self.end = self.coming_end
        self.max_latency = self.coming_max_latency

    # What the subscriber says

    def update(self, wishes: Wishes) -> None:
        end, max_latency = wishes.end, wishes.max_latency
        self.updated = True
        self.max_latency = min(self.max_latency, max_latency)  # until it is heard of, either
        self.coming_max_latency = max_latency
        # What had been looked up is still sent.
        self.looked_up = (self.cursor or 0) + 1 + self.truth.most_blocked
        self.raised = max(self.raised, wishes.start)
        if self.end is not None:  # whichever the publisher has heard of
            self.end = None if end is None else max(self.end, end)
        self.coming_end = end

    def left(self) -> None:
        self.has_left = True

    def group_stopped(self, sequence: int) -> None:
        self.began.discard(sequence)
        self.history_under_way.discard(sequence)
        self.stopped.add(sequence, sequence + 1)

    # What the publisher says

    def ok(self, start: int) -> None:
        truth = self.truth
        self._require(self.start is None, "P1", f"a second SUBSCRIBE_OK names {start}")
        self.start = self.cursor = start
        asked = max(self.first_wanted, self.raised)
        self._require(start >= asked, "P1", f"OK names {start}, which is before {asked}")
        self._nothing_between(asked, start)
        if start < truth.edge:
            self.first_was_available = truth.in_log(start) or truth.in_store(start)
            self._require(
                self.first_was_available or truth.failing or truth.is_lost(start),
                "P1",
                f"OK names {start}, which is neither in the log nor in the store",
            )

    def _nothing_between(self, asked: int, start: int) -> None:
        for sequence in range(asked, min(start, self.truth.edge)):
            self._require(
                not self.truth.in_log(sequence),
                "P1",
                f"OK names {start}, but {sequence} is in the log",
            )
            self._require(
                not self.truth.in_store(sequence),
                "P1",
                f"OK names {start}, but {sequence} is in the store",
            )

    def track_end(self, end: int) -> None:
        truth = self.truth
        self._require(self.said_end is None, "P6", f"a second END says {end}")
        self._require(end == truth.final, "P6", f"END says {end}, the track ends at {truth.final}")
        self.said_end = end
        if self.start is None:
            self._nothing_between(max(self.first_wanted, self.raised), end)
            self.start = self.cursor = end

    def group_begun(self, sequence: int) -> None:
        first = min(self.owed, default=sequence)
        self._require(first >= sequence, "P3", f"group {sequence} begins before {first}")
        self._advance_to(sequence, sequence + 1, f"group {sequence} begins")
        self.began.add(sequence)
        self.truth.shown(sequence)
        group = self.truth.published(sequence)
        waits = group is not None and group.held_back and not group.durable
        if group is not None and group.end is not None and not waits:
            self.history_under_way.add(sequence)
        self._require(group is not None, "P5", f"group {sequence} was never published")
        self._require(
            self.end is None or sequence < max(self.end, self.looked_up),
            "P2",
            f"group {sequence} begins, beyond the end that was asked for",
        )

    def _advance_to(self, start: int, end: int, what: str) -> None:
        if start in self.owed:
            self.owed.discard(start)
            return
        cursor = self.cursor
        if cursor is None:
            self._require(False, "P1", f"{what} before SUBSCRIBE_OK")
            cursor = start
        if start > cursor and start == self.raised:
            self.skipped.add(cursor, start)
            cursor = start
        if cursor < start <= cursor + self.truth.most_blocked and what.startswith("["):
            self.owed.update(range(cursor, start))
        else:
            passed_over = f"{what}, and [{cursor}, {start}) was passed over"
            self._require(start <= cursor, "P2", passed_over)
        self._require(start >= cursor, "P2", f"{what}, after {cursor - 1}")
        self.cursor = max(cursor, end)

    def group_over(self, sequence: int, code: int | None) -> None:
        self.began.discard(sequence)
        self.history_under_way.discard(sequence)
        if code is None:
            self.delivered.add(sequence, sequence + 1)
            group = self.truth.published(sequence)
            whole = group is not None and group.end is not None
            self._require(
                whole and group is not None and not isinstance(group.end, Aborted),
                "P5",
                f"group {sequence} ends with a FIN, and was never finished",
            )
            return
        self.reset.add(sequence, sequence + 1)
        if self.is_live:
            self._require_reason(sequence, code, f"group {sequence} was reset with code {code}")

    def group_taken_back(self, sequence: int, code: int) -> None:
        """A group whose end the transport had, and had not sent, was reset."""
        self.delivered.discard(sequence)
        self.group_over(sequence, code)

    def _require_reason(self, sequence: int, code: int, what: str) -> None:
        """A group that could be had to its end must not be given up."""
        truth = self.truth
        if code == StreamCode.OLD and sequence >= self.exempt_end:
            lag = truth.lag(sequence, by_clock=self.by_clock)
            is_old = lag > self.max_latency - _MILLISECOND
            self._require(is_old, "P4", f"{what}, and lags {lag:.3f} of {self.max_latency} s")
            self._require(sequence + 1 < truth.edge, "P4", f"{what}, but it is the latest")
            return
        group = truth.published(sequence)
        aborted = group is not None and isinstance(group.end, Aborted)
        if aborted or truth.failing or truth.is_lost(sequence) or truth.may_be_hidden(sequence):
            return
        self._require(group is not None, "P8", f"{what}, but there never was such a group")
        self._require(not truth.in_log(sequence), "P4", f"{what}, but it is in the log")
        self._require(
            not truth.stored_whole(sequence), "P4", f"{what}, but it is in the store, which works"
        )
        self._require(
            truth.was_stored(sequence), "P8", f"{what}, but it was neither lost nor removed"
        )

    def drop(self, start: int, end: int, code: int) -> None:
        self._require(start < end, "P2", f"an empty drop: [{start}, {end})")
        given_up = start in self.reset or start in self.stopped
        if end == start + 1 and given_up and code:
            return  # given up half-way, and said to be lost
        what = f"[{start}, {end}) is dropped with code {code}"
        self._advance_to(start, end, what)
        self.dropped.add(start, end)
        truth = self.truth
        self._require(end <= truth.edge, "P2", f"{what}, beyond the edge")
        self._require(
            self.end is None or end <= self.end, "P2", f"{what}, beyond the end asked for"
        )
        if code == 0:
            self._require(
                not (start == self.start and self.first_was_available and not self.updated),
                "P1",
                f"{what}, but OK named it",
            )
            knows = truth.knows_what_is_absent
            self._require(knows, "P8", f"{what} while the store fails")
        for sequence in range(start, min(end, truth.edge)):
            self._check_dropped(sequence, code, what)

    def _check_dropped(self, sequence: int, code: int, what: str) -> None:
        if code:
            self._require_reason(sequence, code, what)
            return
        truth = self.truth
        self._require(not truth.in_log(sequence), "P4", f"{what}, but {sequence} is in the log")
        self._require(not truth.in_store(sequence), "P7", f"{what}, but {sequence} is stored")
        self._require(
            not truth.is_lost(sequence) or truth.was_stored(sequence),
            "P7",
            f"{what}, but {sequence} was lost, not absent",
        )

    def over(self, code: int | None) -> None:
        """The publisher ends the subscribe stream, with a FIN or a code."""
        was_live = self.is_live
        self.ended = True
        self.failed_with = code
        if not was_live:
            return
        if code is not None:
            allowed = code == self.truth.aborted or (code and self.truth.failing)
            self._require(allowed, "P8", f"the subscription was reset with code {code}")
            return
        self._require(self.said_end is not None, "P6", "a FIN without an END")
        under_way = sorted(self.began | self.owed)
        self._require(not under_way, "P6", f"a FIN, but {under_way} are under way")
        self._require(
            max(self.cursor or 0, self.raised) >= (self.said_end or 0),
            "P6",
            "a FIN before every sequence was accounted for",
        )
