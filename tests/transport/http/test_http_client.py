"""What a client says when it does not get what it asked for, and when it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, Request
from wsproto.handshake import H11Handshake

from moqtrio.errors import ConnectError
from moqtrio.transport.http import (
    FINGERPRINT_PATH,
    Resource,
    fetch_fingerprint,
    open_websocket,
)
from moqtrio.transport.tls import ClientTls, generate_certificate

from ..pairs import ALPN, development_tls, pinned, plain_settings, read_all, until
from .http_tools import answering, hold, server

HASTY = plain_settings(connect_timeout=0.3)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def unused_port() -> int:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    return port


async def test_the_fingerprint_a_server_tells() -> None:
    tls = development_tls()
    async with server(tls=tls) as port:
        assert await fetch_fingerprint("127.0.0.1", port) == tls.fingerprint


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"abcd", "64 hexadecimal digits"),
        (b"\xff" * 64, "ascii"),
        (b"a" * 10_000, "64 hexadecimal digits"),
    ],
)
async def test_an_answer_that_is_no_fingerprint(body: bytes, complaint: str) -> None:
    async with server(routes={FINGERPRINT_PATH: Resource(body=body)}) as port:
        with pytest.raises(ConnectError, match=complaint):
            await fetch_fingerprint("127.0.0.1", port)


async def test_no_fingerprint_there() -> None:
    async with server() as port:
        with pytest.raises(ConnectError, match="HTTP status 404"):
            await fetch_fingerprint("127.0.0.1", port)


async def say_something_else(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()
        await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.aclose()


async def say_nothing(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


async def answer_for_ever(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(bytes(10_000))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (say_something_else, "not answered in HTTP"),
        (hang_up, "not answered in HTTP"),
        (say_nothing, "not answered within 0.3 s"),
        (answer_for_ever, "64 hexadecimal digits"),
    ],
)
async def test_something_else_listens(answer: Any, complaint: str) -> None:
    async with answering(answer) as port:
        with pytest.raises(ConnectError, match=complaint):
            await fetch_fingerprint("127.0.0.1", port, settings=HASTY)


async def test_nobody_listens() -> None:
    port = await unused_port()
    with pytest.raises(ConnectError, match=f"nothing listens at TCP 127.0.0.1:{port} "):
        await fetch_fingerprint("127.0.0.1", port)
    with pytest.raises(ConnectError, match="refused"):
        await connect(port)
    with pytest.raises(ConnectError, match=r"cannot find the address of 'no\.such\.host"):
        await fetch_fingerprint("no.such.host.invalid", 1)


async def connect(port: int, **options: Any) -> None:
    """Connect and leave again."""
    options.setdefault("encrypted", False)
    options.setdefault("protocols", [ALPN])
    options.setdefault("settings", plain_settings())
    async with open_websocket("127.0.0.1", port, **options):
        pass


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (say_something_else, "no WebSocket handshake"),
        (hang_up, "lost in the handshake"),
        (say_nothing, "did not answer within 0.3 s"),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
async def test_no_websocket_there(answer: Any, complaint: str, encrypted: bool) -> None:
    if encrypted and answer is not say_nothing:
        complaint = "TLS handshake"
    async with answering(answer) as port:
        with pytest.raises(ConnectError, match=complaint):
            await connect(port, encrypted=encrypted, settings=HASTY)


async def test_a_server_that_speaks_other_protocols() -> None:
    async with server() as port:
        with pytest.raises(ConnectError, match="at /some/where with HTTP status 400"):
            await connect(port, protocols=["another"], path="/some/where")


async def test_a_server_that_upgrades_and_says_no_more() -> None:
    async def accept(stream: trio.SocketStream) -> None:
        async with stream:
            handshake = H11Handshake(ConnectionType.SERVER)
            handshake.receive_data(await stream.receive_some())
            (asked,) = handshake.events()
            assert isinstance(asked, Request)
            accept = AcceptConnection(subprotocol=asked.subprotocols[0])
            await stream.send_all(handshake.send(accept))
            await trio.sleep_forever()

    async with answering(accept) as port:
        with pytest.raises(ConnectError, match="no transport parameters came in time"):
            await connect(port, settings=HASTY)


async def test_a_path_starts_with_a_slash() -> None:
    with pytest.raises(ValueError, match="starts with a slash"):
        await connect(1, path="no")


async def test_an_exception_from_the_block_comes_out_as_it_is() -> None:
    async with server() as port:
        with pytest.raises(KeyError):
            async with open_websocket("127.0.0.1", port, protocols=[ALPN], encrypted=False):
                raise KeyError


async def test_the_path_and_both_ends_names() -> None:
    seen: list[tuple[str | None, str, bool]] = []

    async def handler(connection: Any) -> None:
        seen.append((connection.request_path, connection.alpn, connection.is_client))
        await hold(connection)

    async with (
        server(handler) as port,
        open_websocket(
            "127.0.0.1", port, protocols=["new", ALPN], path="/a/b?c=d", encrypted=False
        ) as near,
    ):
        assert near.request_path == "/a/b?c=d"
        assert near.alpn == ALPN
        assert near.remote_address == f"127.0.0.1:{port}"
        assert near.peer_certificate is None
        await until(lambda: bool(seen))
    assert seen == [("/a/b?c=d", ALPN, False)]


async def test_the_pinned_certificate_and_no_other() -> None:
    tls = development_tls()
    async with server(tls=tls) as port:
        async with open_websocket("127.0.0.1", port, protocols=[ALPN], tls=pinned()) as near:
            assert near.peer_certificate == tls.certificate
        other = ClientTls(fingerprint="ab" * 32)
        with pytest.raises(ConnectError, match=f"expected {'ab' * 32} got {tls.fingerprint}"):
            await connect(port, encrypted=True, tls=other)


async def test_certificates_are_checked_unless_told_otherwise(tmp_path: Path) -> None:
    tls = generate_certificate()
    authority = tmp_path / "ca.pem"
    authority.write_bytes(tls.certificate.public_bytes(Encoding.PEM))
    async with server(tls=tls) as port:
        with pytest.raises(ConnectError, match=r"unknown issuer .*pin its SHA-256"):
            await connect(port, encrypted=True)
        await connect(port, encrypted=True, tls=ClientTls(insecure=True))
        await connect(port, encrypted=True, tls=ClientTls(ca_file=authority))
        with pytest.raises(ConnectError, match="another host"):
            await connect(
                port, encrypted=True, tls=ClientTls(ca_file=authority), server_name="example.org"
            )


async def test_a_server_that_wants_certificates_takes_no_plain_websocket(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(development_tls().certificate.public_bytes(Encoding.PEM))
    async with server(tls=generate_certificate(client_ca_file=authority)) as port:
        with pytest.raises(ConnectError, match="HTTP status 403"):
            await connect(port)


async def test_many_connections_leave_nothing_behind() -> None:
    async with server(tls=development_tls()) as port:
        await connect(port)
        before = open_files()
        for encrypted in (False, True):
            for _ in range(5):
                await connect(port, encrypted=encrypted, tls=pinned())
            with pytest.raises(ConnectError):
                await connect(port, encrypted=encrypted, tls=pinned(), protocols=["another"])
        await until(lambda: open_files() <= before)


async def test_cancelling_an_attempt_leaves_nothing_behind() -> None:
    async with answering(say_nothing) as port:
        before = open_files()
        for encrypted in (False, True):
            with trio.move_on_after(0.05) as scope:
                await connect(port, encrypted=encrypted)
            assert scope.cancelled_caught
        # What is left is what the other server holds.
        assert open_files() <= before + 2


async def test_what_is_sent_last_arrives() -> None:
    received: list[bytes] = []
    done = trio.Event()

    async def handler(connection: Any) -> None:
        received.append(await read_all(await connection.accept_uni()))
        done.set()
        await hold(connection)

    async with server(handler) as port:
        async with open_websocket("127.0.0.1", port, protocols=[ALPN], encrypted=False) as near:
            stream = await near.open_uni()
            await stream.send_all(bytes(500_000))
            stream.finish()
            await stream.wait_stopped()
        with trio.fail_after(5):
            await done.wait()
    assert len(received[0]) == 500_000
