"""What the codes of older peers mean, and that nobody else's are touched."""

from __future__ import annotations

import pytest

from moqtrio.errors import SessionCode, StreamCode
from moqtrio.wire import LITE_03, LITE_04, LITE_05, LITE_06, VERSIONS, Version
from moqtrio.wire.lite import MessageDecoder, SubscribeDrop, session_code_from, stream_code_from

OLDER_VERSIONS = pytest.mark.parametrize("version", [LITE_05, LITE_04, LITE_03], ids=str)


@OLDER_VERSIONS
def test_what_older_peers_call_otherwise(version: Version) -> None:
    meanings = {code: stream_code_from(code, version.draft) for code in (13, 15, 26, 30, 31)}
    assert meanings == {
        13: StreamCode.NOT_FOUND,
        15: StreamCode.MALFORMED,
        26: StreamCode.TOO_FAR_BEHIND,
        30: StreamCode.UNROUTABLE,
        31: StreamCode.EVICTED,
    }
    assert session_code_from(15, version.draft) == SessionCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_what_is_called_as_here_stays(version: Version) -> None:
    """What the running reference implementation sends, at every version."""
    for stream_code in (*StreamCode, 6, 7, 9, 0x40, 106, 2**32 - 1):
        assert stream_code_from(stream_code, version.draft) == stream_code
    for session_code in (*SessionCode, 5, 6, 16, 17, 0x40, 2**62 - 1):
        assert session_code_from(session_code, version.draft) == session_code


def test_there_is_nothing_older_in_draft_06() -> None:
    for code in range(300):
        assert stream_code_from(code, LITE_06.draft) == code
        assert session_code_from(code, LITE_06.draft) == code


@pytest.mark.parametrize(
    ("version", "code"),
    [
        (LITE_06, 26),
        (LITE_05, StreamCode.TOO_FAR_BEHIND),
        (LITE_04, StreamCode.TOO_FAR_BEHIND),
        (LITE_03, StreamCode.TOO_FAR_BEHIND),
    ],
    ids=str,
)
def test_a_drop_with_an_older_code(version: Version, code: int) -> None:
    decoder = MessageDecoder(version)
    decoder.feed(SubscribeDrop(3, 5, 26).encode(version))
    assert decoder.next_response() == SubscribeDrop(3, 5, code)
