"""Frames: exact, incremental, linear and bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moqtrio.errors import DecodeError
from moqtrio.model.frame import Frame
from moqtrio.wire import MAX_VARINT, encode_varint, encode_zigzag
from moqtrio.wire.lite import (
    MICROSECONDS,
    FrameDecoder,
    encode_frames,
    microseconds_to_ticks,
    ticks_to_microseconds,
)

MAX_TIMESTAMP = 2**61 - 1  # so that any two are less than 2**61 apart, as zigzag needs

# Sizes and distances on both sides of each varint length's edge.
payloads = st.binary(max_size=70) | st.sampled_from(
    [b"a" * 63, b"b" * 64, b"c" * 16383, b"d" * 16384]
)
timestamps = st.integers(0, MAX_TIMESTAMP) | st.integers(0, 10**6) | st.just(1_770_000_000_000_000)
frame_lists = st.lists(st.builds(Frame, payloads, timestamps), max_size=8)
cut_lists = st.lists(st.integers(0, 2**20), max_size=12)
coarse_timescales = st.sampled_from([1, 30, 1000, 1001, 44_100, 48_000, 90_000, 999_983])


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def decode(pieces: Iterable[bytes], timescale: int = MICROSECONDS) -> list[Frame]:
    decoder = FrameDecoder(timescale, Frame)
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    decoder.finish()
    return frames


def reference_encoding(frames: Iterable[Frame]) -> bytes:
    """The wire format said plainly, to hold the fast one against."""
    encoded, previous = b"", 0
    for frame in frames:
        encoded += encode_varint(encode_zigzag(frame.timestamp_us - previous))
        encoded += encode_varint(len(frame.payload)) + frame.payload
        previous = frame.timestamp_us
    return encoded


@given(frame_lists, cut_lists)
def test_round_trip_under_any_split(frames: list[Frame], cuts: list[int]) -> None:
    encoded, last = encode_frames(frames)
    assert encoded == reference_encoding(frames)
    assert last == (frames[-1].timestamp_us if frames else 0)
    assert decode([encoded]) == frames
    assert decode(pieces_of(encoded, cuts)) == frames


@given(st.lists(st.builds(Frame, st.binary(max_size=70), timestamps), max_size=4))
def test_round_trip_byte_by_byte(frames: list[Frame]) -> None:
    encoded = encode_frames(frames)[0]
    assert decode(encoded[at : at + 1] for at in range(len(encoded))) == frames


@given(frame_lists, st.integers(0, 8))
def test_encoding_goes_on_where_it_stopped(frames: list[Frame], cut: int) -> None:
    first, ticks = encode_frames(frames[:cut], 0, prefix=b"head")
    second, _ = encode_frames(frames[cut:], ticks)
    assert first + second == b"head" + encode_frames(frames)[0]


@given(frame_lists)
def test_any_kind_of_bytes(frames: list[Frame]) -> None:
    encoded = encode_frames(frames)[0]
    for data in (bytearray(encoded), memoryview(encoded)):
        got = FrameDecoder(MICROSECONDS, Frame).feed(data)
        assert got == frames
        assert all(type(frame.payload) is bytes for frame in got)
    assert FrameDecoder(MICROSECONDS, Frame).feed(b"head" + encoded, 4) == frames
    views = [Frame(memoryview(frame.payload), frame.timestamp_us) for frame in frames]  # type: ignore[arg-type]  # encode takes what decode never gives
    assert encode_frames(views)[0] == encoded


@given(coarse_timescales, st.lists(st.integers(0, 2**40), min_size=1, max_size=6))
def test_ticks_survive_microseconds(timescale: int, ticks: list[int]) -> None:
    times = [ticks_to_microseconds(tick, timescale) for tick in ticks]
    assert [microseconds_to_ticks(time, timescale) for time in times] == ticks
    frames = [Frame(b"", time) for time in times]
    encoded, last = encode_frames(frames, 0, timescale)
    assert last == ticks[-1]
    assert decode([encoded], timescale) == frames
    assert decode((encoded[at : at + 1] for at in range(len(encoded))), timescale) == frames


@given(st.integers(MICROSECONDS, 2**34), st.integers(0, 2**47))
@example(MICROSECONDS, MAX_TIMESTAMP)
def test_microseconds_survive_ticks(timescale: int, time: int) -> None:
    assert ticks_to_microseconds(microseconds_to_ticks(time, timescale), timescale) == time


def test_rounding_is_to_the_nearest() -> None:
    assert [ticks_to_microseconds(tick, 90_000) for tick in (1, 2, 3)] == [11, 22, 33]
    assert [ticks_to_microseconds(tick, 3) for tick in (1, 2, 3)] == [333_333, 666_667, 10**6]
    assert [microseconds_to_ticks(time, 1000) for time in (499, 500, 1499, 1500)] == [0, 1, 1, 2]


@given(frame_lists.filter(bool), st.data())
def test_an_end_inside_a_frame(frames: list[Frame], data: st.DataObject) -> None:
    encoded = encode_frames(frames)[0]
    last = len(encode_frames(frames[:-1])[0])
    cut = data.draw(st.integers(last + 1, len(encoded) - 1))
    decoder = FrameDecoder(MICROSECONDS, Frame)
    assert decoder.feed(encoded[:cut]) == frames[:-1]
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"got the end of the stream .*at byte \d+") as caught:
            decoder.finish()
        assert caught.value.offset == cut


@given(st.lists(st.binary(max_size=30), max_size=8), st.sampled_from([1, 1000, MICROSECONDS]))
def test_random_bytes_raise_only_decode_errors(parts: list[bytes], timescale: int) -> None:
    whole: list[Frame] | None
    try:
        whole = decode([b"".join(parts)], timescale)
    except DecodeError:
        whole = None
    split: list[Frame] | None
    try:
        split = decode(parts, timescale)
    except DecodeError:
        split = None
    assert split == whole


@pytest.mark.parametrize(
    "deltas",
    [
        [-1],
        [0, -1],
        [5, -6],
        [2**61 - 1, 2**61 - 1, 2],  # the sum is 2**62
        [-(2**61)],
    ],
)
def test_timestamps_out_of_range(deltas: list[int]) -> None:
    encoded = b"".join(encode_varint(encode_zigzag(delta)) + b"\x01x" for delta in deltas)
    for pieces in ([encoded], [encoded[at : at + 1] for at in range(len(encoded))]):
        with pytest.raises(DecodeError, match="expected a timestamp in"):
            decode(pieces)


def test_the_last_timestamps_in_range() -> None:
    half = 2**61 - 1
    encoded = b"".join(encode_varint(encode_zigzag(delta)) + b"\0" for delta in (half, half, 1))
    assert [frame.timestamp_us for frame in decode([encoded])] == [half, 2 * half, MAX_VARINT]


def test_microseconds_out_of_range() -> None:
    encoded = encode_varint(encode_zigzag(2**60)) + b"\0"
    for pieces in ([encoded], [encoded[at : at + 1] for at in range(len(encoded))]):
        with pytest.raises(DecodeError, match="expected a timestamp in"):
            decode(pieces, timescale=1000)


@pytest.mark.parametrize("times", [[-1], [2**62], [2**61], [2**61 - 1, 2**62]])
def test_timestamps_the_wire_cannot_carry(times: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        encode_frames([Frame(b"", time) for time in times])


def test_a_timescale_of_nothing() -> None:
    with pytest.raises(ValueError, match="timescale"):
        FrameDecoder(0, Frame)


def feed_in_steps(decoder: FrameDecoder[Frame], data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])


@pytest.mark.parametrize("size", [16 * 2**20 + 1, 2**30, 2**62 - 1])
@pytest.mark.parametrize("step", [1, 100])
def test_a_hostile_length_is_refused_at_once_and_allocates_nothing(size: int, step: int) -> None:
    first = encode_frames([Frame(b"abc", 7)])[0]
    hostile = first + b"\x00" + encode_varint(size)
    decoder = FrameDecoder(MICROSECONDS, Frame)
    error: DecodeError | None = None
    tracemalloc.start()
    try:  # pytest.raises would compile a pattern, which takes more memory than the bound
        feed_in_steps(decoder, hostile, step)
    except DecodeError as caught:
        error = caught
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error).endswith(f"16777216 bytes, got {size} (at byte 5)")
    assert peak < 16384
    for call in (lambda: decoder.feed(first), decoder.finish):
        with pytest.raises(DecodeError, match="expected a frame of at most"):
            call()


def test_a_promised_length_allocates_nothing_before_it_arrives() -> None:
    decoder = FrameDecoder(MICROSECONDS, Frame)
    tracemalloc.start()
    try:
        assert decoder.feed(b"\x00" + encode_varint(16 * 2**20) + b"x") == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16384


@pytest.mark.parametrize("limit", [0, 5])
def test_the_longest_frame_allowed(limit: int) -> None:
    decoder = FrameDecoder(MICROSECONDS, Frame, max_frame_bytes=limit)
    fitting = Frame(b"x" * limit, 3)
    assert decoder.feed(encode_frames([fitting])[0]) == [fitting]
    with pytest.raises(DecodeError, match=f"at most {limit} bytes, got {limit + 1}"):
        decoder.feed(encode_frames([Frame(b"x" * (limit + 1), 3)], 3)[0])


def test_a_large_frame_in_small_pieces_is_copied_a_bounded_number_of_times() -> None:
    """Joining what there is with each piece would copy 80 GB here, and take that long."""
    size, step = 4 * 2**20, 100
    encoded = encode_frames([Frame(bytes(size), 1)])[0]
    decoder = FrameDecoder(MICROSECONDS, Frame)
    got: list[Frame] = []
    tracemalloc.start()
    try:
        for at in range(0, len(encoded), step):
            got += decoder.feed(encoded[at : at + step])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got == [Frame(bytes(size), 1)]
    assert peak < 2.5 * size


# Before draft 05 frames have no timestamps: a timescale of None.


def decode_untimed(pieces: Iterable[bytes]) -> list[Frame]:
    decoder = FrameDecoder(None, Frame)
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    decoder.finish()
    return frames


@given(st.lists(st.builds(Frame, payloads, st.just(0)), max_size=8), cut_lists)
def test_frames_without_timestamps(frames: list[Frame], cuts: list[int]) -> None:
    encoded, ticks = encode_frames(frames, 7, None, prefix=b"head")
    plain = b"".join(encode_varint(len(frame.payload)) + frame.payload for frame in frames)
    assert (encoded, ticks) == (b"head" + plain, 0)
    assert decode_untimed([plain]) == frames
    assert decode_untimed(pieces_of(plain, cuts)) == frames
    assert FrameDecoder(None, Frame).feed(memoryview(encoded), 4) == frames


def test_timestamps_that_are_left_out_are_not_looked_at() -> None:
    assert encode_frames([Frame(b"x", -1)], 0, None)[0] == b"\x01x"


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_random_bytes_without_timestamps(parts: list[bytes]) -> None:
    try:
        whole: list[Frame] | None = decode_untimed([b"".join(parts)])
    except DecodeError:
        whole = None
    try:
        split: list[Frame] | None = decode_untimed(parts)
    except DecodeError:
        split = None
    assert split == whole


@given(st.lists(st.builds(Frame, payloads, st.just(0)), min_size=1, max_size=4), st.data())
def test_an_end_inside_a_frame_without_timestamp(frames: list[Frame], data: st.DataObject) -> None:
    encoded = encode_frames(frames, 0, None)[0]
    last = len(encode_frames(frames[:-1], 0, None)[0])
    if len(encoded) == last + 1:
        return  # an empty frame is one byte
    cut = data.draw(st.integers(last + 1, len(encoded) - 1))
    decoder = FrameDecoder(None, Frame)
    assert decoder.feed(encoded[:cut]) == frames[:-1]
    with pytest.raises(DecodeError, match=r"got the end of the stream .*at byte \d+") as caught:
        decoder.finish()
    assert caught.value.offset == cut


@pytest.mark.parametrize("size", [16 * 2**20 + 1, 2**62 - 1])
@pytest.mark.parametrize("step", [1, 100])
def test_a_hostile_length_without_timestamps(size: int, step: int) -> None:
    decoder = FrameDecoder(None, Frame)
    with pytest.raises(DecodeError, match=rf"16777216 bytes, got {size} \(at byte 4\)"):
        feed_in_steps(decoder, b"\x03abc" + encode_varint(size), step)
    for call in (lambda: decoder.feed(b"\0"), decoder.finish):
        with pytest.raises(DecodeError, match="expected a frame of at most"):
            call()
