"""What others rely on: names and numbers. A change here is a change for them."""

from __future__ import annotations

from enum import IntEnum

import pytest

import moqtrio.wire
import moqtrio.wire.lite
from moqtrio.wire import LITE_05, OFFERED, VERSIONS, Family, version_for_alpn
from moqtrio.wire.lite import (
    DEFAULT_MAX_FRAME_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES,
    MAX_HOPS,
    MAX_SETUP_PARAMETERS,
    UNKNOWN_HOP,
    AnnounceOk,
    AnnounceStatus,
    BidiStreamType,
    ProbeLevel,
    Role,
    Setup,
    SetupParameter,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeOk,
    SubscribeStart,
    TypedMessage,
    UniStreamType,
    has_datagrams,
    has_timestamps,
    request_type,
)
from moqtrio.wire.lite.announce import AnnounceEnd, AnnounceStart, AnnounceUpdate

NEWEST = VERSIONS[0].draft


@pytest.mark.parametrize(
    ("enum", "numbers"),
    [
        (
            BidiStreamType,
            {"ANNOUNCE": 1, "SUBSCRIBE": 2, "FETCH": 3, "PROBE": 4, "GOAWAY": 5, "TRACK": 6},
        ),
        (UniStreamType, {"GROUP": 0, "SETUP": 1}),
        (AnnounceStatus, {"ENDED": 0, "ACTIVE": 1, "RESTART": 2}),
        (SetupParameter, {"PROBE": 1, "PATH": 2, "ROLE": 3, "COST": 4, "ORIGIN": 5}),
        (ProbeLevel, {"NONE": 0, "REPORT": 1, "INCREASE": 2}),
        (Role, {"PUBLISHER": 1, "SUBSCRIBER": 2}),
    ],
)
def test_numbers(enum: type[IntEnum], numbers: dict[str, int]) -> None:
    assert {member.name: member.value for member in enum} == numbers


def test_limits() -> None:
    assert (MAX_HOPS, MAX_SETUP_PARAMETERS, UNKNOWN_HOP) == (32, 64, 0)
    assert (DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_FRAME_BYTES) == (65536, 16 * 2**20)


@pytest.mark.parametrize(
    ("message", "code", "drafts"),
    [
        (SubscribeOk, 0, range(3, 5)),
        (SubscribeStart, 0, range(5, NEWEST + 1)),
        (SubscribeEnd, 1, range(5, NEWEST + 1)),
        (SubscribeDrop, 1, range(3, 5)),
        (SubscribeDrop, 2, range(5, NEWEST + 1)),
        (AnnounceStart, 0, range(6, NEWEST + 1)),
        (AnnounceEnd, 1, range(6, NEWEST + 1)),
        (AnnounceUpdate, 2, range(6, NEWEST + 1)),
    ],
)
def test_types_of_messages(message: type[TypedMessage], code: int, drafts: range) -> None:
    assert list(drafts) == [
        version.draft
        for version in reversed(VERSIONS)
        if message.exists_in(version) and message.type_code(version.draft) == code
    ]


@pytest.mark.parametrize(
    ("stream_type", "since"),
    [
        (BidiStreamType.ANNOUNCE, 3),
        (BidiStreamType.SUBSCRIBE, 3),
        (BidiStreamType.FETCH, 5),
        (BidiStreamType.PROBE, 3),
        (BidiStreamType.GOAWAY, 4),
        (BidiStreamType.TRACK, 5),
        (0, NEWEST + 1),
        (7, NEWEST + 1),
        (None, NEWEST + 1),
    ],
)
def test_streams_of_each_version(stream_type: int | None, since: int) -> None:
    for version in VERSIONS:
        assert (request_type(stream_type, version) is not None) is (version.draft >= since)


def test_what_came_with_draft_05() -> None:
    since_05 = {version: version.draft >= 5 for version in VERSIONS}
    assert {version: has_timestamps(version) for version in VERSIONS} == since_05
    assert {version: has_datagrams(version) for version in VERSIONS} == since_05
    assert {version: Setup.exists_in(version) for version in VERSIONS} == since_05
    assert {version: AnnounceOk.exists_in(version) for version in VERSIONS} == since_05


def test_versions() -> None:
    assert [version.alpn for version in VERSIONS] == [
        "moq-lite-06",
        "moq-lite-05",
        "moq-lite-04",
        "moq-lite-03",
    ]
    assert set(OFFERED) <= set(VERSIONS)
    assert list(OFFERED) == sorted(OFFERED, key=VERSIONS.index)
    assert (LITE_05.name, LITE_05.family, LITE_05.draft) == ("moq-lite-05", Family.LITE, 5)
    assert str(LITE_05) == "moq-lite-05"
    for version in VERSIONS:
        assert version_for_alpn(version.alpn) is version
    assert version_for_alpn("moq-lite-99") is None


SHARED_NAMES = """
LITE_03 LITE_04 LITE_05 LITE_06 MAX_VARINT MAX_VARINT_SIZE OFFERED VERSIONS Buffer Family
Reader Version Writer decode_varint decode_zigzag encode_varint encode_zigzag
try_decode_varint varint_size version_for_alpn
"""

LITE_NAMES = """
DEFAULT_MAX_ANNOUNCED DEFAULT_MAX_FRAME_BYTES DEFAULT_MAX_MESSAGE_BYTES MAX_HOPS
MAX_SETUP_PARAMETERS MICROSECONDS UNKNOWN_HOP Announce AnnounceEncoder AnnounceOk
AnnounceRequest AnnounceStatus BidiStreamType Datagram Fetch FrameDecoder FrameLike Goaway
GroupHeader Message MessageDecoder Probe ProbeLevel Role Setup SetupParameter Subscribe
SubscribeDrop SubscribeEnd SubscribeOk SubscribeResponse SubscribeStart SubscribeUpdate Track
TrackInfo TypedMessage UniHeader UniStreamType decode_group_header decode_uni_header
encode_frames encode_group_header has_datagrams has_timestamps microseconds_to_ticks
request_type session_code_from stream_code_from ticks_to_microseconds
"""


def test_public_names() -> None:
    assert sorted(moqtrio.wire.__all__) == sorted(SHARED_NAMES.split())
    assert sorted(moqtrio.wire.lite.__all__) == sorted(LITE_NAMES.split())
    for module in (moqtrio.wire, moqtrio.wire.lite):
        for name in module.__all__:
            assert hasattr(module, name), name
