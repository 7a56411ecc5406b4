"""The announcements of a stream, by name up to draft 05 and by number since."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.errors import DecodeError
from moqtrio.wire import LITE_03, LITE_04, LITE_06, VERSIONS, Version, encode_varint
from moqtrio.wire.lite import (
    UNKNOWN_HOP,
    Announce,
    AnnounceEncoder,
    AnnounceOk,
    AnnounceStatus,
    MessageDecoder,
)

ENDED, ACTIVE, RESTART = AnnounceStatus
HOP = 77

by_version = pytest.mark.parametrize("version", VERSIONS, ids=str)


def start(suffix: str, *hops: int) -> bytes:
    """ANNOUNCE_START as draft 06 has it."""
    body = bytes([len(suffix)]) + suffix.encode() + bytes([len(hops), *hops, 0, 0])
    return b"\0" + encode_varint(len(body)) + body


def end(announce_id: int) -> bytes:
    body = encode_varint(announce_id)
    return b"\1" + encode_varint(len(body)) + body


def update(announce_id: int, *hops: int) -> bytes:
    body = encode_varint(announce_id) + bytes([len(hops), *hops, 0, 0])
    return b"\2" + encode_varint(len(body)) + body


def read_all(data: bytes, version: Version = LITE_06) -> list[Announce]:
    decoder = MessageDecoder(version)
    decoder.feed(data)
    found = []
    while (announce := decoder.next_announce()) is not None:
        found.append(announce)
    assert not decoder.buffered
    return found


class Broadcasts:
    """What is announced, as a session would know it."""

    def __init__(self) -> None:
        self.routes: dict[str, tuple[tuple[int, ...], int, int]] = {}

    def apply(self, announce: Announce) -> None:
        if announce.active:
            self.routes[announce.suffix] = announce.hops, announce.cost, announce.cold_cost
        else:
            del self.routes[announce.suffix]


announces = st.builds(
    Announce,
    st.sampled_from(AnnounceStatus),
    st.sampled_from(["", "a", "b", "c/d"]),
    st.lists(st.integers(1, 2**62 - 1), max_size=3).map(tuple),
    st.integers(0, 300),
    st.integers(0, 300),
)


def sensible(script: list[Announce]) -> list[Announce]:
    """Those of ``script`` that make sense where they come."""
    active: set[str] = set()
    kept = []
    for announce in script:
        if (announce.status is ACTIVE) is (announce.suffix not in active):
            kept.append(announce)
            (active.add if announce.active else active.discard)(announce.suffix)
    return kept


@given(st.sampled_from(VERSIONS), st.lists(announces, max_size=30))
def test_both_ends_agree(version: Version, script: list[Announce]) -> None:
    encoder, decoder = AnnounceEncoder(version, HOP), MessageDecoder(version)
    sent, came = Broadcasts(), Broadcasts()
    for announce in sensible(script):
        sent.apply(announce)
        decoder.feed(encoder.encode(announce))
        while (received := decoder.next_announce()) is not None:
            came.apply(received)
        assert came.routes.keys() == sent.routes.keys()
        assert not decoder.buffered
    for suffix, (hops, cost, cold_cost) in sent.routes.items():
        expected = hops, cost, cold_cost
        if version.draft < 6:
            expected = hops, 0, 0
        if version.draft < 5:
            expected = (*hops, HOP), 0, 0
        if version.draft < 4:
            expected = (UNKNOWN_HOP,) * (len(hops) + 1), 0, 0
        assert came.routes[suffix] == expected


@by_version
def test_what_comes_before_the_announcements(version: Version) -> None:
    encoded = AnnounceEncoder(version, HOP).encode_ok(3)
    if version.draft < 5:
        assert encoded == b""
    else:
        assert encoded == AnnounceOk(HOP, 3).encode(version)


@pytest.mark.parametrize("version", [LITE_03, LITE_04], ids=str)
def test_what_is_replaced_ends_first_before_draft_05(version: Version) -> None:
    encoder = AnnounceEncoder(version, HOP)
    data = encoder.encode(Announce(ACTIVE, "a")) + encoder.encode(Announce(RESTART, "a", (9,)))
    found = read_all(data, version)
    assert [announce.status for announce in found] == [ACTIVE, ENDED, ACTIVE]
    assert len(found[-1].hops) == 2


def test_who_has_no_hop_id_is_in_no_list() -> None:
    data = AnnounceEncoder(LITE_04).encode(Announce(ACTIVE, "a", (9,)))
    assert read_all(data, LITE_04) == [Announce(ACTIVE, "a", (9,))]


def test_numbers_are_never_used_twice() -> None:
    data = start("a") + end(0) + start("a", 5) + update(1, 6) + end(1) + start("b") + end(2)
    assert read_all(data) == [
        Announce(ACTIVE, "a"),
        Announce(ENDED, "a"),
        Announce(ACTIVE, "a", (5,)),
        Announce(RESTART, "a", (6,)),
        Announce(ENDED, "a"),
        Announce(ACTIVE, "b"),
        Announce(ENDED, "b"),
    ]
    encoder = AnnounceEncoder(LITE_06)
    assert b"".join(encoder.encode(announce) for announce in read_all(data)) == data


@pytest.mark.parametrize(
    ("before", "bad", "problem"),
    [
        (b"", end(0), "an announced broadcast, got 0, which has not been assigned"),
        (b"", update(0), "an announced broadcast, got 0, which has not been assigned"),
        (start("a"), end(1), "an announced broadcast, got 1, which has not been assigned"),
        (start("a"), end(2**62 - 1), "which has not been assigned"),
        (start("a") + end(0), end(0), "an announced broadcast, got 0, which has ended"),
        (start("a") + end(0), update(0), "an announced broadcast, got 0, which has ended"),
        (start("a"), start("a", 5), "a broadcast that is not announced yet, got 'a'"),
        (b"", b"\3\1\0", "an announce type of 0, 1, 2, got 3"),
        (start("a"), encode_varint(2**62 - 1), "an announce type of 0, 1, 2"),
    ],
)
def test_announcements_out_of_order(before: bytes, bad: bytes, problem: str) -> None:
    decoder = MessageDecoder(LITE_06)
    decoder.feed(before)
    while decoder.next_announce() is not None:
        pass
    decoder.feed(bad)
    for _ in range(2):  # nothing is taken: asking again says the same
        with pytest.raises(DecodeError, match=problem) as caught:
            decoder.next_announce()
        assert caught.value.offset == len(before)


@pytest.mark.parametrize(
    "announce", [Announce(ENDED, "b"), Announce(RESTART, "b"), Announce(ACTIVE, "a")], ids=repr
)
def test_announcements_that_make_no_sense_are_not_sent(announce: Announce) -> None:
    encoder = AnnounceEncoder(LITE_06)
    encoder.encode(Announce(ACTIVE, "a"))
    with pytest.raises(ValueError, match="expected a broadcast that is"):
        encoder.encode(announce)
    assert encoder.encode(Announce(ENDED, "a")) == end(0)


def test_an_announcement_that_cannot_be_sent_takes_no_number() -> None:
    encoder = AnnounceEncoder(LITE_06)
    with pytest.raises(ValueError, match="at most 32 hops"):
        encoder.encode(Announce(ACTIVE, "a", (1,) * 33))
    assert read_all(encoder.encode(Announce(ACTIVE, "a")) + end(0))[1] == Announce(ENDED, "a")


def test_no_more_are_remembered_than_allowed() -> None:
    decoder = MessageDecoder(LITE_06, max_announced=2)
    decoder.feed(start("a") + start("b") + end(0) + start("c") + start("d"))
    for _ in range(4):
        assert decoder.next_announce() is not None
    with pytest.raises(DecodeError, match="at most 2 broadcasts at once"):
        decoder.next_announce()


def test_long_names_are_not_remembered_without_end() -> None:
    names = [f"{number:05}" + "n" * 60_000 for number in range(70)]
    encoder, decoder = AnnounceEncoder(LITE_06), MessageDecoder(LITE_06)
    decoder.feed(b"".join(encoder.encode(Announce(ACTIVE, name)) for name in names))
    remembered = 0
    with pytest.raises(DecodeError, match="at most 4194304 characters in the names"):  # noqa: PT012  # at which of them is the point
        while decoder.next_announce() is not None:
            remembered += 1
    assert remembered == 4 * 2**20 // 60_005


def test_names_that_have_ended_make_room() -> None:
    encoder, decoder = AnnounceEncoder(LITE_06), MessageDecoder(LITE_06)
    for number in range(200):
        name = f"{number:05}" + "n" * 60_000
        for status in (ACTIVE, ENDED):
            decoder.feed(encoder.encode(Announce(status, name)))
            assert decoder.next_announce() is not None


def test_what_has_ended_is_forgotten() -> None:
    decoder = MessageDecoder(LITE_06)
    tracemalloc.start()
    try:
        for number in range(3000):
            decoder.feed(start(f"a broadcast of its own, {number}") + end(number))
            assert decoder.next_announce() is not None
            assert decoder.next_announce() is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000


@given(st.lists(st.sampled_from([start("a"), start("b"), end(0), end(1), update(0, 3)])), st.data())
def test_any_order_of_announcements(messages: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(messages)
    cut = data.draw(st.integers(0, len(whole)))
    decoder = MessageDecoder(LITE_06)
    active: set[str] = set()
    try:
        for piece in (whole[:cut], whole[cut:]):
            decoder.feed(piece)
            while (announce := decoder.next_announce()) is not None:
                assert (announce.status is ACTIVE) is (announce.suffix not in active)
                (active.add if announce.active else active.discard)(announce.suffix)
    except DecodeError:
        pass
