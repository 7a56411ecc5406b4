"""A peer that announces more than anybody could want is refused, and remembered no further."""

from __future__ import annotations

import pytest
import trio

from moqtrio.errors import DecodeError, StreamCode, StreamReset
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_03, LITE_05, LITE_06, Version
from moqtrio.wire.lite import Announce, AnnounceEncoder, AnnounceStatus, Setup, UniStreamType

ACTIVE, ENDED = AnnounceStatus.ACTIVE, AnnounceStatus.ENDED
LENGTH = 60_000
FITTING = 4 * 2**20 // LENGTH


async def announce(
    connection: Connection, version: Version, announcements: list[Announce]
) -> int | None:
    """Answer the first request for announcements; the code of the refusal."""
    if Setup.exists_in(version):
        setup = await connection.open_uni()
        setup.send_nowait(bytes([UniStreamType.SETUP]) + Setup().encode(version), finish=True)
    stream = await connection.accept_bidi()
    encoder = AnnounceEncoder(version, 5)
    try:
        await stream.send.send_all(encoder.encode_ok(0))
        for each in announcements:
            await stream.send.send_all(encoder.encode(each))
        while await stream.receive.receive_some():
            pass
    except StreamReset as error:
        return error.code
    return None


def named(number: int, status: AnnounceStatus = ACTIVE) -> Announce:
    return Announce(status, f"{number:05}".ljust(LENGTH, "n"))


@pytest.mark.parametrize("version", [LITE_06, LITE_05, LITE_03], ids=str)
async def test_paths_that_are_too_long_together(version: Version) -> None:
    client, server = memory_connection_pair()
    codes: list[int | None] = []

    async def publish() -> None:
        many = [named(number) for number in range(2 * FITTING)]
        codes.append(await announce(server, version, many))

    async with open_session_over(client, version) as session, trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        async with session.announced() as announcements:
            for _ in range(FITTING):
                assert (await announcements.receive()).active
            for _ in range(FITTING):
                assert not (await announcements.receive()).active  # there is no telling now
            with pytest.raises(DecodeError, match="characters in"):
                await announcements.receive()
    assert codes in ([StreamCode.NO_CAPACITY], [StreamCode.MALFORMED])


@pytest.mark.parametrize("version", [LITE_06, LITE_05, LITE_03], ids=str)
async def test_paths_that_have_ended_make_room(version: Version) -> None:
    client, server = memory_connection_pair()
    script = [named(number, status) for number in range(2 * FITTING) for status in (ACTIVE, ENDED)]
    async with open_session_over(client, version) as session, trio.open_nursery() as nursery:
        nursery.start_soon(announce, server, version, script)
        async with session.announced() as announcements:
            for expected in script:
                announcement = await announcements.receive()
                assert announcement.active is expected.active
                assert announcement.path == expected.suffix
