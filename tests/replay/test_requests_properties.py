"""Whatever the application does, every sequence is accounted for exactly once.

Hypothesis draws what the application does with each request in turn, and what subscribers
do meanwhile. Each subscriber keeps an account of [start, end): delivered as published,
reset, or dropped; with code 0 only what the application has said to be missing, with
another code only what it has failed to provide.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import chain, repeat

import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import ReplayError
from moqtrio.model import Origin, ReplayRequest, ReplayRequests
from moqtrio.model.source import END, Pending, Ready
from moqtrio.replay import DONE, PARKED, Dropped, Resolver, RetryPolicy
from moqtrio.replay.resolver import Reader

HISTORY, END_SEQUENCE = 8, 13
BUFFER, MAX_UNANSWERED = 3000, 3
RETRY = RetryPolicy(breaker=10**6)

Step = tuple[str, float]


def content_of(sequence: int) -> list[bytes]:
    """Some groups are empty, some larger than the buffer."""
    size, count = [(10, 3), (400, 4), (900, 12), (0, 0)][sequence % 4]
    return [b"%d.%d:" % (sequence, index) + bytes(size) for index in range(count)]


class Application:
    """Does with each request what the plan says."""

    def __init__(self, plan: list[Step]) -> None:
        self.track = (
            Origin().create_broadcast("b").create_track("t", first_sequence=HISTORY, cache_age=2)
        )
        self.missing: set[int] = set()
        self.failed: set[int] = set()
        self.requests = self.open()
        self._plan: Iterator[Step] = chain(plan, plan, repeat(("provide", 0.0)))

    def open(self) -> ReplayRequests:
        return self.track.requests(
            max_unanswered=MAX_UNANSWERED, buffer_bytes=BUFFER, cache_bytes=2 * BUFFER
        )

    async def publish(self) -> None:
        for sequence in range(HISTORY, END_SEQUENCE):
            await trio.sleep(0.7)
            with self.track.append_group() as group:
                for payload in content_of(sequence):
                    group.write_frame(payload)
        self.track.finish()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    request = await self.requests.receive()
                except trio.ClosedResourceError:
                    continue  # it was opened anew
                assert self.requests.statistics().unanswered <= MAX_UNANSWERED
                action, number = next(self._plan)
                if action == "close":
                    self.failed.update(range(END_SEQUENCE))
                    self.requests.close()
                    self.requests = self.open()
                elif action == "drop":
                    self.failed.add(request.sequence)
                else:
                    nursery.start_soon(self.work, request, action, number)
                del request

    async def work(self, request: ReplayRequest, action: str, number: float) -> None:
        sequence = request.sequence
        with request:
            if action == "cancelled":
                with trio.move_on_after(number):
                    self.failed.add(sequence)
                    await request.wait_withdrawn()
            elif action == "slow":
                await trio.sleep(number)
                await self.provide(request)
            elif action == "retry":
                request.retry(number)
            elif action == "missing":
                end = sequence + 1 + int(number)
                self.missing.update(range(sequence, end))
                request.missing(end if number else None)
            elif action == "fail":
                self.failed.add(sequence)
                request.fail(70)
            elif action == "busy":
                self.failed.add(sequence)
                request.fail_with(ReplayError("busy"))
            elif action == "abort":
                self.failed.add(sequence)
                await self.provide(request, stop=int(number))
            else:
                await self.provide(request)

    async def provide(self, request: ReplayRequest, stop: int | None = None) -> None:
        group = request.accept()
        try:
            for payload in content_of(request.sequence)[:stop]:
                await group.send_frame(payload)
                writing = self.requests.statistics()
                assert writing.writing_bytes <= writing.writing * (BUFFER + 1100)
        except trio.BrokenResourceError:
            return  # nobody wants it, or the channel was closed
        if stop is None:
            group.finish()
        else:
            group.abort(71)


class Subscriber:
    """Follows the track as a subscription does, and keeps the account."""

    def __init__(self, application: Application, start: int, plan: list[Step]) -> None:
        self.application = application
        self.start = start
        self.account: dict[int, str] = {}
        self._plan: Iterator[Step] = chain(plan, plan, repeat(("stay", 0.0)))
        self._priority = 0
        self._cursor = start

    async def run(self) -> None:
        """To the track's end; leaving and coming back where the plan says so."""
        while True:
            resolver = Resolver(
                self.application.track.log,
                self.application.track.source,
                start=self._cursor,
                end=END_SEQUENCE,
                priority=self._priority,
                retry=RETRY,
            )
            action, number = next(self._plan)
            with trio.move_on_after(number if action == "leave" else float("inf")) as scope:
                await self.follow(resolver)
            resolver.close()
            if not scope.cancelled_caught:
                return
            self._priority += 1
            self._cursor = max(self.account, default=self.start - 1) + 1

    async def follow(self, resolver: Resolver) -> None:
        while isinstance(waiting := resolver.poll_start(), Pending):
            await waiting.wait()
        self.skip(waiting.value)
        while (answer := resolver.poll_next()) is not DONE:
            if isinstance(answer, Ready):
                try:
                    await self.read(answer.value)
                finally:
                    answer.value.close()
            elif isinstance(answer, Dropped):
                self.drop(answer)
            elif isinstance(answer, Pending):
                await answer.wait()
            else:
                assert answer is PARKED
                await trio.sleep(0.1)

    def skip(self, first: int) -> None:
        """What comes before the group that was named first does not exist."""
        before = max(self.account, default=self.start - 1) + 1
        self.drop(Dropped(before, first, 0))

    def drop(self, dropped: Dropped) -> None:
        for sequence in range(dropped.start, dropped.end):
            assert sequence not in self.account
            said = self.application.failed if dropped.code else self.application.missing
            assert sequence in said
            self.account[sequence] = "dropped" if dropped.code else "missing"

    async def read(self, reader: Reader) -> None:
        payloads: list[bytes] = []
        outcome = "delivered"
        while True:
            try:
                answer = reader.poll_frames(500)
            except ReplayError as error:
                # Who is left behind asks again, and may hear that the group is missing now.
                said = self.application.failed | self.application.missing
                assert reader.sequence in said
                if error.retryable:
                    await trio.sleep(0.1)
                    continue
                outcome = "reset"
                break
            if answer is END:
                break
            if isinstance(answer, Ready):
                payloads += [frame.payload for frame in answer.value]
                action, number = next(self._plan)
                await trio.sleep(number if action == "pause" else 0)
            elif isinstance(answer, Pending):
                await answer.wait()
            else:
                await trio.sleep(0.1)
        expected = content_of(reader.sequence)
        assert payloads == (expected if outcome == "delivered" else expected[: len(payloads)])
        assert reader.sequence not in self.account
        self.account[reader.sequence] = outcome

    def assert_closed(self) -> None:
        assert sorted(self.account) == list(range(self.start, END_SEQUENCE))


