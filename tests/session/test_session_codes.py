"""A session says what its peer's error codes mean, whichever numbering it goes by."""

from __future__ import annotations

import pytest
import trio

from moqtrio.errors import RequestError, SessionCode, StreamCode
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_05, LITE_06, Version


async def refuse(connection: Connection, code: int) -> None:
    stream = await connection.accept_bidi()
    stream.receive.stop(code)
    stream.send.reset(code)


@pytest.mark.parametrize(
    ("version", "code", "meaning"),
    [
        (LITE_05, 13, StreamCode.NOT_FOUND),
        (LITE_05, StreamCode.NOT_FOUND, StreamCode.NOT_FOUND),
        (LITE_05, 106, 106),
        (LITE_06, 13, 13),
        (LITE_06, StreamCode.UNROUTABLE, StreamCode.UNROUTABLE),
    ],
)
async def test_why_a_request_is_refused(version: Version, code: int, meaning: int) -> None:
    client, server = memory_connection_pair()
    async with open_session_over(client, version) as session, trio.open_nursery() as nursery:
        nursery.start_soon(refuse, server, code)
        with pytest.raises(RequestError) as refused:
            await session.fetch("b", "t", 0)
    assert refused.value.code == meaning


@pytest.mark.parametrize(
    ("version", "code", "meaning"),
    [
        (LITE_05, 15, SessionCode.PROTOCOL_VIOLATION),
        (LITE_05, SessionCode.UNAUTHORIZED, SessionCode.UNAUTHORIZED),
        (LITE_06, 15, 15),
    ],
)
async def test_why_a_session_is_over(version: Version, code: int, meaning: int) -> None:
    client, server = memory_connection_pair()
    async with open_session_over(client, version) as session:
        server.close(code, "because")
        end = await session.wait_closed()
    assert (end.code, end.reason, end.remote) == (meaning, "because", True)
    assert f"(code {int(meaning)})" in str(end)
