"""What a hostile peer can do to any message of any draft of moq-lite: nothing but an error."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_lite_strategies import CASES, MESSAGES, any_message, case_name

from moqtrio.errors import DecodeError
from moqtrio.wire import (
    LITE_03,
    LITE_04,
    LITE_05,
    LITE_06,
    VERSIONS,
    Version,
    encode_varint,
    lite,
)
from moqtrio.wire.lite import MessageDecoder, announce

MARK = "\N{PILE OF POO}"  # four bytes of UTF-8 that nothing else encodes to
ACTIVE = lite.AnnounceStatus.ACTIVE

EXAMPLES: tuple[lite.Message, ...] = (
    lite.Setup(lite.ProbeLevel.REPORT, f"/{MARK}?a", lite.Role.PUBLISHER, 300, 2**40, {70: b"xy"}),
    lite.AnnounceRequest(MARK, 2**40),
    lite.AnnounceOk(2**40, 300),
    lite.Announce(ACTIVE, MARK, (1, 2**40)),
    announce.AnnounceStart(MARK, (1, 2**40), 300, 9),
    announce.AnnounceEnd(300),
    announce.AnnounceUpdate(300, (1, 2**40), 300, 9),
    lite.Subscribe(300, MARK, f"track {MARK}", 7, True, 60.0, 3, 500),
    lite.SubscribeUpdate(7, True, 60.0, 3, 500),
    lite.SubscribeOk(7, True, 60.0, 3, 500),
    lite.SubscribeStart(300),
    lite.SubscribeEnd(300),
    lite.SubscribeDrop(300, 70000, 3),
    lite.Track(MARK, f"track {MARK}"),
    lite.TrackInfo(7, True, 60.0, 90000),
    lite.Fetch(MARK, f"track {MARK}", 7, 300),
    lite.GroupHeader(300, 70000),
    lite.Probe(10**6, 0.25),
    lite.Goaway(f"moqt://{MARK}"),
)

# What the examples cannot have in every version.
FRAME_RANGES = (
    lite.Subscribe(300, MARK, f"track {MARK}", 7, False, 60.0, 3, 500, 70, 300),
    lite.SubscribeUpdate(7, False, 60.0, 3, 500, 70, 300),
    lite.Fetch(MARK, f"track {MARK}", 7, 300, 70, 300),
    lite.GroupHeader(300, 70000, 70),
)

Example = tuple[Version, lite.Message]


def examples() -> Iterator[Example]:
    for version in VERSIONS:
        for message in EXAMPLES + (FRAME_RANGES if version.draft >= 6 else ()):
            if message.exists_in(version):
                yield version, message


def example_name(example: Example) -> str:
    return case_name((example[0], type(example[1])))


by_example = pytest.mark.parametrize("example", list(examples()), ids=example_name)
by_version = pytest.mark.parametrize("version", VERSIONS, ids=str)


def test_every_message_has_an_example() -> None:
    assert {case_name((version, type(message))) for version, message in examples()} == {
        case_name(case) for case in CASES
    }


def decode(data: bytes, version: Version, kind: type[lite.Message]) -> None:
    """All of a stream's bytes, by whoever expects such a message on it.

    Raises DecodeError. What is accepted can be sent on.
    """
    decoder = MessageDecoder(version)
    decoder.feed(data)
    decoder.feed_eof()
    message: lite.Message | None
    if issubclass(kind, (announce.AnnounceStart, announce.AnnounceEnd, announce.AnnounceUpdate)):
        decoder.next_announce()
    elif issubclass(kind, lite.TypedMessage):
        message = decoder.next_response()
        if message is not None:
            message.encode(version)
    else:
        message = decoder.next_message(kind)
        if message is not None:
            message.encode(version)


def refused_or_accepted(data: bytes, version: Version, kind: type[lite.Message]) -> None:
    try:
        decode(data, version, kind)
    except DecodeError as error:
        problem = str(error)
    else:
        return
    assert problem.startswith("expected")


@by_example
def test_truncated_at_every_byte(example: Example) -> None:
    version, message = example
    encoded, body = message.encode(version), message.encode_body(version)
    for size in range(len(body)):
        with pytest.raises(DecodeError) as caught:
            type(message).decode(body[:size], version)
        assert caught.value.offset in range(size + 1)
    for size in range(1, len(encoded)):
        with pytest.raises(DecodeError, match="got the end of the stream"):
            decode(encoded[:size], version, type(message))


@given(any_message)
def test_any_message_truncated_at_every_byte(example: Example) -> None:
    version, message = example
    body = message.encode_body(version)
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            type(message).decode(body[:size], version)


@by_example
def test_every_byte_changed(example: Example) -> None:
    """Among them every length and every count, lying both ways, and every reserved value."""
    version, message = example
    encoded = message.encode(version)
    values = {0, 1, 2, 3, 0x20, 0x21, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFF}
    for at, byte in enumerate(encoded):
        for value in values | {(byte + 1) & 0xFF, (byte - 1) & 0xFF}:
            changed = encoded[:at] + bytes([value]) + encoded[at + 1 :]
            refused_or_accepted(changed, version, type(message))
            refused_or_accepted(changed + b"\xff" * 9, version, type(message))


@by_example
def test_every_byte_missing_and_every_byte_twice(example: Example) -> None:
    version, message = example
    encoded = message.encode(version)
    for at in range(len(encoded)):
        refused_or_accepted(encoded[:at] + encoded[at + 1 :], version, type(message))
        refused_or_accepted(encoded[: at + 1] + encoded[at:], version, type(message))


@by_example
@pytest.mark.parametrize("difference", [-2, -1, 1, 2, 60, 2**14, 2**30, 2**61])
def test_the_length_of_a_message_lies(example: Example, difference: int) -> None:
    version, message = example
    body = message.encode_body(version)
    before = message.encode(version)[: -len(body) - 1]  # its type, if it has one
    data = before + encode_varint(max(len(body) + difference, 0)) + body
    with pytest.raises(DecodeError):
        decode(data, version, type(message))


@by_example
def test_bytes_left_over(example: Example) -> None:
    version, message = example
    body = message.encode_body(version)
    for extra in (b"\0", b"\xff", bytes(70)):
        with pytest.raises(
            DecodeError, match=f"end of the message, got {len(extra)} more"
        ) as caught:
            type(message).decode(body + extra, version)
        assert caught.value.offset == len(body)


@by_example
def test_strings_that_are_not_utf_8(example: Example) -> None:
    version, message = example
    body = message.encode_body(version)
    mark = MARK.encode()
    strings = body.count(mark)
    assert strings == repr(message).count(MARK)
    for nonsense in (b"\xff\xfe\xfd\xfc", b"\xed\xa0\x80a", b"abc\xf0", b"\xc0\x80ab"):
        for at in range(strings):
            parts = body.split(mark)
            changed = mark.join(parts[: at + 1]) + nonsense + mark.join(parts[at + 1 :])
            with pytest.raises(DecodeError, match="to be UTF-8"):
                type(message).decode(changed, version)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_random_bytes(case: tuple[Version, type[lite.Message]]) -> None:
    version, kind = case

    @given(st.binary(max_size=60))
    def decode_body(data: bytes) -> None:
        try:
            decoded = kind.decode(data, version)
        except DecodeError:
            return
        decoded.encode(version)  # whatever was accepted can be sent on

    decode_body()


@by_example
def test_messages_of_another_version(example: Example) -> None:
    version, message = example
    body = message.encode_body(version)
    for other in VERSIONS:
        if message.exists_in(other):
            with suppress(DecodeError):
                type(message).decode(body, other).encode(other)


LARGE = encode_varint(2**62 - 1).hex()


@pytest.mark.parametrize(
    ("version", "kind", "body", "problem"),
    [
        (LITE_06, lite.TrackInfo, "00 00 00", "expected a timescale of at least 1, got 0"),
        (LITE_05, lite.TrackInfo, "0000 00 00", "expected a timescale of at least 1, got 0"),
        (LITE_05, lite.TrackInfo, "0002 00 01", "expected publisher ordered to be 0 or 1, got 2"),
        (LITE_05, lite.Announce, "03 00 00", "expected an announce status of 0, 1, 2, got 3"),
        (LITE_04, lite.Announce, "02 00 00", "expected an announce status of 0, 1, got 2"),
        (LITE_03, lite.Announce, "ff 00 00", "expected an announce status of 0, 1, got 255"),
        (LITE_03, lite.Announce, "01 00 21", "expected at most 32 hops, got 33"),
        (LITE_04, lite.Announce, "01 00 21" + "00" * 33, "expected at most 32 hops, got 33"),
        (LITE_05, lite.Announce, f"01 00 {LARGE}", f"expected at most 32 hops, got {2**62 - 1}"),
        (LITE_06, announce.AnnounceStart, "00 21" + "00" * 35, "expected at most 32 hops"),
        (LITE_06, announce.AnnounceUpdate, f"00 {LARGE}", "expected at most 32 hops"),
        (LITE_05, lite.Subscribe, "00 00 00 00 02 00 00 00", "expected subscriber ordered"),
        (
            LITE_04,
            lite.Subscribe,
            "00 00 00 00 00 00 06 04",
            "expected the group end to be 0 or at least 5, got 4",
        ),
        (
            LITE_05,
            lite.SubscribeUpdate,
            "00 00 00 06 04",
            "expected the group end to be 0 or at least 5, got 4",
        ),
        (
            LITE_06,
            lite.SubscribeUpdate,
            "00 00 05 04 00 00",
            "expected the group end to be 0 or at least 5, got 4",
        ),
        (
            LITE_06,
            lite.SubscribeUpdate,
            "00 00 05 00 00 01",
            "expected no frame end, as there is no group end, got 1",
        ),
        (
            LITE_03,
            lite.SubscribeOk,
            "00 00 00 06 04",
            "expected the group end to be 0 or at least 5, got 4",
        ),
        (LITE_05, lite.SubscribeDrop, "05 04 00", "expected a last dropped group >= 5, got 4"),
        (
            LITE_06,
            lite.Fetch,
            "00 00 00 00 03 03",
            "expected the frame end to be 0 or at least 4, got 3",
        ),
        (
            LITE_06,
            lite.Fetch,
            "00 00 00 00 03 02",
            "expected the frame end to be 0 or at least 4, got 2",
        ),
        (LITE_05, lite.Setup, "4041" + "00" * 130, "expected at most 64 SETUP parameters, got 65"),
        (LITE_06, lite.Setup, LARGE, "expected at most 64 SETUP parameters"),
        (LITE_05, lite.Setup, "02 01 01 00 01 01 00", "expected each SETUP parameter once, got 1"),
        (LITE_05, lite.Setup, "02 4040 00 4040 00", "expected each SETUP parameter once, got 64"),
        (LITE_05, lite.Setup, "01 02 01 ff", "expected the SETUP path to be UTF-8"),
        (LITE_05, lite.Setup, "01 01 00", "expected the SETUP probe parameter (a varint)"),
        (LITE_05, lite.Setup, "01 05 02 01 01", "expected the end of the message, got 1 more"),
        (LITE_04, lite.Goaway, "05 61", "expected the new session URI (5 bytes)"),
    ],
)
def test_refused(version: Version, kind: type[lite.Message], body: str, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        kind.decode(bytes.fromhex(body), version)
    assert str(caught.value).startswith(problem)
    assert caught.value.offset is not None


@by_version
def test_a_count_or_length_that_lies_allocates_nothing(version: Version) -> None:
    kinds = list(MESSAGES[version])
    decode_body(kinds[0], b"", version)  # what is made only once
    tracemalloc.start()
    try:
        for kind in kinds:
            for at in range(8):
                body = b"\1" * at + encode_varint(2**40)
                decode_body(kind, body, version)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000


def decode_body(kind: type[lite.Message], body: bytes, version: Version) -> None:
    with suppress(DecodeError):
        kind.decode(body, version)
