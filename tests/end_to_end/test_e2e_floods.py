"""What a peer costs that asks for all it can get, over QUIC: the server's memory is measured, and
somebody else is served meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from test_e2e_slow_readers import MIB, Process, running

import moqtrio
from moqtrio.transport.connection import Connection
from moqtrio.transport.quic import open_quic
from moqtrio.wire import LITE_05, encode_varint
from moqtrio.wire.lite import (
    AnnounceRequest,
    BidiStreamType,
    Fetch,
    Subscribe,
    encode_group_header,
)

# What a connection may take of the server: unsent bytes, groups that wait for the peer, unread
# bytes of the peer (docs/limits.md); and what the interpreter adds.
BOUND = 120 * MIB


async def ask(connection: Connection, kind: int, message: bytes) -> None:
    """Ask, and never read the answer."""
    stream = await connection.open_bidi()
    await stream.send.send_all(encode_varint(kind) + message)


async def subscriptions(connection: Connection) -> None:
    for number in range(10_000):
        message = Subscribe(number, "b", "t", number % 256, True, 1e6, 0, None)
        await ask(connection, BidiStreamType.SUBSCRIBE, message.encode(LITE_05))


async def fetches(connection: Connection) -> None:
    for number in range(10_000):
        message = Fetch("b", "t", number % 256, number % 50)
        await ask(connection, BidiStreamType.FETCH, message.encode(LITE_05))


async def fetches_on_demand(connection: Connection) -> None:
    for number in range(10_000):
        message = Fetch("b", "on-demand", 1, number)
        await ask(connection, BidiStreamType.FETCH, message.encode(LITE_05))


async def history_on_demand(connection: Connection) -> None:
    for number in range(10_000):
        message = Subscribe(number, "b", "on-demand", 1, True, 1e6, number * 10, None)
        await ask(connection, BidiStreamType.SUBSCRIBE, message.encode(LITE_05))


async def announcements(connection: Connection) -> None:
    for _ in range(10_000):
        message = AnnounceRequest("", None).encode(LITE_05)
        await ask(connection, BidiStreamType.ANNOUNCE, message)


async def silent_streams(connection: Connection) -> None:
    while True:
        stream = await connection.open_uni()
        stream.send_nowait(b"\x40")


async def endless_streams(connection: Connection) -> None:
    """A name as long as a message may have, that never comes to its end."""
    while True:
        stream = await connection.open_bidi()
        await stream.send.send_all(b"\x02" + encode_varint(65_000) + bytes(60_000))


async def groups_for_nobody(connection: Connection) -> None:
    for sequence in range(10_000):
        stream = await connection.open_uni()
        await stream.send_all(encode_group_header(5, sequence, LITE_05) + bytes(20_000))


FLOODS: list[Callable[[Connection], Awaitable[None]]] = [
    subscriptions,
    fetches,
    fetches_on_demand,
    history_on_demand,
    announcements,
    silent_streams,
    endless_streams,
    groups_for_nobody,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
async def test_a_flood(flood: Callable[[Connection], Awaitable[None]]) -> None:
    async with running("flooded_server.py") as server:
        where = await server.line()
        before = (await server.ask("look"))["rss"]
        tls = moqtrio.ClientTls(fingerprint=where["fingerprint"])
        end: moqtrio.SessionClosed | None = None
        with trio.fail_after(30):
            async with (
                open_quic("127.0.0.1", where["port"], alpn=[LITE_05.alpn], tls=tls) as connection,
                trio.open_nursery() as nursery,
            ):

                async def attack() -> None:
                    nonlocal end
                    try:
                        with trio.move_on_after(1.2):
                            await flood(connection)
                    except (moqtrio.SessionClosed, trio.BrokenResourceError):
                        end = connection.closed

                nursery.start_soon(attack)
                await trio.sleep(0.5)
                await check_served(where)
            await check_served(where)
        cost = await most_of(server) - before
        print(f"{flood.__name__}: {cost / MIB:.0f} MiB, {end}")
        assert cost < BOUND
        if end is not None:
            assert end.code == moqtrio.SessionCode.PROTOCOL_VIOLATION
            assert "too many requests" in end.reason


async def most_of(server: Process) -> int:
    most: int = (await server.ask("look"))["most"]
    return most


async def check_served(where: dict[str, Any]) -> None:
    """Somebody else gets a megabyte in good time."""
    tls = moqtrio.ClientTls(fingerprint=where["fingerprint"])
    with trio.fail_after(5):
        async with moqtrio.open_session(where["url"], tls=tls) as session:
            for track, sequence in (("t", 49), ("on-demand", 99_999)):
                group = await session.fetch("b", track, sequence)
                assert len(await group.read_all()) == 16
