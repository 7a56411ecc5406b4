"""Addresses that change, Retry and client certificates, with moq-rs at the other end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
import trustme
from transport.proxy import UdpProxy, proxied

import moqtrio

from .endpoints import append_groups, assert_next_groups
from .processes import assert_groups, moq_rs_client, moq_rs_server

FRAMES, SIZE = 3, 700
ROOM = {"broadcast": "room", "track": "video"}


def is_retry(data: bytes) -> bool:
    return data[0] & 0xF0 == 0xF0


def moving(proxy: UdpProxy, every: int) -> list[tuple[str, int]]:
    """From now on the client comes from another port after every so many datagrams; returns
    where it came from."""
    addresses: list[tuple[str, int]] = []
    count = 0

    def rule(data: bytes) -> list[bytes]:
        nonlocal count
        count += 1
        if count % every == 0:
            proxy.rebind()
            addresses.append(proxy.address)
        return [data]

    proxy.outbound = rule
    return addresses


async def test_a_moq_rs_client_proves_its_address_and_changes_it() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("room").create_track("video", cache_age=3600.0)
    append_groups(track, 0, 2000, FRAMES, SIZE)
    serve = partial(
        moqtrio.serve,
        origin,
        "moqt://127.0.0.1:0",
        tls=moqtrio.generate_certificate(),
        transport=moqtrio.TransportSettings(retry_threshold=0),
    )
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve)
        async with proxied(listener.port) as proxy:
            url = f"moqt://127.0.0.1:{proxy.port}"
            async with moq_rs_client(url, listener.fingerprint) as client:
                assert any(map(is_retry, proxy.to_client))
                await client.do("announced", id="list")
                await client.expect("announcement", id="list", path="room")
                addresses = moving(proxy, every=20)
                await client.do("subscribe", id="sub", **ROOM, start=0)
                assert_groups(await client.groups("sub", 2000), 0, 2000, FRAMES, SIZE)
                assert len(addresses) > 1
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def a_session_with_moq_rs() -> AsyncIterator[tuple[UdpProxy, moqtrio.Session]]:
    """A session with a server that has 2,000 groups, through a proxy."""
    async with moq_rs_server() as server:
        port = int(server.url.rpartition(":")[2])
        await server.do("publish", **ROOM)
        await server.do("append", **ROOM, start=0, end=2000, frames=FRAMES, size=SIZE)
        async with (
            proxied(port) as proxy,
            moqtrio.open_session(
                f"moqt://127.0.0.1:{proxy.port}",
                tls=moqtrio.ClientTls(fingerprint=server.fingerprint),
            ) as session,
        ):
            yield proxy, session


async def test_moq_rs_follows_a_client_whose_port_changes() -> None:
    async with a_session_with_moq_rs() as (proxy, session):
        addresses = moving(proxy, every=20)
        async with session.subscribe("room", "video", start=0) as subscription:
            await assert_next_groups(subscription, 0, 2000, FRAMES, SIZE)
        assert len(addresses) > 1


async def test_moq_rs_follows_a_client_that_takes_another_address() -> None:
    async with a_session_with_moq_rs() as (proxy, session):
        async with session.subscribe("room", "video", start=0, end=100) as subscription:
            await assert_next_groups(subscription, 0, 100, FRAMES, SIZE)
        first = proxy.client
        proxy.cut_off_client()
        with trio.fail_after(20):
            async with session.subscribe("room", "video", start=100) as subscription:
                await assert_next_groups(subscription, 100, 2000, FRAMES, SIZE)
        assert proxy.client != first


async def test_a_moq_rs_client_shows_its_certificate(tmp_path: Path) -> None:
    clients = trustme.CA()
    authorities, certificate, key = (tmp_path / name for name in ("ca.pem", "c.pem", "c.key"))
    clients.cert_pem.write_to_path(str(authorities))
    leaf = clients.issue_cert("alice.clients.test")
    certificate.write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    tls = moqtrio.generate_certificate(client_ca_file=authorities)
    sessions: list[moqtrio.Session] = []
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(
            partial(
                moqtrio.serve,
                moqtrio.Origin(),
                "moqt://127.0.0.1:0",
                tls=tls,
                on_session=sessions.append,
            )
        )
        url = listener.url
        async with moq_rs_client(url, listener.fingerprint, str(certificate), str(key)) as client:
            await client.do("announced", id="list")
            [session] = sessions
            assert session.peer_certificate is not None
            assert "alice.clients.test" in str(session.peer_certificate.extensions)
        nursery.cancel_scope.cancel()
