"""A subscriber whose publisher is wrong, slow or malicious, byte by byte."""

from __future__ import annotations

import tracemalloc

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from session_pairs import (
    RawPublisher,
    assert_session_works,
    raw_publisher,
    reset_code,
    see,
    see_all,
    stop_code,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import (
    DecodeError,
    ProtocolError,
    RequestError,
    SessionClosed,
    SessionCode,
    StreamCode,
)
from moqtrio.session import Gap, SessionSettings
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, encode_varint
from moqtrio.wire.lite import (
    Setup,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeStart,
    UniStreamType,
)

END_OF_SEQUENCES = 2**62


# Responses


async def check_refused(raw: RawPublisher, caplog: pytest.LogCaptureFixture) -> None:
    """The subscription has ended with MALFORMED and a line in the log, the session goes on."""
    assert stop_code(raw.control.send) == StreamCode.MALFORMED
    assert reset_code(raw.control.receive) == StreamCode.MALFORMED
    assert "b/t: bad response" in caplog.text
    await assert_session_works(raw)


WRONG: dict[str, tuple[list[bytes], type[Exception]]] = {
    "drop before ok": ([SubscribeDrop(0, 1, 0).encode(LITE_05)], ProtocolError),
    "ok twice": (
        [SubscribeStart(5).encode(LITE_05), SubscribeStart(5).encode(LITE_05)],
        ProtocolError,
    ),
    "end twice": (
        [SubscribeEnd(5).encode(LITE_05), SubscribeEnd(6).encode(LITE_05)],
        trio.EndOfChannel,
    ),
    "ok below the request": ([SubscribeStart(4).encode(LITE_05)], ProtocolError),
    "an unknown type": ([b"\x03\x01\x05"], DecodeError),
    "a length that is too short": ([b"\x02\x02\x05\x05\x00"], DecodeError),
    "a length that is too long": ([b"\x00\x02\x05\x05"], DecodeError),
    "a length without bound": ([b"\x00" + encode_varint(2**61)], DecodeError),
    "a drop that ends before it begins": (
        [SubscribeStart(5).encode(LITE_05), b"\x02\x03\x07\x06\x00"],
        DecodeError,
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_response_ends_the_subscription_and_nothing_else(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    responses, kind = WRONG[name]
    async with raw_publisher(start=5) as raw:
        await raw.respond(*responses)
        await check_refused(raw, caplog)
        for _ in range(2):
            with pytest.raises(kind):
                await raw.subscription.receive()


@pytest.mark.parametrize(
    "response", [SubscribeStart(70), SubscribeEnd(70_000), SubscribeDrop(70, 2**40, 53)]
)
async def test_a_response_that_is_cut_short(
    response: SubscribeStart | SubscribeEnd | SubscribeDrop, caplog: pytest.LogCaptureFixture
) -> None:
    whole = response.encode(LITE_05)
    for cut in range(1, len(whole)):
        caplog.clear()
        async with raw_publisher(start=5) as raw:
            before = [] if isinstance(response, SubscribeStart) else [SubscribeStart(5)]
            await raw.respond(*before, whole[:cut])
            with pytest.raises(trio.WouldBlock):
                raw.subscription.receive_nowait()
            raw.control.send.finish()
            await wait_all_tasks_blocked()
            with pytest.raises(DecodeError):
                await raw.subscription.receive()
            assert "bad response" in caplog.text
            await assert_session_works(raw)


async def test_responses_byte_by_byte() -> None:
    async with raw_publisher(start=0) as raw:
        for response in (SubscribeStart(0), SubscribeDrop(0, 300, 5), SubscribeEnd(301)):
            for byte in response.encode(LITE_05):
                await raw.respond(bytes([byte]))
        await raw.group(300, b"x")
        assert await see_all(raw.subscription) == [Gap(0, 300, 5), (300, [b"x"])]


async def test_a_publisher_that_refuses() -> None:
    async with raw_publisher(start=0) as raw:
        raw.control.send.reset(StreamCode.NO_CAPACITY)
        with pytest.raises(RequestError, match=r"b/t: no capacity \(code 48\)") as caught:
            await raw.subscription.receive()
        assert caught.value.code == StreamCode.NO_CAPACITY
        await assert_session_works(raw)


async def test_a_fin_without_a_word_is_the_end() -> None:
    for order in ("sequence", "arrival"):
        async with raw_publisher(start=0, order=order) as raw:
            raw.control.send.finish()
            with trio.fail_after(1):
                assert await see_all(raw.subscription) == []


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize("end", [None, 9])
async def test_groups_without_a_start_are_an_error_and_not_a_wait_for_ever(
    end: int | None, order: str, autojump_clock: MockClock
) -> None:
    async with raw_publisher(start=0, end=end, order=order) as raw:
        await raw.group(0, b"x")
        raw.control.send.finish()
        with trio.fail_after(60), pytest.raises(ProtocolError, match="SUBSCRIBE_OK never did"):
            await see_all(raw.subscription)


async def test_drops_that_came_before_the_fin_are_told(autojump_clock: MockClock) -> None:
    async with raw_publisher(start=0, gap_timeout=1.0) as raw:
        await raw.respond(SubscribeStart(0), SubscribeDrop(2, 5, 7))
        raw.control.send.finish()
        assert await see_all(raw.subscription) == [Gap(0, 2, 2), Gap(2, 5, 7)]


async def test_groups_that_were_promised_and_never_came_are_a_gap(
    autojump_clock: MockClock,
) -> None:
    for order in ("sequence", "arrival"):
        async with raw_publisher(start=0, order=order, gap_timeout=2.0) as raw:
            await raw.respond(SubscribeStart(0))
            await raw.group(1, b"x")
            await raw.respond(SubscribeEnd(4))
            raw.control.send.finish()
            before = trio.current_time()
            gaps = [Gap(0, 1, 2), Gap(2, 4, 2)]
            seen = await see_all(raw.subscription)
            assert sorted(seen, key=repr) == sorted([*gaps, (1, [b"x"])], key=repr)
            assert 2 <= trio.current_time() - before <= 4.1


async def test_each_late_group_has_the_whole_timeout(autojump_clock: MockClock) -> None:
    async with raw_publisher(start=0, gap_timeout=2.0) as raw:
        await raw.respond(SubscribeStart(0))
        await raw.group(1, b"one")
        with trio.move_on_after(1.5):
            await raw.subscription.receive()
        await raw.group(0, b"zero")
        assert [await see(raw.subscription) for _ in range(2)] == [(0, [b"zero"]), (1, [b"one"])]
        await raw.group(3, b"three")
        with trio.move_on_after(1.5) as scope:
            await raw.subscription.receive()
        assert scope.cancelled_caught
        await raw.group(2, b"two")
        assert await see(raw.subscription) == (2, [b"two"])


# Ranges that lie


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_a_drop_of_everything_costs_nothing(order: str) -> None:
    async with raw_publisher(start=0, order=order) as raw:
        await raw.respond(SubscribeStart(0))
        tracemalloc.start()
        await raw.respond(*[SubscribeDrop(0, END_OF_SEQUENCES, 0)] * 1000)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert used < 2**20
        assert await see(raw.subscription) == Gap(0, END_OF_SEQUENCES, 0)
        await raw.respond(SubscribeEnd(END_OF_SEQUENCES - 1))
        assert await see_all(raw.subscription) == []


async def test_a_gap_is_never_beyond_the_end() -> None:
    async with raw_publisher(start=0) as raw:
        await raw.respond(SubscribeStart(0), SubscribeEnd(5), SubscribeDrop(3, 100, 7))
        for sequence in range(3):
            await raw.group(sequence)
        assert await see_all(raw.subscription) == [(0, []), (1, []), (2, []), Gap(3, 5, 7)]


async def test_an_end_below_what_came_is_the_end() -> None:
    async with raw_publisher(start=0) as raw:
        await raw.respond(SubscribeStart(0))
        for sequence in range(5):
            await raw.group(sequence)
        assert [await see(raw.subscription) for _ in range(3)] == [(0, []), (1, []), (2, [])]
        await raw.respond(SubscribeEnd(1))
        assert await see_all(raw.subscription) == []
        await assert_session_works(raw)


async def test_drops_that_overlap_groups_and_each_other_are_told_once() -> None:
    drops = [SubscribeDrop(0, 3, 0), SubscribeDrop(2, 6, 5), SubscribeDrop(1, 10, 7)]
    async with raw_publisher(start=0, end=12) as raw:
        await raw.respond(SubscribeStart(0))
        await raw.group(4, b"four")  # it came although it will be said to be dropped
        await raw.respond(*drops)
        await raw.group(10)
        await raw.group(11)
        assert await see_all(raw.subscription) == [
            Gap(0, 3, 0),
            Gap(3, 4, 7),
            (4, [b"four"]),
            Gap(5, 10, 7),
            (10, []),
            (11, []),
        ]
    async with raw_publisher(start=0, end=12, order="arrival") as raw:
        await raw.respond(SubscribeStart(0))
        await raw.group(4, b"four")
        await raw.respond(*drops)
        await raw.group(10)
        await raw.group(11)
        assert await see_all(raw.subscription) == [
            (4, [b"four"]),
            Gap(0, 3, 0),
            Gap(3, 4, 5),
            Gap(5, 6, 5),
            Gap(6, 10, 7),
            (10, []),
            (11, []),
        ]


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_drops_nobody_reads_are_bounded(
    order: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moqtrio.session.subscription._MAX_WAITING", 100)
    async with raw_publisher(start=0, order=order) as raw:
        await raw.respond(SubscribeStart(0))
        drops = [SubscribeDrop(n, n + 1, n) for n in range(2, 400, 2)]
        await raw.respond(b"".join(drop.encode(LITE_05) for drop in drops))
        assert len(raw.subscription._dropped) + len(raw.subscription._queue) <= 100
        assert stop_code(raw.control.send) == StreamCode.MALFORMED
        assert "more than 100 drops" in caplog.text


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_groups_nobody_reads_are_bounded_though_their_streams_are_over(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moqtrio.session.subscription._MAX_WAITING", 100)
    transport = TransportSettings(max_streams_uni=4)
    async with raw_publisher(start=0, order=order, transport=transport) as raw:
        await raw.respond(SubscribeStart(0))
        for sequence in range(1, 200):
            stream = await raw.connection.open_uni()
            # In two pieces: then the whole, small group leaves the transport with its header.
            await stream.send_all(b"\x00")
            await wait_all_tasks_blocked()
            await stream.send_all(b"\x03\x00" + encode_varint(sequence + 64) + b"\x00\x00")
            stream.finish()
            await wait_all_tasks_blocked()
        assert len(raw.subscription._arrived) + len(raw.subscription._queue) == 100


@given(
    st.lists(
        st.one_of(
            st.builds(SubscribeStart, st.integers(0, 6)),
            st.builds(SubscribeEnd, st.integers(0, 12)),
            st.builds(
                lambda start, size, code: SubscribeDrop(start, start + size, code),
                st.integers(0, 10),
                st.integers(1, 5),
                st.integers(0, 5),
            ),
            st.integers(0, 11),
        ),
        max_size=14,
    ),
    st.sampled_from(["sequence", "arrival"]),
    st.one_of(st.none(), st.integers(1, 10)),
)
@settings(max_examples=150)
def test_whatever_is_said_each_sequence_is_told_once(
    plan: list[SubscribeStart | SubscribeEnd | SubscribeDrop | int], order: str, end: int | None
) -> None:
    async def main() -> None:
        async with raw_publisher(start=0, end=end, order=order, gap_timeout=1.0) as raw:
            for step in plan:
                if isinstance(step, int):
                    await raw.group(step, b"%d" % step)
                elif not stop_code(raw.control.send):
                    await raw.respond(step)
            raw.control.send.finish()
            told: list[int] = []
            try:
                with trio.fail_after(60):
                    seen = await see_all(raw.subscription)
            except ProtocolError:
                return
            for item in seen:
                told += range(item.start, item.end) if isinstance(item, Gap) else [item[0]]
            assert len(told) == len(set(told))
            if order == "sequence":
                assert told == sorted(told)
                ends = [last for last in (end, raw.subscription.final) if last is not None]
                start = raw.subscription.start
                if ends and start is not None:
                    assert told == list(range(start, min(ends)))

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Group streams


async def test_a_group_byte_by_byte() -> None:
    for length in range(1, 4):
        async with raw_publisher(start=0) as raw:
            await raw.respond(SubscribeStart(0))
            stream = await raw.connection.open_uni()
            whole = b"\x00\x03\x00\x40\x00" + b"\x04\x03abc" + b"\x00\x00" + b"\x01\x01d"
            for at in range(0, len(whole), length):
                await stream.send_all(whole[at : at + length])
                await wait_all_tasks_blocked()
            stream.finish()
            assert await see(raw.subscription) == (0, [b"abc", b"", b"d"])


async def test_groups_for_nobody_are_stopped() -> None:
    async with raw_publisher(start=0) as raw:
        for stranger in (b"\x00\x02\x07\x00", b"\x00\x10" + b"\xff" * 16):
            stream = await raw.uni(stranger + b"\x00\x01x", finish=False)
            assert stop_code(stream) == StreamCode.CANCEL
        await assert_session_works(raw)
        await raw.respond(SubscribeStart(0))
        await raw.group(0, b"mine")
        assert await see(raw.subscription) == (0, [b"mine"])


async def test_a_group_that_comes_twice_comes_once() -> None:
    for order in ("sequence", "arrival"):
        async with raw_publisher(start=0, order=order) as raw:
            await raw.respond(SubscribeStart(0))
            await raw.group(0, b"first")
            again = await raw.group(0, b"second", finish=False)
            assert stop_code(again) == StreamCode.OLD
            assert await see(raw.subscription) == (0, [b"first"])
            after = await raw.group(0, b"third", finish=False)
            assert stop_code(after) == StreamCode.OLD
            await raw.respond(SubscribeEnd(1))
            assert await see_all(raw.subscription) == []


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_groups_below_the_start_are_stopped_before_and_after_it_is_known(order: str) -> None:
    async with raw_publisher(start=0, end=6, order=order) as raw:
        early = await raw.group(3, b"early", finish=False)
        await raw.group(5, b"five")
        await raw.respond(SubscribeStart(5))
        late = await raw.group(4, b"late", finish=False)
        assert [stop_code(early), stop_code(late)] == [StreamCode.OLD] * 2
        assert await see_all(raw.subscription) == [(5, [b"five"])]


@pytest.mark.parametrize("order", ["sequence", "arrival"])
async def test_groups_that_overtake_the_start_wait_for_it(order: str) -> None:
    """Streams do not come in the order they were sent in: who has an item knows the start."""
    async with raw_publisher(start=0, end=2, order=order) as raw:
        await raw.group(1, b"one")
        with pytest.raises(trio.WouldBlock):
            raw.subscription.receive_nowait()
        await raw.respond(SubscribeStart(0))
        assert raw.subscription.start == 0
        await raw.group(0, b"zero")
        seen = await see_all(raw.subscription)
        assert sorted(seen, key=str) == [(0, [b"zero"]), (1, [b"one"])]


async def test_groups_beyond_an_end_that_was_lowered_are_stopped() -> None:
    async with raw_publisher(start=0) as raw:
        await raw.respond(SubscribeStart(0))
        before = await raw.group(3, b"three", finish=False)
        await raw.subscription.update(end=2)
        after = await raw.group(2, b"two", finish=False)
        assert [stop_code(before), stop_code(after)] == [StreamCode.CANCEL] * 2
        await raw.group(0, b"zero")
        await raw.group(1, b"one")
        assert await see_all(raw.subscription) == [(0, [b"zero"]), (1, [b"one"])]


async def test_a_start_raised_while_the_answer_is_under_way() -> None:
    async with raw_publisher(start=0) as raw:
        await raw.subscription.update(start=3, end=5)
        await raw.respond(SubscribeStart(0))
        streams = [await raw.group(n, b"%d" % n, finish=False) for n in range(4)]
        assert [stop_code(stream) for stream in streams] == [StreamCode.OLD] * 3 + [None]
        streams[3].finish()
        await raw.group(4)
        assert await see_all(raw.subscription) == [(3, [b"3"]), (4, [])]
        assert raw.subscription.start == 0


BAD_STREAMS = {
    "an unknown type": (b"\x02hello", StreamCode.CANCEL),
    "a large unknown type": (encode_varint(2**60), StreamCode.CANCEL),
    "a group header that is too long": (b"\x00\x11" + bytes(20), StreamCode.MALFORMED),
    "a group header without bound": (b"\x00" + encode_varint(2**61), StreamCode.MALFORMED),
    "a group header with more than it says": (b"\x00\x03\x00\x00\x00", StreamCode.MALFORMED),
    "a group header with less than it says": (b"\x00\x01\x00\x00", StreamCode.MALFORMED),
    "a varint beyond its header": (b"\x00\x01\xff" + bytes(9), StreamCode.MALFORMED),
    "a setup that lies": (b"\x01\x02\x05\x00", StreamCode.MALFORMED),
    "a setup without bound": (b"\x01" + encode_varint(2**40), StreamCode.MALFORMED),
}


@pytest.mark.parametrize("name", BAD_STREAMS)
async def test_a_bad_stream_is_stopped_with_a_line_in_the_log(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, code = BAD_STREAMS[name]
    caplog.set_level("INFO", "moqtrio.session")
    async with raw_publisher(start=0) as raw:
        stream = await raw.uni(data, finish=False)
        assert stop_code(stream) == code
        assert "stream" in caplog.text
        await assert_session_works(raw)


async def test_a_header_that_is_cut_short_at_every_byte(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = b"\x00\x09\x00" + encode_varint(2**40)
    setup = bytes([UniStreamType.SETUP]) + Setup(path="/p", origin=2**40).encode(LITE_05)
    async with raw_publisher(start=0) as raw:
        for whole in (group, setup):
            for cut in range(len(whole)):
                caplog.clear()
                await raw.uni(whole[:cut], finish=True)
                assert "ended within" in caplog.text
                stream = await raw.uni(whole[:cut], finish=False)
                stream.reset(7)
                await wait_all_tasks_blocked()
                assert raw.connection.statistics().streams_open <= 2
        await assert_session_works(raw)


async def test_streams_that_say_nothing_are_given_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_publisher(start=0, transport=TransportSettings(max_streams_uni=8)) as raw:
        silent = [await raw.connection.open_uni() for _ in range(7)]
        beginnings = (b"", b"\x00", b"\x00\x09", b"\x01", b"\x01\x05", b"\x40", b"\xff")
        for stream, start in zip(silent, beginnings, strict=True):
            await stream.send_all(start)
        await wait_all_tasks_blocked()
        await trio.sleep(9)
        assert [stop_code(stream) for stream in silent] == [None] * 7
        await trio.sleep(2)
        assert [stop_code(stream) for stream in silent] == [StreamCode.MALFORMED] * 7
        assert caplog.text.count("did not come") == 7
        await raw.respond(SubscribeStart(0))
        await raw.group(0, b"x")
        assert await see(raw.subscription) == (0, [b"x"])


BAD_FRAMES = {
    "too large": b"\x00" + encode_varint(101),
    "too large by far": b"\x00" + encode_varint(2**61),
    "a timestamp before time": b"\x01\x00",
    "a timestamp after time": (encode_varint(2**62 - 2) + b"\x00") * 3,
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_bad_frame_ends_its_group_alone(name: str) -> None:
    limits = SessionSettings(max_frame_bytes=100)
    async with raw_publisher(start=0, settings=limits) as raw:
        await raw.respond(SubscribeStart(0))
        bad = await raw.group(0, finish=False)
        await bad.send_all(BAD_FRAMES[name])
        await raw.group(1, b"x" * 100)
        item = await raw.subscription.receive()
        assert not isinstance(item, Gap)
        for _ in range(2):
            with pytest.raises(DecodeError):
                await item.receive()
        assert stop_code(bad) == StreamCode.MALFORMED
        assert await see(raw.subscription) == (1, [b"x" * 100])


async def test_a_group_that_is_cut_short_is_no_group() -> None:
    frames = b"\x02\x01a" + b"\x80\x00\x10\x00\x42\x00" + bytes(512)
    complete = {0, 3, len(frames)}
    async with raw_publisher(start=0) as raw:
        await raw.respond(SubscribeStart(0), SubscribeEnd(len(frames) + 1))
        for cut in range(len(frames) + 1):
            stream = await raw.group(cut, finish=False)
            await stream.send_all(frames[:cut])
            stream.finish()
            item = await raw.subscription.receive()
            assert not isinstance(item, Gap)
            assert item.sequence == cut
            if cut in complete:
                await item.read_all()
            else:
                with pytest.raises(DecodeError, match="end of the stream"):
                    await item.read_all()


# The session


async def test_a_second_setup_closes_the_session() -> None:
    async with raw_publisher(start=0) as raw:
        setup = bytes([UniStreamType.SETUP]) + Setup(path="/where").encode(LITE_05)
        await raw.uni(setup)
        assert raw.session.peer_path == "/where"
        await raw.uni(setup)
        end = await raw.connection.wait_closed()
        assert (end.code, end.remote) == (SessionCode.PROTOCOL_VIOLATION, True)
        assert "second SETUP" in end.reason
        with pytest.raises(SessionClosed):
            await raw.subscription.receive()


async def test_the_connection_ends_in_the_middle_of_everything() -> None:
    async with raw_publisher(start=0) as raw:
        await raw.respond(SubscribeStart(0))
        await raw.group(0, b"part", finish=False)
        item = await raw.subscription.receive()
        assert not isinstance(item, Gap)
        await item.receive()
        raw.connection.close(64, "bye")
        for receive in (item.receive, raw.subscription.receive):
            with pytest.raises(SessionClosed, match="bye"):
                await receive()
        end = await raw.session.wait_closed()
        assert (end.code, end.reason, end.remote) == (64, "bye", True)
