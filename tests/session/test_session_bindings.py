"""One server, one port: whatever a URL's scheme is, a session comes about over real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import moqtrio
from moqtrio.transport.http import Resource, serve_http
from moqtrio.transport.tls import ServerTls

TLS = moqtrio.generate_certificate()
PINNED = moqtrio.ClientTls(fingerprint=TLS.fingerprint)


def make_origin() -> moqtrio.Origin:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("events").create_track("all")
    for number in range(5):
        with track.append_group() as group:
            group.write_frame(b"frame %d" % number)
    track.finish()
    return origin


@asynccontextmanager
async def serving(
    origin: moqtrio.Origin, host: str = "localhost", tls: ServerTls = TLS, **arguments: object
) -> AsyncIterator[tuple[moqtrio.Listener, list[moqtrio.Session]]]:
    sessions: list[moqtrio.Session] = []
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(
            partial(
                moqtrio.serve,
                origin,
                f"https://{host}:0",
                tls=tls,
                on_session=sessions.append,
                **arguments,
            )
        )
        yield listener, sessions
        nursery.cancel_scope.cancel()


async def read_all(session: moqtrio.Session) -> list[bytes]:
    async with session.subscribe("events", "all", start=0) as subscription:
        payloads = []
        async for item in subscription:
            assert isinstance(item, moqtrio.GroupConsumer)
            payloads += [frame.payload async for frame in item]
        return payloads


EVERYTHING = [b"frame %d" % number for number in range(5)]


@pytest.mark.parametrize(
    ("scheme", "tls"),
    [
        ("moqt", PINNED),
        ("moql", PINNED),
        ("https", PINNED),
        ("http", None),
        ("ws", None),
        ("wss", PINNED),
    ],
)
async def test_every_scheme_leads_to_the_same_server(
    scheme: str, tls: moqtrio.ClientTls | None
) -> None:
    async with serving(make_origin()) as (listener, sessions):
        url = f"{scheme}://localhost:{listener.port}/room?jwt=a.b.c"
        async with moqtrio.open_session(url, tls=tls) as session:
            assert await read_all(session) == EVERYTHING
            assert [each.peer_path for each in sessions] == ["/room?jwt=a.b.c"]
            assert session.version == sessions[0].version


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_fingerprint_given_holds(scheme: str) -> None:
    """``http`` neither asks the server for another one, nor goes without encryption."""
    wrong = moqtrio.ClientTls(fingerprint="00" * 32)
    async with serving(make_origin()) as (listener, _):
        url = f"{scheme}://localhost:{listener.port}"
        with pytest.raises(moqtrio.ConnectError) as caught:
            async with moqtrio.open_session(url, tls=wrong):
                pass
    # Once, though over https it is the reason of both ways.
    assert str(caught.value).count("certificate fingerprint: expected 0000") == 1


@pytest.mark.parametrize(
    ("years", "complaint"),
    [
        ((2020, 2021), "certificate has expired; renew it"),
        ((2120, 2121), "certificate is not valid yet; check the clocks"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_told_once(
    tmp_path: Path, years: tuple[int, int], complaint: str
) -> None:
    authority = trustme.CA()
    begin, end = (datetime(year, 1, 1, tzinfo=UTC) for year in years)
    issued = authority.issue_cert("localhost", not_before=begin, not_after=end)
    certificate, key, ca = (tmp_path / each for each in ("cert.pem", "key.pem", "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    tls = ServerTls.from_files(certificate, key)
    async with serving(make_origin(), tls=tls) as (listener, _):
        with pytest.raises(moqtrio.ConnectError) as caught:
            async with moqtrio.open_session(
                f"https://localhost:{listener.port}", tls=moqtrio.ClientTls(ca_file=ca)
            ):
                pass
    assert str(caught.value).startswith(f"localhost (127.0.0.1:{listener.port}): {complaint}")
    assert str(caught.value).count("certificate") == 1
    assert not caught.value.retryable


async def test_a_websocket_that_lacks_its_certificate_says_so(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    tls = moqtrio.generate_certificate(client_ca_file=ca)
    pinned = moqtrio.ClientTls(fingerprint=tls.fingerprint)
    async with serving(make_origin(), tls=tls) as (listener, _):
        with pytest.raises(moqtrio.ConnectError, match="wants a certificate of its clients"):
            async with moqtrio.open_session(f"wss://localhost:{listener.port}", tls=pinned):
                pass


async def test_a_file_that_cannot_be_used_is_the_only_reason() -> None:
    tls = moqtrio.ClientTls(ca_file="no-such-file.pem")
    with pytest.raises(moqtrio.ConnectError) as caught:
        async with moqtrio.open_session("https://127.0.0.1:1", tls=tls):
            pass
    assert str(caught.value).startswith("cannot read the CA file no-such-file.pem")
    assert "127.0.0.1" not in str(caught.value)


async def test_where_udp_is_blocked_a_websocket_takes_over() -> None:
    origin = make_origin()

    async def handle(connection: object) -> None:
        async with moqtrio.session.open_session_over(
            connection, moqtrio.session.dialing.version_of(connection), publish=origin
        ) as session:
            await session.wait_closed()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:  # takes all, says nothing
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        async with trio.open_nursery() as nursery:
            protocols = [version.alpn for version in moqtrio.wire.OFFERED]
            await nursery.start(
                partial(serve_http, handle, "127.0.0.1", port, protocols=protocols, tls=TLS)
            )
            started = trio.current_time()
            url = f"https://127.0.0.1:{port}"
            async with moqtrio.open_session(url, tls=PINNED) as session:
                assert 0.2 <= trio.current_time() - started < 5
                assert await read_all(session) == EVERYTHING
            nursery.cancel_scope.cancel()


async def test_without_tcp_webtransport_is_enough() -> None:
    async with serving(make_origin(), tcp=False) as (listener, _):
        url = f"https://localhost:{listener.port}"
        async with moqtrio.open_session(url, tls=PINNED) as session:
            assert await read_all(session) == EVERYTHING


async def test_a_failure_names_every_way_that_was_tried() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(moqtrio.ConnectError) as caught:
        async with moqtrio.open_session(f"https://127.0.0.1:{port}", tls=PINNED):
            pass
    assert "UDP" in str(caught.value)
    assert "TCP" in str(caught.value)


@pytest.mark.parametrize("host", ["[::]", "0.0.0.0"])
async def test_a_wildcard_listens_on_every_address_for_udp_and_tcp(host: str) -> None:
    async with serving(make_origin(), host) as (listener, _):
        for scheme in ("moqt", "wss"):
            url = f"{scheme}://127.0.0.1:{listener.port}"
            async with moqtrio.open_session(url, tls=PINNED) as session:
                assert await read_all(session) == EVERYTHING


async def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    async with serving(make_origin()) as (listener, _):
        with pytest.raises(moqtrio.ConnectError, match=f"cannot listen on .*{listener.port}"):
            await moqtrio.serve(make_origin(), listener.url, tls=TLS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(moqtrio.ConnectError, match="cannot listen on TCP"):
            await moqtrio.serve(make_origin(), url, tls=TLS)


async def test_pages_are_served_beside_sessions() -> None:
    routes = {"/": Resource(body=b"hello", content_type="text/html; charset=utf-8")}
    async with serving(make_origin(), routes=routes) as (listener, _):
        stream = await trio.open_tcp_stream("localhost", listener.port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join([bytes(data) async for data in stream])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nhello")
