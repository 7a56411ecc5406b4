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
    AnnounceStatus,
    BidiStreamType,
    ProbeLevel,
    ResponseType,
    Role,
    SetupParameter,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeStart,
    UniStreamType,
)


@pytest.mark.parametrize(
    ("enum", "numbers"),
    [
        (
            BidiStreamType,
            {"ANNOUNCE": 1, "SUBSCRIBE": 2, "FETCH": 3, "PROBE": 4, "GOAWAY": 5, "TRACK": 6},
        ),
        (UniStreamType, {"GROUP": 0, "SETUP": 1}),
        (ResponseType, {"START": 0, "END": 1, "DROP": 2}),
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


def test_response_types() -> None:
    assert SubscribeStart.response_type is ResponseType.START
    assert SubscribeEnd.response_type is ResponseType.END
    assert SubscribeDrop.response_type is ResponseType.DROP


def test_versions() -> None:
    assert [version.alpn for version in OFFERED] == ["moq-lite-05"]
    assert (LITE_05.name, LITE_05.family, LITE_05.draft) == ("moq-lite-05", Family.LITE, 5)
    assert str(LITE_05) == "moq-lite-05"
    for version in VERSIONS:
        assert version_for_alpn(version.alpn) is version
    assert version_for_alpn("moq-lite-99") is None


SHARED_NAMES = """
LITE_05 MAX_VARINT MAX_VARINT_SIZE OFFERED VERSIONS Buffer Family Reader Version Writer
decode_varint decode_zigzag encode_varint encode_zigzag try_decode_varint varint_size
version_for_alpn
"""

LITE_NAMES = """
DEFAULT_MAX_FRAME_BYTES DEFAULT_MAX_MESSAGE_BYTES MAX_HOPS MAX_SETUP_PARAMETERS MICROSECONDS
UNKNOWN_HOP Announce AnnounceOk AnnounceRequest AnnounceStatus BidiStreamType Datagram Fetch
FrameDecoder FrameLike Goaway GroupHeader Message MessageDecoder Probe ProbeLevel ResponseType
Role Setup SetupParameter Subscribe SubscribeDrop SubscribeEnd SubscribeResponse SubscribeStart
SubscribeUpdate Track TrackInfo UniHeader UniStreamType decode_group_header decode_uni_header
encode_frames encode_group_header microseconds_to_ticks ticks_to_microseconds
"""


def test_public_names() -> None:
    assert sorted(moqtrio.wire.__all__) == sorted(SHARED_NAMES.split())
    assert sorted(moqtrio.wire.lite.__all__) == sorted(LITE_NAMES.split())
    for module in (moqtrio.wire, moqtrio.wire.lite):
        for name in module.__all__:
            assert hasattr(module, name), name