seconds = st.sampled_from([0.0, 0.01, 0.6, 3.0])
actions = st.one_of(
    st.tuples(st.just("provide"), st.just(0.0)),
    st.tuples(st.sampled_from(["slow", "retry", "cancelled"]), seconds),
    st.tuples(st.sampled_from(["missing", "abort"]), st.sampled_from([0, 1, 3])),
    st.tuples(st.sampled_from(["fail", "busy", "drop", "close"]), st.just(0.0)),
)
habits = st.one_of(
    st.tuples(st.just("pause"), st.sampled_from([0.0, 0.2, 6.0])),
    st.tuples(st.just("leave"), st.sampled_from([0.0, 0.5, 1.3, 4.0])),
)
plans = st.lists(actions, max_size=12)
habit_plans = st.lists(habits, max_size=6)


@settings(max_examples=100)
@given(
    plan=plans,
    subscribers=st.lists(st.tuples(st.integers(0, HISTORY), habit_plans), min_size=1, max_size=5),
)
def test_the_account_is_kept(plan: list[Step], subscribers: list[tuple[int, list[Step]]]) -> None:
    async def main() -> None:
        application = Application(plan)
        followers = [Subscriber(application, start, habits) for start, habits in subscribers]
        with trio.fail_after(10_000):
            async with trio.open_nursery() as serving:
                serving.start_soon(application.run)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(application.publish)
                    for follower in followers:
                        nursery.start_soon(follower.run)
                await trio.sleep(10)  # what is left of it notices that nobody is there
                gc.collect()
                await wait_all_tasks_blocked()
                statistics = application.requests.statistics()
                assert (statistics.waiting, statistics.unanswered, statistics.writing) == (0, 0, 0)
                serving.cancel_scope.cancel()
        application.requests.close()
        for follower in followers:
            follower.assert_closed()
        outcomes = {outcome for follower in followers for outcome in follower.account.values()}
        for outcome in sorted(outcomes):
            event(outcome)

    trio.run(main, clock=MockClock(autojump_threshold=0))
