"""The buffers of one stream, and the codes on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.transport.quic.buffers import (
    MAX_PIECES,
    Frame,
    PieceCount,
    ReceiveBuffer,
    SendBuffer,
    TooManyPieces,
    WrongFinalSize,
)
from moqtrio.transport.quic.codes import stream_code_from_wire, stream_code_to_wire
from moqtrio.transport.quic.engine.stock import require_names
from moqtrio.transport.quic.pacing import SlowStartExit, TickPacer

FAR = 1 << 40


@given(
    writes=st.lists(st.binary(max_size=50), max_size=10),
    fates=st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.booleans()), max_size=200),
)
def test_what_is_sent_and_lost_arrives_all_the_same(
    writes: list[bytes], fates: list[tuple[int, bool, bool]]
) -> None:
    sender, receiver = SendBuffer(), ReceiveBuffer(PieceCount())
    for data in writes:
        sender.write(data, False)
    sender.write(b"", True)
    arrived, held = b"", list[Frame]()
    fate = iter([*fates, *[(30, False, False)] * 200])
    while not sender.is_finished:
        size, lost, late = next(fate)
        frame = sender.take(size, FAR)
        if frame is None:
            held_now, held = held, []
        elif lost:
            sender.on_lost(frame)
            continue
        elif late:
            held.append(frame)
            continue
        else:
            held_now = [frame]
        for each in held_now:
            arrived += receiver.feed(*each) or b""
            receiver.feed(*each)  # a duplicate changes nothing
            sender.on_acked()
    assert arrived == b"".join(writes)
    assert receiver.is_finished
    assert not sender.has_frames


@given(
    data=st.binary(min_size=1, max_size=200),
    cuts=st.lists(st.tuples(st.integers(0, 199), st.integers(1, 80)), max_size=60),
)
def test_overlapping_frames_in_any_order(data: bytes, cuts: list[tuple[int, int]]) -> None:
    receiver = ReceiveBuffer(PieceCount())
    arrived = b""
    for start, length in cuts:
        start = min(start, len(data) - 1)
        stop = min(start + length, len(data))
        arrived += receiver.feed(start, data[start:stop], stop == len(data)) or b""
        assert arrived == data[: receiver.delivered]
    arrived += receiver.feed(0, data, True) or b""
    assert arrived == data
    assert receiver.is_finished


def test_frames_respect_room_and_window() -> None:
    sender = SendBuffer()
    sender.write(bytes(100), True)
    assert sender.take(-1, FAR) is None
    assert sender.take(0, FAR) is None
    assert sender.take(50, 0) is None
    assert sender.take(50, 30) == (0, bytes(30), False)
    assert sender.take(50, 30) is None
    assert sender.take(500, FAR) == (30, bytes(70), True)
    assert sender.take(500, FAR) is None


def test_a_lost_end_is_sent_again_on_its_own() -> None:
    sender = SendBuffer()
    sender.write(b"", True)
    frame = sender.take(0, FAR)
    assert frame == (0, b"", True)
    assert sender.on_lost(frame)
    assert sender.take(0, FAR) == frame
    assert sender.on_acked()


def test_a_reset_forgets_what_was_to_be_sent() -> None:
    sender = SendBuffer()
    sender.write(bytes(10), True)
    frame = sender.take(5, FAR)
    assert frame is not None
    sender.reset(7)
    sender.reset(8)
    assert (sender.reset_code, sender.unsent, sender.has_frames) == (7, 0, False)
    assert not sender.on_lost(frame)
    assert not sender.has_frames


@pytest.mark.parametrize(
    "frames",
    [
        [(0, b"", True), (0, b"a", True)],
        [(0, b"", True), (0, b"a", False)],
        [(0, b"abc", True), (3, b"d", False)],
        [(0, b"abc", True), (0, b"ab", True)],
        [(0, b"abcd", False), (0, b"abc", True)],
    ],
)
def test_a_changed_end_is_noticed(frames: list[Frame]) -> None:
    receiver = ReceiveBuffer(PieceCount())
    receiver.feed(*frames[0])
    with pytest.raises(WrongFinalSize):
        receiver.feed(*frames[1])


def test_a_reset_must_agree_with_what_came() -> None:
    receiver = ReceiveBuffer(PieceCount())
    receiver.feed(0, b"abcd", False)
    with pytest.raises(WrongFinalSize):
        receiver.reset(3)
    assert receiver.reset(10)
    assert not receiver.reset(10)


def test_crumbs_do_not_eat_memory() -> None:
    receiver = ReceiveBuffer(PieceCount())
    for number in range(MAX_PIECES):
        receiver.feed(1 + 2 * number, b"x", False)
    with pytest.raises(TooManyPieces):
        receiver.feed(1 + 2 * MAX_PIECES, b"x", False)


@given(st.integers(0, 2**32 - 1))
def test_codes_survive_the_wire(code: int) -> None:
    assert stream_code_from_wire(stream_code_to_wire(code)) == code


def test_known_codes_on_the_wire() -> None:
    # draft-ietf-webtrans-http3: the first code, and the one after a reserved codepoint.
    assert stream_code_to_wire(0) == 0x52E4A40FA8DB
    assert stream_code_to_wire(30) == 0x52E4A40FA8DB + 31
    assert stream_code_to_wire(2**32 - 1) == 0x52E5AC983162
    assert stream_code_to_wire(-5) == stream_code_to_wire(0)
    assert stream_code_to_wire(2**40) == 0x52E5AC983162
    assert stream_code_from_wire(0) == 0
    assert stream_code_from_wire(0x33) == 0x33
    assert stream_code_from_wire(2**61) == 0


def test_the_pacer_bursts_and_then_waits_a_tick() -> None:
    pacer = TickPacer(max_datagram_size=1200)
    assert pacer.next_send_time(0.0) is None
    pacer.update_rate(congestion_window=120_000, smoothed_rtt=0.1)
    sent = 0
    while pacer.next_send_time(1.0) is None:
        pacer.update_after_send(1.0)
        sent += 1
    assert sent == 16
    pacer.begin_flush()
    assert (pacer.next_send_time(1.0) or 0) >= 1.001
    # Afterwards the rate holds: a window and a quarter per round trip.
    now, end = 1.0, 2.0
    sent = 0
    while now < end:
        wait = pacer.next_send_time(now)
        if wait is None:
            pacer.update_after_send(now)
            sent += 1
        else:
            pacer.begin_flush()
            now = wait
    assert sent * 1200 == pytest.approx(1.25 * 120_000 * 10, rel=0.02)


def test_the_pacer_admits_so_much_at_once_however_fast_the_path_is() -> None:
    pacer = TickPacer(max_datagram_size=1200)
    for known in (False, True):
        if known:
            pacer.update_rate(congestion_window=10_000_000, smoothed_rtt=0.001)
        for _ in range(3):
            pacer.begin_flush()
            sent = 0
            while (wait := pacer.next_send_time(1.0)) is None:
                pacer.update_after_send(1.0)
                sent += 1
            assert sent * 1200 <= 40_000
            assert wait == 1.0, "and more at once, after the others"


def test_jitter_does_not_end_slow_start_and_a_queue_does() -> None:
    monitor = SlowStartExit()
    for number in range(100):
        assert not monitor.is_rtt_increasing(now=number, rtt=0.001 + 0.003 * (number % 2))
    assert any(monitor.is_rtt_increasing(now=number, rtt=0.02) for number in range(16))


def test_an_unknown_aioquic_is_told_apart() -> None:
    class Other:
        def __init__(self) -> None:
            self._streams: dict[int, object] = {}

    with pytest.raises(ImportError, match=r"supports aioquic .* lacks _write_application of Other"):
        require_names(Other, "_streams", "_write_application")
    require_names(Other, "_streams")
