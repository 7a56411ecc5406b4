"""Control streams in pieces, cut short, lying, and hostile."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_lite_strategies import RESPONSES, messages

from moqtrio.errors import DecodeError
from moqtrio.wire import encode_varint, lite
from moqtrio.wire.lite import MessageDecoder


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.integers(0, 2**62 - 1), st.lists(messages, max_size=4), st.lists(st.integers(0, 400)))
def test_a_stream_in_any_pieces(
    stream_type: int, expected: list[lite.Message], cuts: list[int]
) -> None:
    encoded = encode_varint(stream_type) + b"".join(message.encode() for message in expected)
    decoder = MessageDecoder()
    got_type: int | None = None
    got: list[lite.Message] = []
    for piece in pieces_of(encoded, cuts):
        decoder.feed(piece)
        if got_type is None:
            got_type = decoder.next_varint()
        while got_type is not None and len(got) < len(expected):
            message = decoder.next_message(type(expected[len(got)]))
            if message is None:
                break
            got.append(message)
    assert (got_type, got) == (stream_type, expected)
    assert not decoder.at_eof
    decoder.feed_eof()
    assert decoder.at_eof


@given(st.lists(RESPONSES, max_size=5))
def test_responses_byte_by_byte(expected: list[lite.SubscribeResponse]) -> None:
    decoder = MessageDecoder()
    got = []
    for byte in b"".join(response.encode() for response in expected):
        decoder.feed(bytes((byte,)))
        response = decoder.next_response()
        if response is not None:
            got.append(response)
            assert not decoder.buffered
    assert got == expected


@given(messages)
def test_a_stream_that_ends_within_a_message(message: lite.Message) -> None:
    encoded = message.encode()
    for size in range(1, len(encoded)):
        decoder = MessageDecoder()
        decoder.feed(encoded[:size])
        assert decoder.next_message(type(message)) is None
        decoder.feed_eof()
        assert not decoder.at_eof
        for _ in range(2):
            with pytest.raises(DecodeError, match="got the end of the stream"):
                decoder.next_message(type(message))


@given(RESPONSES)
def test_a_stream_that_ends_within_a_response(response: lite.SubscribeResponse) -> None:
    encoded = response.encode()
    for size in range(1, len(encoded)):
        decoder = MessageDecoder()
        decoder.feed(encoded[:size])
        assert decoder.next_response() is None
        decoder.feed_eof()
        with pytest.raises(DecodeError, match="got the end of the stream"):
            decoder.next_response()


def test_a_stream_that_ends_within_its_type() -> None:
    decoder = MessageDecoder()
    decoder.feed(b"\x40")
    assert decoder.next_varint() is None
    decoder.feed_eof()
    with pytest.raises(DecodeError, match="expected a varint, got the end of the stream"):
        decoder.next_varint()


def test_a_clean_end_is_no_error() -> None:
    decoder = MessageDecoder()
    decoder.feed_eof()
    assert decoder.next_varint() is None
    assert decoder.next_message(lite.Track) is None
    assert decoder.next_response() is None
    assert decoder.at_eof
    with pytest.raises(ValueError, match="after feed_eof"):
        decoder.feed(b"\0")


@given(messages, st.integers(-3, 3).filter(bool), st.binary(max_size=3))
def test_a_length_that_lies(message: lite.Message, difference: int, after: bytes) -> None:
    body = message.encode_body()
    decoder = MessageDecoder()
    decoder.feed(encode_varint(max(len(body) + difference, 0)) + body + after)
    decoder.feed_eof()
    try:
        decoded = decoder.next_message(type(message))
    except DecodeError:
        return
    # A longer body may be a valid message too, or the message have had no body to shorten.
    assert decoded is not None
    assert decoded != message or not body


@pytest.mark.parametrize("length", [65537, 2**20, 2**30, 2**62 - 1])
def test_a_hostile_length_is_refused_at_once_and_allocates_nothing(length: int) -> None:
    decoder = MessageDecoder()
    decoder.feed(b"\x02" + encode_varint(length))
    error: DecodeError | None = None
    tracemalloc.start()
    try:  # pytest.raises would compile a pattern, which takes more memory than the bound
        decoder.next_response()
    except DecodeError as caught:
        error = caught
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error).endswith(f"at most 65536 bytes, got {length} (at byte 1)")
    assert peak < 16384


def test_the_longest_message_allowed() -> None:
    goaway = lite.Goaway("x" * 97)
    encoded = goaway.encode()
    for limit, allowed in ((99, True), (98, False)):
        decoder = MessageDecoder(max_message_bytes=limit)
        decoder.feed(encoded)
        if allowed:
            assert decoder.next_message(lite.Goaway) == goaway
        else:
            with pytest.raises(DecodeError, match="at most 98 bytes, got 99"):
                decoder.next_message(lite.Goaway)


def test_an_unknown_response_type_is_an_error_before_its_length_arrives() -> None:
    decoder = MessageDecoder()
    decoder.feed(b"\x03")
    for _ in range(2):
        with pytest.raises(DecodeError, match="expected a response type of 0, 1 or 2, got 3"):
            decoder.next_response()


def test_what_was_taken_does_not_stay_in_memory() -> None:
    encoded = lite.Goaway("x" * 1000).encode()
    decoder = MessageDecoder()
    decoder.feed(encoded)
    tracemalloc.start()
    try:
        for _ in range(1000):
            assert decoder.next_message(lite.Goaway) is not None
            decoder.feed(encoded)
        assert decoder.buffered == len(encoded)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@given(st.lists(st.binary(max_size=20), max_size=10), st.data())
def test_random_bytes_raise_only_decode_errors(parts: list[bytes], data: st.DataObject) -> None:
    decoder = MessageDecoder()
    fed = 0
    wanted = st.sampled_from(["varint", "response", lite.Setup, lite.Announce, lite.Subscribe])
    try:
        for part in parts:
            decoder.feed(part)
            fed += len(part)
            match data.draw(wanted):
                case "varint":
                    decoder.next_varint()
                case "response":
                    decoder.next_response()
                case message:
                    decoder.next_message(message)  # type: ignore[arg-type]  # not the strings
    except DecodeError:
        pass
    assert decoder.buffered <= fed
