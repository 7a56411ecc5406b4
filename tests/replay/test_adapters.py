"""History behind blocking calls, or an async function, as a store."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator

import attrs
import pytest
import trio
from request_tools import ask, eventually, start_askers
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio import Frame, Missing, Origin, ProtocolError, Track, from_async, from_blocking
from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model import TrackStore
from moqtrio.model.source import End, GroupReader, Pending, Ready


def make_track(store: TrackStore, **options: int) -> Track:
    return Origin().create_broadcast("b").create_track("t", store=store, **options)  # type: ignore[arg-type]  # numbers by name


def frames_of(sequence: int, count: int = 3, size: int = 10) -> list[Frame]:
    return [Frame(b"%d.%d:" % (sequence, n) + bytes(size), n) for n in range(count)]


def payloads_of(sequence: int, count: int = 3, size: int = 10) -> list[bytes]:
    return [frame.payload for frame in frames_of(sequence, count, size)]


@attrs.define
class Library:
    """Groups 10 to 99 but for 50 to 59, behind blocking calls that say who is in them."""

    size: int = 10
    count: int = 3
    known: range = range(10, 100)
    calls: list[int] = attrs.Factory(list)
    steps: dict[int, int] = attrs.Factory(dict)
    closed: list[int] = attrs.Factory(list)
    errors: list[BaseException] = attrs.Factory(list)
    inside: set[int] = attrs.Factory(set)
    most_inside: int = 0
    gate: threading.Event | None = None
    main: threading.Thread = attrs.Factory(threading.current_thread)

    def bounds(self) -> range:
        self.assert_in_a_thread()
        return self.known

    def read(self, sequence: int) -> Iterable[Frame] | Missing | None:
        self.assert_in_a_thread()
        self.calls.append(sequence)
        if self.errors:
            raise self.errors.pop()
        if sequence == 55:
            return Missing(60)
        if sequence == 65:
            return Missing(None)
        if sequence not in self.known or 50 <= sequence < 60:
            return None
        return self.steps_of(sequence)

    def steps_of(self, sequence: int) -> Iterator[Frame]:
        try:
            for frame in frames_of(sequence, self.count, self.size):
                self.assert_in_a_thread()
                assert sequence not in self.inside  # one call at a time for each group
                self.inside.add(sequence)
                self.most_inside = max(self.most_inside, len(self.inside))
                if self.gate is not None:
                    assert self.gate.wait(10)
                self.steps[sequence] = self.steps.get(sequence, 0) + 1
                self.inside.discard(sequence)
                yield frame
        finally:
            if threading.current_thread() is not self.main:
                self.closed.append(sequence)

    def assert_in_a_thread(self) -> None:
        assert threading.current_thread() is not self.main


async def test_a_blocking_store_is_read_in_threads() -> None:
    library = Library()
    async with from_blocking(library) as store:
        track = make_track(store)
        assert track.source is not None
        bounds = track.source.bounds()
        assert (bounds.oldest, bounds.durable_end, bounds.latest) == (10, 100, 99)
        assert track.append_group().sequence == 100
        assert await ask(track.source, 10) == payloads_of(10)
        assert await ask(track.source, 99) == payloads_of(99)
        assert library.closed == [10, 99]


async def test_what_a_blocking_store_does_not_have_is_missing() -> None:
    library = Library()
    async with from_blocking(library) as store:
        track = make_track(store, first_sequence=200)
        assert await ask(track.source, 3) == Missing(10)
        assert await ask(track.source, 50) == Missing(51)
        assert await ask(track.source, 55) == Missing(60)
        library.known = range(30, 120)
        assert await ask(track.source, 150) == Missing(200)
        assert track.source is not None
        assert track.source.bounds().oldest == 30
        assert await ask(track.source, 119) == payloads_of(119)
        assert await ask(track.source, 65) == Missing(200)


async def test_a_group_is_read_once_for_all_who_wait() -> None:
    library = Library(gate=threading.Event())
    async with from_blocking(library) as store, trio.open_nursery() as nursery:
        track = make_track(store)
        askers = start_askers(nursery, track, *[20] * 10)
        await wait_all_tasks_blocked()
        assert library.gate is not None
        library.gate.set()
        await eventually(lambda: all(asker.answers for asker in askers))
        assert [asker.answers for asker in askers] == [[payloads_of(20)]] * 10
        assert library.calls == [20]


async def test_threads_are_limited() -> None:
    library = Library()
    async with from_blocking(library, max_threads=3) as store, trio.open_nursery() as nursery:
        start_askers(nursery, make_track(store), *range(60, 100))
    assert sorted(library.calls) == list(range(60, 100))
    assert 1 <= library.most_inside <= 3


async def open_reader(track: Track, sequence: int) -> GroupReader:
    assert track.source is not None
    while isinstance(found := track.source.poll_group(sequence), Pending):
        await found.wait()
    assert isinstance(found, Ready)
    return found.value


async def read_some(reader: GroupReader) -> list[bytes]:
    while isinstance(answer := reader.poll_frames(1), Pending):
        await answer.wait()
    return [] if isinstance(answer, End) else [frame.payload for frame in answer.value]


async def test_a_large_group_is_read_in_pieces_as_it_is_taken() -> None:
    library = Library(size=10_000, count=400)  # 4 MB
    async with from_blocking(library, buffer_bytes=300_000) as store:
        reader = await open_reader(make_track(store), 20)
        payloads = []
        for taken in range(400):
            # 256 KiB in a hop, and a buffer of 300 kB
            assert library.steps[20] <= taken + 2 * 27 + 31
            payloads += await read_some(reader)
        assert payloads == payloads_of(20, 400, 10_000)
        assert await read_some(reader) == []
        assert library.closed == [20]
        reader.close()


async def test_a_group_that_is_not_wanted_any_more_is_closed() -> None:
    library = Library(size=10_000, count=400)
    async with from_blocking(library, buffer_bytes=300_000) as store:
        reader = await open_reader(make_track(store), 20)
        await read_some(reader)
        reader.close()
        await eventually(lambda: library.closed)
        assert library.closed == [20]
        assert library.steps[20] < 100


@pytest.mark.parametrize(
    ("error", "retryable", "code"),
    [
        (OSError("busy"), True, StreamCode.INTERNAL),
        (ReplayError("busy", code=70), True, 70),
        (ReplayError("broken", code=71, retryable=False), False, 71),
        (KeyError("bug"), False, StreamCode.INTERNAL),
    ],
)
async def test_an_exception_fails_one_try(
    error: Exception, retryable: bool, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    library = Library(errors=[error])

    async def function(sequence: int) -> Iterable[Frame]:
        if failures:
            raise failures.pop()
        return frames_of(sequence)

    failures = [error]
    async with from_blocking(library) as blocking, from_async(function) as waiting:
        for store in (blocking, waiting):
            track = make_track(store, first_sequence=100)
            answer = await ask(track.source, 20)
            assert isinstance(answer, ReplayError)
            assert (answer.retryable, answer.code) == (retryable, code)
            await trio.sleep(0.03)
            assert await ask(track.source, 20) == payloads_of(20)
    assert ("KeyError" in caplog.text) == isinstance(error, KeyError)


async def test_leaving_fails_those_who_wait(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def function(_sequence: int) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with from_async(function) as store:
            track = make_track(store, first_sequence=100)
            (asker,) = start_askers(nursery, track, 20)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert asker.code() == StreamCode.CANCEL
        assert isinstance(await ask(track.source, 21), ReplayError)
    with pytest.raises(ProtocolError, match="b/t is closed"):
        make_track(store)
    assert caplog.text == ""


async def test_a_store_answers_for_one_track() -> None:
    async with from_blocking(Library()) as store:
        track = make_track(store)
        with pytest.raises(ProtocolError, match="answers for track b/t"):
            make_track(store)
        with pytest.raises(ProtocolError, match="b/t has a store"):
            track.requests()


async def test_what_bounds_raises_comes_out_bare() -> None:
    class Broken(Library):
        def bounds(self) -> range:
            raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        async with from_blocking(Broken()):
            pytest.fail("it opened")  # pragma: no cover


# Async


async def test_an_async_function_answers() -> None:
    async def function(
        sequence: int,
    ) -> AsyncIterator[Frame] | Iterable[Frame] | Missing | None:
        await trio.lowlevel.checkpoint()
        if sequence == 1:
            return None
        if sequence == 2:
            return Missing(10)
        if sequence == 20:
            return Missing(None)
        if sequence == 11:
            return each(frames_of(11, 500))
        return frames_of(sequence)

    async with from_async(function, buffer_bytes=1000) as store:
        track = make_track(store, first_sequence=100)
        assert await ask(track.source, 0) == payloads_of(0)
        assert await ask(track.source, 1) == Missing(2)
        assert await ask(track.source, 2) == Missing(10)
        assert await ask(track.source, 11) == payloads_of(11, 500)
        assert await ask(track.source, 20) == Missing(100)


async def each(frames: Iterable[Frame]) -> AsyncIterator[Frame]:
    for frame in frames:
        await trio.lowlevel.checkpoint()
        yield frame


async def test_an_async_generator_function_answers() -> None:
    async with from_async(lambda sequence: each(frames_of(sequence))) as store:
        track = make_track(store, first_sequence=100)
        assert await ask(track.source, 7) == payloads_of(7)


async def test_an_async_function_is_called_once_for_all_who_wait(
    autojump_clock: MockClock,
) -> None:
    calls = []

    async def function(sequence: int) -> Iterable[Frame]:
        calls.append(sequence)
        await trio.sleep(3)
        return frames_of(sequence)

    async with from_async(function) as store, trio.open_nursery() as nursery:
        track = make_track(store, first_sequence=100)
        askers = start_askers(nursery, track, *[7] * 10)
        await trio.sleep(4)
        assert [asker.answers for asker in askers] == [[payloads_of(7)]] * 10
    assert calls == [7]


async def test_an_async_function_is_cancelled_when_nobody_waits(
    autojump_clock: MockClock,
) -> None:
    ended: list[str] = []

    async def function(_sequence: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cancelled")

    async with from_async(function) as store, trio.open_nursery() as nursery:
        track = make_track(store, first_sequence=100)
        (asker,) = start_askers(nursery, track, 7)
        await trio.sleep(60)
        assert not ended
        asker.scope.cancel()
        await trio.sleep(2)
        assert ended == ["cancelled"]


async def test_an_async_iterator_is_closed_when_nobody_reads(autojump_clock: MockClock) -> None:
    closed: list[int] = []

    async def frames(sequence: int) -> AsyncIterator[Frame]:
        try:
            for index in range(10**9):
                yield Frame(b"%d" % index, index)
                await trio.sleep(100)  # whoever waits for the next one does not notice by itself
        finally:
            closed.append(sequence)

    async with from_async(frames) as store, trio.open_nursery() as nursery:
        track = make_track(store, first_sequence=100)
        (asker,) = start_askers(nursery, track, 7)
        await trio.sleep(1000)
        assert not closed
        asker.scope.cancel()
        await trio.sleep(2)
        assert closed == [7]


async def test_an_async_iterator_is_closed_while_nobody_takes_what_it_has(
    autojump_clock: MockClock,
) -> None:
    closed: list[int] = []

    async def frames(sequence: int) -> AsyncIterator[Frame]:
        try:
            for index in range(10**9):
                yield Frame(bytes(600), index)
        finally:
            closed.append(sequence)

    kept = []

    async def function(sequence: int) -> AsyncIterator[Frame]:
        kept.append(frames(sequence))  # so that no collector closes it
        return kept[-1]

    async with from_async(function, buffer_bytes=1000) as store:
        reader = await open_reader(make_track(store, first_sequence=100), 7)
        await trio.sleep(100)
        assert not closed
        reader.close()
        await trio.sleep(2)
        assert closed == [7]


async def test_calls_are_limited(autojump_clock: MockClock) -> None:
    inside = most = 0

    async def function(sequence: int) -> Iterable[Frame]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await trio.sleep(1)
        inside -= 1
        return frames_of(sequence)

    async with from_async(function, max_calls=5) as store, trio.open_nursery() as nursery:
        start_askers(nursery, make_track(store, first_sequence=100), *range(40))
    assert most == 5
    assert trio.current_time() >= 8


async def test_a_connection_that_breaks_is_worth_another_try() -> None:
    async def function(_sequence: int) -> Iterable[Frame]:
        raise trio.BrokenResourceError

    async with from_async(function) as store:
        answer = await ask(make_track(store, first_sequence=100).source, 7)
        assert isinstance(answer, ReplayError)
        assert answer.retryable
