"""Groups larger than memory flow from the application to whoever reads them."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from request_tools import Asker, make_track, start_askers
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import ReplayError
from moqtrio.model import ReplayRequest, ReplayRequests, ReplayWriter, Track
from moqtrio.model.source import End, GroupReader, Pending, Ready

BUFFER = 4000
FRAMES = [b"%d:" % index + bytes(500) for index in range(100)]


def open_requests(track: Track) -> ReplayRequests:
    return track.requests(buffer_bytes=BUFFER, cache_bytes=10 * BUFFER)


async def send(requests: ReplayRequests, *, largest: list[int] | None = None) -> None:
    """Answer one request with FRAMES."""
    with await requests.receive() as request, request.accept() as group:
        for payload in FRAMES:
            await group.send_frame(payload)
            if largest is not None:
                largest.append(requests.statistics().writing_bytes)


def fill(group: ReplayWriter, payloads: list[bytes]) -> list[bytes]:
    """Write as many as there is room for."""
    for index, payload in enumerate(payloads):
        try:
            group.write_frame(payload)
        except trio.WouldBlock:
            return payloads[:index]
    return payloads


async def test_a_group_larger_than_the_buffer_flows_through(nursery: trio.Nursery) -> None:
    track = make_track()
    largest: list[int] = []
    with open_requests(track) as requests:
        askers = start_askers(nursery, track, *[7] * 10)
        await send(requests, largest=largest)
        await wait_all_tasks_blocked()
        assert [asker.answers for asker in askers] == [[FRAMES]] * 10
        assert BUFFER / 2 < max(largest) <= BUFFER + 1000
        assert requests.statistics().cached_bytes == 0


async def test_the_writer_keeps_step_with_a_slow_reader(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with open_requests(track) as requests:
        asker = Asker(track.source)
        nursery.start_soon(asker.run, 7, 0, 60.0)
        began = trio.current_time()
        await send(requests)
        assert trio.current_time() - began > 60 * (len(FRAMES) - 2 * BUFFER / 500)
        await trio.sleep(60 * len(FRAMES))
        assert asker.answers == [FRAMES]


async def test_write_frame_does_not_wait(nursery: trio.Nursery) -> None:
    track = make_track()
    with open_requests(track) as requests:
        (asker,) = start_askers(nursery, track, 7)
        group = (await requests.receive()).accept()
        written = fill(group, FRAMES)  # nobody has had a chance to read
        assert BUFFER - 1000 < sum(map(len, written)) <= BUFFER
        await group.wait_ready()
        group.write_frame(b"last")
        group.finish()
        await wait_all_tasks_blocked()
        assert asker.answers == [[*written, b"last"]]


async def test_frames_are_bounded_whatever_their_size(nursery: trio.Nursery) -> None:
    track = make_track()
    with open_requests(track) as requests:
        start_askers(nursery, track, 7)
        group = (await requests.receive()).accept()
        assert len(fill(group, [b""] * 100)) < 100
        group.finish()


async def test_a_frame_larger_than_the_buffer_is_possible(nursery: trio.Nursery) -> None:
    track = make_track()
    with open_requests(track) as requests:
        (asker,) = start_askers(nursery, track, 7)
        with (await requests.receive()).accept() as group:
            for _ in range(3):
                await group.send_frame(bytes(3 * BUFFER))
        await wait_all_tasks_blocked()
        assert asker.answers == [[bytes(3 * BUFFER)] * 3]


async def test_what_cannot_be_sent_is_refused(nursery: trio.Nursery) -> None:
    track = make_track()
    with open_requests(track) as requests:
        start_askers(nursery, track, 7)
        with (await requests.receive()).accept() as group:
            with pytest.raises(ValueError, match=r"larger than this track allows"):
                group.write_frame(bytes(track.log.limits.max_frame_bytes + 1))
            for timestamp_us in (-1, 2**61):
                with pytest.raises(ValueError, match=r"expected a timestamp"):
                    group.write_frame(b"", timestamp_us)


async def test_who_comes_when_the_beginning_is_gone_causes_a_new_request(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with open_requests(track) as requests:
        early, late = Asker(track.source), Asker(track.source)
        nursery.start_soon(early.run, 7, 0, 1.0)
        nursery.start_soon(send, requests)
        await trio.sleep(20)
        nursery.start_soon(late.run, 7)
        with trio.fail_after(1):
            await send(requests)
        await wait_all_tasks_blocked()
        assert late.answers == [FRAMES]
        await trio.sleep(200)
        assert early.answers == [FRAMES]


async def test_who_comes_when_a_group_is_given_up_hears_nothing_of_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with open_requests(track) as requests:
        (early,) = start_askers(nursery, track, 7)
        group = (await requests.receive()).accept()
        await wait_all_tasks_blocked()
        early.scope.cancel()
        await trio.sleep(2)
        with pytest.raises(trio.BrokenResourceError):
            group.write_frame(b"for nobody")
        (late,) = start_askers(nursery, track, 7)
        await send(requests)
        await wait_all_tasks_blocked()
        assert late.answers == [FRAMES]


async def test_a_slow_reader_does_not_keep_another_waiting_for_long(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with open_requests(track) as requests:
        slow, fast = Asker(track.source), Asker(track.source)
        nursery.start_soon(slow.run, 7, 0, 1.0)
        nursery.start_soon(fast.run, 7)
        began = trio.current_time()
        await send(requests)
        await wait_all_tasks_blocked()
        assert fast.answers == [FRAMES]
        assert 4 < trio.current_time() - began < 7
        # The slow one goes on where it was, with an answer of its own.
        await send(requests)
        await trio.sleep(200)
        assert slow.answers == [FRAMES]


@pytest.mark.parametrize(
    "begin", [2.0**20 - part for part in (0.1, 0.7, 1 / 3, 1.3, 2.9, 3.3, 4.1)]
)
async def test_a_reader_that_never_reads_does_not_stop_the_others(
    begin: float, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await trio.sleep(begin)  # where digits of the time are lost within the next seconds
    track = make_track()
    with open_requests(track) as requests:
        (asker,) = start_askers(nursery, track, 7)
        request = await requests.receive()
        group = request.accept()
        assert track.source is not None
        stuck = track.source.poll_group(7)
        assert isinstance(stuck, Ready)
        with trio.fail_after(6):
            for payload in FRAMES:
                await group.send_frame(payload)
        group.finish()
        await wait_all_tasks_blocked()
        assert asker.answers == [FRAMES]
        assert isinstance(stuck.value.poll_frames(100), Pending)  # it would have to ask again
        stuck.value.close()


async def read_on(reader: GroupReader) -> list[bytes]:
    """What there is to come."""
    payloads: list[bytes] = []
    while not isinstance(answer := reader.poll_frames(1), End):
        if isinstance(answer, Pending):
            await answer.wait()
        else:
            payloads += [frame.payload for frame in answer.value]
    return payloads


async def test_a_failure_worth_another_try_goes_on_where_it_was(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with open_requests(track) as requests:
        start_askers(nursery, track, 7)
        request = await requests.receive()
        group = request.accept()
        assert track.source is not None
        found = track.source.poll_group(7)
        assert isinstance(found, Ready)
        reader = found.value
        for payload in FRAMES[:3]:
            group.write_frame(payload)
            assert isinstance(reader.poll_frames(1), Ready)
        request.fail_with(ReplayError("the disk is busy"))
        with pytest.raises(ReplayError, match="the disk is busy") as caught:
            reader.poll_frames(1)
        assert caught.value.retryable
        nursery.start_soon(send, requests)
        assert await read_on(reader) == FRAMES[3:]
        reader.close()
        reader.close()


@pytest.mark.parametrize("how", ["missing", "shorter"])
async def test_a_group_that_changed_meanwhile_does_not_end_like_a_whole_one(
    how: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    track = make_track()
    with open_requests(track) as requests:
        start_askers(nursery, track, 7)
        request = await requests.receive()
        group = request.accept()
        assert track.source is not None
        found = track.source.poll_group(7)
        assert isinstance(found, Ready)
        group.write_frame(b"one")
        group.write_frame(b"two")
        assert isinstance(found.value.poll_frames(100), Ready)
        request.fail_with(ReplayError("the disk is busy"))
        with pytest.raises(ReplayError, match="busy"):
            found.value.poll_frames(1)

        async def answer() -> None:
            request = await requests.receive()
            if how == "missing":
                request.missing()
            else:
                with request.accept() as again:
                    again.write_frame(b"one")

        nursery.start_soon(answer)
        with pytest.raises(ReplayError, match="after 2 of its frames were sent") as caught:
            await read_on(found.value)
        assert not caught.value.retryable


async def test_all_groups_together_are_bounded_and_who_reads_is_served(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Hundreds who ask for groups and never read them."""
    track = make_track(1000)
    requests = track.requests(total_bytes=2_000_000, cache_bytes=0)
    largest = 0

    async def answer() -> None:
        nonlocal largest
        while True:
            request = await requests.receive()
            nursery.start_soon(write, request)

    async def write(request: ReplayRequest) -> None:
        nonlocal largest
        with suppress(trio.BrokenResourceError), request.accept() as group:
            for _ in range(10):
                await group.send_frame(bytes(50_000))
                largest = max(largest, requests.statistics().total_bytes)

    readers = []

    async def neglect(sequence: int) -> None:
        assert track.source is not None
        while isinstance(found := track.source.poll_group(sequence), Pending):
            await found.wait()
        assert isinstance(found, Ready)
        readers.append(found.value)

    nursery.start_soon(answer)
    for sequence in range(300):
        nursery.start_soon(neglect, sequence)
    await trio.sleep(2)
    assert len(readers) > 30
    honest = start_askers(nursery, track, 999)
    await trio.sleep(20)
    assert honest[0].answers == [[bytes(50_000)] * 10]
    assert largest <= 2_000_000 + 300 * 60_000, "one frame for each"
    assert requests.statistics().total_bytes <= 2_100_000, "nobody waits for those who do not read"
    for reader in readers:
        reader.close()
    await trio.sleep(10)
    assert requests.statistics().total_bytes == 0
