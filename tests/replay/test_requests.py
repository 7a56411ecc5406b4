"""Requests: what an application sees of those who wait, and they of its answers."""

from __future__ import annotations

import gc
from contextlib import suppress

import pytest
import trio
from request_tools import Asker, ask, make_track, start_askers
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import ProtocolError, ReplayError, StreamCode
from moqtrio.model import Origin, ReplayWriter
from moqtrio.model.source import Bounds, Missing, Pending
from moqtrio.replay import MemoryStore

# Asking


async def test_there_is_one_request_however_many_wait(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        askers = start_askers(nursery, track, *[7] * 10)
        request = await requests.receive()
        assert request.sequence == 7
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            requests.receive_nowait()
        with request, request.accept() as group:
            group.write_frame(b"one")
            await group.send_frame(b"two")
        await wait_all_tasks_blocked()
        assert [asker.answers for asker in askers] == [[[b"one", b"two"]]] * 10
        with pytest.raises(trio.WouldBlock):
            requests.receive_nowait()


async def test_the_answer_is_there_while_it_is_written(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 7)
        request = await requests.receive()
        group = request.accept()
        group.write_frame(b"one", 17)
        await wait_all_tasks_blocked()
        assert asker.answers == []
        assert track.source is not None
        found = track.source.poll_group(7)
        assert not isinstance(found, Pending | Missing)
        answer = found.value.poll_frames(100)
        assert not isinstance(answer, Pending)
        ((frame,),) = [answer.value]  # type: ignore[union-attr]  # it is Ready
        assert (frame.payload, frame.timestamp_us) == (b"one", 17)
        pending = found.value.poll_frames(100)
        assert isinstance(pending, Pending)
        group.finish()
        await pending.wait()
        await wait_all_tasks_blocked()
        assert asker.answers == [[b"one"]]


async def test_the_priority_is_the_highest_of_those_who_wait(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        (low,) = start_askers(nursery, track, 7, priority=1)
        request = await requests.receive()
        assert request.priority == 1
        high, other = Asker(track.source), Asker(track.source)
        nursery.start_soon(high.run, 7, 9)
        nursery.start_soon(other.run, 7, 5)
        await wait_all_tasks_blocked()
        assert request.priority == 9
        high.scope.cancel()
        await wait_all_tasks_blocked()
        assert request.priority == 5
        other.scope.cancel()
        await wait_all_tasks_blocked()
        assert request.priority == 1
        request.missing()
        await wait_all_tasks_blocked()
        assert low.answers == [Missing(8)]


async def test_what_is_wanted_most_comes_first_then_what_has_waited_longest(
    nursery: trio.Nursery,
) -> None:
    track = make_track()
    with track.requests() as requests:
        for sequence, priority in [(1, 0), (2, 3), (3, 0), (4, 3)]:
            nursery.start_soon(Asker(track.source).run, sequence, priority)
            await wait_all_tasks_blocked()
        nursery.start_soon(Asker(track.source).run, 3, 7)  # one more wants it, and more so
        await wait_all_tasks_blocked()
        taken = [requests.receive_nowait() for _ in range(4)]
        assert [request.sequence for request in taken] == [3, 2, 4, 1]
        for request in taken:
            request.missing()


async def test_readahead_is_how_many_were_asked_for_in_a_row(nursery: trio.Nursery) -> None:
    track = make_track(30)
    seen = []
    with track.requests() as requests:
        for sequence in [0, 1, 2, 10, *range(11, 30)]:
            nursery.start_soon(Asker(track.source).run, sequence)
            with await requests.receive() as request:
                seen.append(request.readahead)
                request.missing()
            await wait_all_tasks_blocked()
    # Up to 16, and then as many as there are before the next group to be published.
    assert seen == [0, 1, 2, 0, *range(1, 10), 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


async def test_a_row_goes_on_behind_what_is_missing(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        for sequence, end in [(0, 1), (1, 40), (40, 41)]:
            nursery.start_soon(Asker(track.source).run, sequence)
            with await requests.receive() as request:
                readahead = request.readahead
                request.missing(end)
            await wait_all_tasks_blocked()
        assert readahead == 2


async def test_what_is_remembered_is_bounded(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track(10_000)

    async def readahead_of(sequence: int) -> int:
        nursery.start_soon(Asker(track.source).run, sequence)
        with trio.fail_after(0.1):
            request = await requests.receive()
        request.missing()
        await wait_all_tasks_blocked()
        return request.readahead

    with track.requests() as requests:
        for sequence in range(0, 3000, 10):
            await readahead_of(sequence)
        assert await ask(track.source, 2990) == Missing(2991)
        assert await readahead_of(2991) == 1
        assert await readahead_of(0) == 0  # that it is missing was forgotten
        assert await readahead_of(11) == 0  # and that 10 was asked for


async def test_cancelling_receive_loses_nothing(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        for sequence in range(20):
            with trio.CancelScope() as scope:
                (asker,) = start_askers(nursery, track, sequence)
                scope.cancel()
                await requests.receive()
            assert scope.cancelled_caught
            request = await requests.receive()
            assert request.sequence == sequence
            request.missing()
            await wait_all_tasks_blocked()
            assert asker.answers == [Missing(sequence + 1)]


async def test_several_tasks_may_receive(nursery: trio.Nursery) -> None:
    track = make_track()
    seen: list[int] = []

    async def answer() -> None:
        async for request in requests:
            with request:
                await trio.lowlevel.checkpoint()
                seen.append(request.sequence)
                request.missing()

    requests = track.requests()
    async with trio.open_nursery() as workers:
        for _ in range(3):
            workers.start_soon(answer)
        async with trio.open_nursery() as askers:
            start_askers(askers, track, *range(20))
        assert sorted(seen) == list(range(20))
        workers.cancel_scope.cancel()
    requests.close()


# Withdrawn


async def test_a_request_that_was_not_taken_goes_with_who_waits(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 7)
        await wait_all_tasks_blocked()
        assert requests.statistics().waiting == 1
        asker.scope.cancel()
        await wait_all_tasks_blocked()
        assert requests.statistics().waiting == 0
        with pytest.raises(trio.WouldBlock):
            requests.receive_nowait()


async def test_a_request_is_withdrawn_when_nobody_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests() as requests:
        askers = start_askers(nursery, track, 7, 7)
        request = await requests.receive()
        askers[0].scope.cancel()
        await trio.sleep(5)
        assert not request.withdrawn
        askers[1].scope.cancel()
        await wait_all_tasks_blocked()
        assert not request.withdrawn
        began = trio.current_time()
        await request.wait_withdrawn()
        assert trio.current_time() == began + 1.0
        assert request.withdrawn
        # Who comes now causes a new request, and is not harmed by the end of the old one.
        (late,) = start_askers(nursery, track, 7)
        again = await requests.receive()
        assert again.sequence == 7
        assert request.withdrawn
        group = request.accept()
        with pytest.raises(trio.BrokenResourceError):
            group.write_frame(b"too late")
        again.missing()
        await wait_all_tasks_blocked()
        assert late.answers == [Missing(8)]
        assert requests.statistics().unanswered == 0


async def test_the_end_of_a_withdrawn_request_harms_nobody(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 7)
        with await requests.receive() as request:
            asker.scope.cancel()
            await request.wait_withdrawn()
        (early,) = start_askers(nursery, track, 7)
        again = await requests.receive()
        with suppress(KeyError), request:
            raise KeyError
        (late,) = start_askers(nursery, track, 7)
        await wait_all_tasks_blocked()
        again.accept().finish()
        await wait_all_tasks_blocked()
        assert early.answers == late.answers == [[]]


async def test_an_answer_between_poll_and_wait_is_not_overlooked(nursery: trio.Nursery) -> None:
    track = make_track()
    assert track.source is None
    with track.requests() as requests:
        start_askers(nursery, track, *range(5))
        taken = {(request := await requests.receive()).sequence: request for _ in range(5)}
        waits = []
        for sequence in range(5):
            pending = track.source.poll_group(sequence)
            assert isinstance(pending, Pending)
            waits.append(pending.wait)
        taken[0].missing()
        taken[1].fail()
        taken[2].accept().finish()
        group = taken[3].accept()
        group.write_frame(b"on its way")
        with trio.fail_after(1):
            for wait in waits[:4]:
                await wait()
        assert requests.statistics().waiting == 0
        group.finish()
        nursery.start_soon(waits[4])
        await wait_all_tasks_blocked()
        requests.close()
        with trio.fail_after(1):
            await waits[4]()


async def test_who_asks_again_at_once_joins_the_request(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 7, priority=1)
        request = await requests.receive()
        nursery.start_soon(request.wait_withdrawn)
        for priority in range(2, 20):  # as an update of a subscription does
            asker.scope.cancel()
            (asker,) = start_askers(nursery, track, 7, priority=priority)
            await trio.sleep(0.9)
            assert not request.withdrawn
            assert request.priority == priority
        request.missing()
        await wait_all_tasks_blocked()
        assert asker.answers == [Missing(8)]
        nursery.cancel_scope.cancel()


async def test_a_group_is_given_up_when_nobody_reads_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests(buffer_bytes=1000) as requests:
        (asker,) = start_askers(nursery, track, 7)
        request = await requests.receive()
        group = request.accept()
        group.write_frame(bytes(600))
        await trio.sleep(3)
        group.write_frame(bytes(600))  # somebody reads it
        assert not request.withdrawn
        asker.scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever(group)
        assert request.withdrawn
        await request.wait_withdrawn()
        with pytest.raises(trio.BrokenResourceError):
            group.write_frame(b"")
        group.finish()
        assert requests.statistics().writing == 0
        assert requests.statistics().cached_bytes == 0  # it is not all there


async def send_for_ever(group: ReplayWriter) -> None:
    while True:
        await group.send_frame(bytes(600))


# Answers


async def test_missing_is_this_one_or_a_range(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        one, several = start_askers(nursery, track, 7, 20)
        for _ in range(2):
            with await requests.receive() as request:
                if request.sequence == 7:
                    request.missing()
                else:
                    with pytest.raises(ValueError, match="above 20, got 20"):
                        request.missing(20)
                    request.missing(40)
        await wait_all_tasks_blocked()
        assert one.answers == [Missing(8)]
        assert several.answers == [Missing(40)]
        assert await ask(track.source, 39) == Missing(40)


async def test_what_was_missing_is_asked_for_again_later(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests() as requests:
        start_askers(nursery, track, 7)
        (await requests.receive()).missing()
        await trio.sleep(0.5)
        assert await ask(track.source, 7) == Missing(8)
        await trio.sleep(0.6)
        (asker,) = start_askers(nursery, track, 7)
        with (await requests.receive()).accept() as group:
            group.write_frame(b"here after all")
        await wait_all_tasks_blocked()
        assert asker.answers == [[b"here after all"]]


async def test_fail_has_a_code(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        asker, other = start_askers(nursery, track, 7, 7)
        request = await requests.receive()
        with pytest.raises(ValueError, match="code other than 0"):
            request.fail(0)
        request.fail(77)
        await wait_all_tasks_blocked()
        assert asker.code() == other.code() == 77


async def test_who_asks_after_a_failure_causes_another_try(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests() as requests:
        start_askers(nursery, track, 7)
        (await requests.receive()).fail(77)
        await trio.sleep(0.1)
        (asker,) = start_askers(nursery, track, 7)
        (await requests.receive()).accept().finish()
        await wait_all_tasks_blocked()
        assert asker.answers == [[]]


async def test_retry_asks_again_later(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 7)
        request = await requests.receive()
        for bad in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="number of seconds"):
                request.retry(bad)
        began = trio.current_time()
        for number in range(1, 4):
            request.retry(after=30)
            request = await requests.receive()
            assert trio.current_time() == began + 30 * number
        assert asker.answers == []
        request.missing()
        await wait_all_tasks_blocked()
        assert asker.answers == [Missing(8)]


async def test_retry_is_off_when_nobody_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with track.requests() as requests:
        early, late = start_askers(nursery, track, 7, 8)
        for _ in range(2):
            request = await requests.receive()
            if request.sequence == 7:
                early.scope.cancel()
                await wait_all_tasks_blocked()
            request.retry(after=1)
        await wait_all_tasks_blocked()
        late.scope.cancel()
        with trio.move_on_after(10):
            await requests.receive()
        assert requests.statistics().waiting == requests.statistics().unanswered == 0


async def test_a_request_is_answered_once(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        start_askers(nursery, track, 7)
        with await requests.receive() as request:
            request.missing()
            for again in (request.accept, request.missing, request.fail):
                with pytest.raises(ProtocolError, match="group 7 was answered already"):
                    again()
            with pytest.raises(ProtocolError, match="group 7 was answered already"):
                request.retry(1)


async def test_an_answer_is_shared_with_those_who_ask_later(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests(cache_bytes=2000) as requests:
        for sequence in (1, 2):
            start_askers(nursery, track, sequence)
            with (await requests.receive()).accept() as group:
                group.write_frame(b"%d" % sequence)
        await wait_all_tasks_blocked()
        assert await ask(track.source, 1) == [b"1"]
        start_askers(nursery, track, 3)
        with (await requests.receive()).accept() as group:
            group.write_frame(bytes(1700))
        assert requests.statistics().cached_bytes <= 2000
        assert await ask(track.source, 1) == [b"1"]
        start_askers(nursery, track, 2)  # has been asked for least lately, and is gone
        with trio.fail_after(1):
            (await requests.receive()).missing()


# Requests that nobody answers


@pytest.mark.parametrize("how", ["exit", "exception", "cancelled", "garbage", "writer", "written"])
async def test_what_is_dropped_fails(
    how: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    track = make_track()

    async def answer() -> None:
        request = await requests.receive()
        if how == "garbage":
            return
        if how == "writer":
            request.accept().write_frame(b"part")
            return
        with request:
            if how == "exception":
                raise KeyError(request.sequence)
            if how == "cancelled":
                await trio.sleep_forever()
            if how == "written":
                writer = request.accept()
                writer.write_frame(b"part")
                nursery.start_soon(keep, writer)

    async def keep(_writer: object) -> None:
        await trio.sleep_forever()

    with track.requests() as requests:
        asker, other = start_askers(nursery, track, 7, 7)
        async with trio.open_nursery() as application:
            try:
                async with trio.open_nursery() as task:
                    task.start_soon(answer)
                    await wait_all_tasks_blocked()
                    task.cancel_scope.cancel()
            except* KeyError:
                pass
            application.cancel_scope.cancel()
        gc.collect()
        with trio.fail_after(1):
            while not other.answers:
                await trio.lowlevel.checkpoint()
        assert asker.code() == other.code() == StreamCode.CANCEL
        assert requests.statistics().unanswered == requests.statistics().writing == 0
        if not how.startswith("writ"):
            assert "b/t: the request for group 7 was not answered" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_group_that_is_not_written_to_its_end_is_aborted(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 7)
        with suppress(KeyError), (await requests.receive()).accept() as group:
            group.write_frame(b"part")
            raise KeyError
        with pytest.raises(ProtocolError, match="group 7 takes no more frames"):
            group.write_frame(b"more")
        await wait_all_tasks_blocked()
        assert asker.code() == StreamCode.INTERNAL
        (asker,) = start_askers(nursery, track, 8)
        with await requests.receive() as request:
            group = request.accept()
            group.write_frame(b"part")
            group.abort(99)
            group.finish()
        await wait_all_tasks_blocked()
        assert asker.code() == 99


async def test_closing_the_channel_fails_everything(nursery: trio.Nursery) -> None:
    track = make_track()
    requests = track.requests(max_unanswered=2)
    held, writing = start_askers(nursery, track, 1, 2)
    await wait_all_tasks_blocked()
    for _ in range(2):
        request = await requests.receive()
        if request.sequence == 2:
            group = request.accept()
            group.write_frame(b"part")
        else:
            kept = request
    (waiting,) = start_askers(nursery, track, 3)
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as receivers:
        receivers.start_soon(assert_receive_closes, requests)
        await wait_all_tasks_blocked()
        await requests.aclose()
    await wait_all_tasks_blocked()
    assert held.code() == writing.code() == waiting.code() == StreamCode.CANCEL
    assert kept.withdrawn
    kept.missing()  # nobody hears it
    with pytest.raises(trio.BrokenResourceError):
        group.write_frame(b"more")
    late = Asker(track.source)
    await late.run(1)
    assert late.code() == StreamCode.CANCEL
    with pytest.raises(trio.ClosedResourceError):
        requests.receive_nowait()
    requests.close()


async def assert_receive_closes(requests: trio.abc.ReceiveChannel[object]) -> None:
    await requests.receive()
    with pytest.raises(trio.ClosedResourceError):
        await requests.receive()


async def test_a_channel_that_is_forgotten_is_closed(nursery: trio.Nursery) -> None:
    track = make_track()
    requests = track.requests()
    (asker,) = start_askers(nursery, track, 1)
    await wait_all_tasks_blocked()
    del requests
    gc.collect()
    with trio.fail_after(1):
        while not asker.answers:
            await trio.lowlevel.checkpoint()
    assert asker.code() == StreamCode.CANCEL
    track.requests().close()


async def test_what_is_collected_in_another_thread_fails_as_well(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        (asker,) = start_askers(nursery, track, 1)
        held = [await requests.receive()]
        await trio.to_thread.run_sync(held.clear)
        with trio.fail_after(1):
            while not asker.answers:
                await trio.lowlevel.checkpoint()
        assert asker.code() == StreamCode.CANCEL


def test_what_is_collected_after_the_run_is_over_does_no_harm() -> None:
    async def main() -> list[object]:
        track = make_track()
        requests = track.requests()
        async with trio.open_nursery() as nursery:
            start_askers(nursery, track, 1)
            request = await requests.receive()
            nursery.cancel_scope.cancel()
        return [requests, request, request.accept()]

    trio.run(main).clear()
    gc.collect()


# The track


async def test_a_track_has_one_source_of_history() -> None:
    broadcast = Origin().create_broadcast("b")
    stored = broadcast.create_track("stored")
    stored.source = MemoryStore().track("b", "stored")
    with pytest.raises(ProtocolError, match="b/stored has a store"):
        stored.requests()
    track = broadcast.create_track("t")
    with track.requests():
        with pytest.raises(ProtocolError, match="b/t are being received already"):
            track.requests()
        source = track.source
    with pytest.raises(ValueError, match="buffer_bytes"):
        track.requests(buffer_bytes=0)
    with track.requests():
        assert track.source is source  # who subscribed before goes on with it
        assert source is not None
        bounds = source.bounds()
        assert bounds == Bounds(None, 0, bounds.epoch)


async def test_a_track_may_begin_above_0() -> None:
    track = make_track(40)
    assert track.statistics().next_sequence == 40
    with pytest.raises(ProtocolError, match="below 40"):
        track.create_group(39)
    assert track.append_group().sequence == 40
    with pytest.raises(ProtocolError, match="before the first group"):
        track.log.begin_at(50)
    with pytest.raises(ValueError, match="expected a sequence"):
        make_track(-1)


async def test_errors_are_raised_anew(nursery: trio.Nursery) -> None:
    track = make_track()
    with track.requests() as requests:
        askers = start_askers(nursery, track, 7, 7)
        (await requests.receive()).fail_with(ReplayError("try again", code=5))
        await wait_all_tasks_blocked()
        errors = [answer for asker in askers for answer in asker.answers]
        assert errors[0] is not errors[1]
        assert all(isinstance(error, ReplayError) and error.retryable for error in errors)
