"""Clients prove their address: over loopback UDP, through a proxy that can lie."""

from __future__ import annotations

import contextlib
import gc
import socket
from typing import Any

import pytest
import trio

from moqtrio.errors import ConnectError
from moqtrio.transport.quic import open_quic
from moqtrio.transport.quic.connection import QuicConnection
from moqtrio.transport.quic.retry import RetryTokens

from .pairs import ALPN, pinned, plain_settings, start_server, until
from .proxy import UdpProxy, proxied
from .test_quic_server import ask, echo
from .test_review_endpoint import first_flight


def is_initial(data: bytes) -> bool:
    return data[0] & 0xF0 == 0xC0


def is_retry(data: bytes) -> bool:
    return data[0] & 0xF0 == 0xF0


def servers_connections() -> int:
    return sum(type(each) is QuicConnection and not each.is_client for each in gc.get_objects())


def opened(port: int, **options: Any) -> Any:
    return open_quic(
        "127.0.0.1", port, alpn=[ALPN], tls=pinned(), settings=plain_settings(**options)
    )


@pytest.mark.parametrize(("threshold", "retried"), [(0, True), (1, False)])
async def test_a_server_that_always_asks_and_one_that_is_idle(
    threshold: int, retried: bool
) -> None:
    async with trio.open_nursery() as nursery:
        settings = plain_settings(retry_threshold=threshold)
        listener = await start_server(nursery, echo, settings=settings)
        async with proxied(listener.port) as proxy, opened(proxy.port) as connection:
            assert await ask(connection, b"hello") == b"hello"
            assert any(is_retry(data) for data in proxy.to_client) == retried
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def an_exchange() -> Any:
    """A server that always asks, a client it has let in, and the proxy between them."""
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, settings=plain_settings(retry_threshold=0))
        async with proxied(listener.port) as proxy, opened(proxy.port) as connection:
            assert await ask(connection, b"hello") == b"hello"
            yield listener.port, proxy
        nursery.cancel_scope.cancel()


def with_token(proxy: UdpProxy) -> bytes:
    """The client's answer to the Retry."""
    return [data for data in proxy.to_server if is_initial(data)][1]


async def answers_to(port: int, *datagrams: bytes) -> list[bytes]:
    """What a server says to an address it has not heard of."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as other:
        await other.bind(("127.0.0.1", 0))
        answers = []
        for data in datagrams:
            await other.sendto(data, ("127.0.0.1", port))
            with trio.fail_after(2):
                answers.append(await other.recv(65536))
        return answers


async def test_a_token_is_of_no_use_at_another_address() -> None:
    async with an_exchange() as (port, proxy):
        before = servers_connections()
        stolen = with_token(proxy)
        # It belongs to a connection there is, until that is over.
        unknown_id = stolen.replace(stolen[6 : 6 + stolen[5]], b"12345678", 1)
        [answer] = await answers_to(port, unknown_id)
        assert is_initial(answer)
        assert len(answer) < len(stolen) // 8  # not worth forging for
        assert servers_connections() <= before


async def test_a_forged_token_is_refused_and_a_foreign_one_ignored() -> None:
    async with an_exchange() as (port, _):
        before = servers_connections()
        [flight] = [data for data in first_flight() if len(data) >= 1200][:1]
        answers = await answers_to(
            port,
            tokened(flight, b"moqtrio\x01" + bytes(50)),
            tokened(flight, b"somebody else's, kept from a visit long ago"),
            tokened(flight, b""),
        )
        assert is_initial(answers[0])
        assert [is_retry(answer) for answer in answers] == [False, True, True]
        assert servers_connections() <= before


def tokened(flight: bytes, token: bytes) -> bytes:
    """A first packet with another token. Its seal breaks: nobody gets to look at that."""
    at = 6 + flight[5]
    at += 1 + flight[at]
    assert flight[at] == 0  # the length of no token
    assert len(token) < 64  # fits one byte
    return flight[:at] + bytes([len(token)]) + token + flight[at + 1 :]


async def test_replayed_answers_make_no_second_connection() -> None:
    async with an_exchange() as (_, proxy):
        before = servers_connections()
        again = with_token(proxy)
        seen = len(proxy.to_client)
        for _ in range(50):
            proxy._outside.sendto(again, proxy._server)
        # Later than all of them, the server has nothing to say but to the client.
        await trio.sleep(0.05)
        assert servers_connections() <= before
        assert not any(is_retry(data) for data in proxy.to_client[seen:])


async def test_a_client_whose_port_changes_before_it_answers_is_told_at_once() -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, settings=plain_settings(retry_threshold=0))
        async with proxied(listener.port) as proxy:

            def move(data: bytes) -> list[bytes]:
                if is_retry(data):
                    proxy.rebind()
                return [data]

            proxy.inbound = move
            with trio.fail_after(2), pytest.raises(ConnectError, match=r"INVALID_TOKEN.*address"):
                async with opened(proxy.port):
                    pytest.fail("connected with a token of another address")
            # The next attempt begins anew.
            proxy.inbound = lambda data: [data]
            async with opened(proxy.port) as connection:
                assert await ask(connection, b"hello") == b"hello"
        nursery.cancel_scope.cancel()


async def test_an_expired_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, settings=plain_settings(retry_threshold=0))
        seal = RetryTokens.seal

        def seal_long_ago(*arguments: Any) -> bytes:
            *rest, now = arguments
            return seal(*rest, now - 10.0)

        monkeypatch.setattr(RetryTokens, "seal", seal_long_ago)
        with trio.fail_after(2), pytest.raises(ConnectError, match=r"INVALID_TOKEN.*expired"):
            async with opened(listener.port):
                pytest.fail("connected with an old token")
        nursery.cancel_scope.cancel()


async def test_a_flood_from_everywhere_leaves_room_and_memory() -> None:
    gc.collect()
    threshold, flood = 8, 400
    async with trio.open_nursery() as nursery:
        settings = plain_settings(retry_threshold=threshold)
        listener = await start_server(nursery, echo, settings=settings)
        server = ("127.0.0.1", listener.port)
        flights = [next(iter(first_flight())) for _ in range(flood)]
        for number, flight in enumerate(flights):
            host = f"127.{1 + number // 200}.1.{1 + number % 200}"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
                forged.bind((host, 0))
                forged.sendto(flight, server)
            if number % 32 == 31:
                await trio.lowlevel.checkpoint()  # lets the server empty its buffer
        await until(lambda: servers_connections() >= threshold)
        async with proxied(listener.port) as proxy, opened(proxy.port) as connection:
            assert await ask(connection, b"let me in") == b"let me in"
            assert any(is_retry(data) for data in proxy.to_client)
            assert servers_connections() == threshold + 1
        nursery.cancel_scope.cancel()
