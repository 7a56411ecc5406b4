"""Control streams in pieces, cut short, lying, and hostile."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_lite_strategies import MESSAGES, responses_of

from moqtrio.errors import DecodeError
from moqtrio.wire import LITE_03, LITE_05, LITE_06, VERSIONS, Version, encode_varint, lite
from moqtrio.wire.lite import MessageDecoder


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


by_version = pytest.mark.parametrize("version", VERSIONS, ids=str)


def plain_messages(version: Version) -> st.SearchStrategy[lite.Message]:
    """What has a length and nothing before it."""
    messages = MESSAGES[version]
    return st.one_of(
        *[messages[kind] for kind in messages if not issubclass(kind, lite.TypedMessage)]
    )


VERSIONED_MESSAGES = {version: plain_messages(version) for version in VERSIONS}


@given(st.integers(0, 2**62 - 1), st.sampled_from(VERSIONS), st.data())
def test_a_stream_in_any_pieces(stream_type: int, version: Version, data: st.DataObject) -> None:
    expected = data.draw(st.lists(VERSIONED_MESSAGES[version], max_size=4))
    cuts = data.draw(st.lists(st.integers(0, 400)))
    encoded = encode_varint(stream_type)
    encoded += b"".join(message.encode(version) for message in expected)
    decoder = MessageDecoder(version)
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


@given(st.sampled_from(VERSIONS), st.data())
def test_responses_byte_by_byte(version: Version, data: st.DataObject) -> None:
    expected = data.draw(st.lists(responses_of(version), max_size=5))
    decoder = MessageDecoder(version)
    got = []
    for byte in b"".join(response.encode(version) for response in expected):
        decoder.feed(bytes((byte,)))
        response = decoder.next_response()
        if response is not None:
            got.append(response)
            assert not decoder.buffered
    assert got == expected


def test_a_stream_that_ends_within_its_type() -> None:
    decoder = MessageDecoder(LITE_05)
    decoder.feed(b"\x40")
    assert decoder.next_varint() is None
    decoder.feed_eof()
    with pytest.raises(DecodeError, match="expected a varint, got the end of the stream"):
        decoder.next_varint()


def test_a_clean_end_is_no_error() -> None:
    decoder = MessageDecoder(LITE_05)
    decoder.feed_eof()
    assert decoder.next_varint() is None
    assert decoder.next_message(lite.Track) is None
    assert decoder.next_response() is None
    assert decoder.at_eof
    with pytest.raises(ValueError, match="after feed_eof"):
        decoder.feed(b"\0")


@pytest.mark.parametrize("length", [65537, 2**20, 2**30, 2**62 - 1])
def test_a_hostile_length_is_refused_at_once_and_allocates_nothing(length: int) -> None:
    decoder = MessageDecoder(LITE_05)
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
    encoded = goaway.encode(LITE_05)
    for limit, allowed in ((99, True), (98, False)):
        decoder = MessageDecoder(LITE_05, max_message_bytes=limit)
        decoder.feed(encoded)
        if allowed:
            assert decoder.next_message(lite.Goaway) == goaway
        else:
            with pytest.raises(DecodeError, match="at most 98 bytes, got 99"):
                decoder.next_message(lite.Goaway)


@pytest.mark.parametrize(
    ("version", "code", "types"),
    [(LITE_06, 3, "0, 1, 2"), (LITE_05, 3, "0, 1, 2"), (LITE_03, 2, "0, 1")],
)
def test_an_unknown_response_type_is_an_error_before_its_length_arrives(
    version: Version, code: int, types: str
) -> None:
    decoder = MessageDecoder(version)
    decoder.feed(bytes([code]))
    for _ in range(2):
        with pytest.raises(DecodeError, match=f"expected a response type of {types}, got {code}"):
            decoder.next_response()


def test_what_was_taken_does_not_stay_in_memory() -> None:
    encoded = lite.Goaway("x" * 1000).encode(LITE_05)
    decoder = MessageDecoder(LITE_05)
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


@by_version
def test_random_bytes_raise_only_decode_errors(version: Version) -> None:
    kinds = [kind for kind in MESSAGES[version] if not issubclass(kind, lite.TypedMessage)]
    wanted = st.sampled_from(["varint", "response", "announce", *kinds])

    @given(st.lists(st.binary(max_size=20), max_size=10), st.data())
    def decode(parts: list[bytes], data: st.DataObject) -> None:
        decoder = MessageDecoder(version)
        fed = 0
        try:
            for part in parts:
                decoder.feed(part)
                fed += len(part)
                match data.draw(wanted):
                    case "varint":
                        decoder.next_varint()
                    case "response":
                        decoder.next_response()
                    case "announce":
                        decoder.next_announce()
                    case message:
                        decoder.next_message(message)  # type: ignore[arg-type]  # not the strings
        except DecodeError:
            pass
        assert decoder.buffered <= fed

    decode()
