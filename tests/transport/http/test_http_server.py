"""HTTP/1.1 as the server speaks it, over loopback TCP."""

from __future__ import annotations

import logging

import pytest
import trio

from moqtrio.errors import ConnectError
from moqtrio.transport.http import FINGERPRINT_PATH, Resource, serve_http

from ..pairs import development_tls, plain_settings
from .http_tools import (
    hold,
    read_to_end,
    request,
    say,
    server,
    unchecked_tls,
    upgrade,
)

PAGE = Resource(
    body=b"<h1>Hello</h1>", content_type="text/html; charset=utf-8", cache_control="max-age=60"
)
ROUTES = {"/": PAGE}


def headers_of(answer: str) -> dict[str, str]:
    head, _, _ = answer.partition("\r\n\r\n")
    pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:])
    return {name.lower(): value for name, value in pairs}


async def test_a_page_with_its_headers() -> None:
    async with server(routes=ROUTES) as port:
        answer = await say(port, request("GET /?query=1"))
    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.endswith("\r\n\r\n<h1>Hello</h1>")
    headers = headers_of(answer)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-length"] == "14"
    assert headers["cache-control"] == "max-age=60"
    assert "access-control-allow-origin" not in headers
    assert headers["date"].endswith(" GMT")


async def test_head_is_get_without_the_body() -> None:
    async with server(routes=ROUTES) as port:
        get, head = await say(port, request("GET /")), await say(port, request("HEAD /"))
    assert head.endswith("\r\n\r\n")
    ours, theirs = headers_of(head), headers_of(get)
    del ours["date"], theirs["date"]
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (request("GET /nowhere"), 404),
        (request("GET http://test/"), 200),
        (request("GET *"), 400),
        (request("POST /"), 405),
        (request("OPTIONS /"), 405),
        (request("POST /", "Content-Length: 5") + "12345", 400),
        (request("GET /", "Transfer-Encoding: chunked") + "1\r\nx\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("\x00\x01\x02\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\nx\r\n\r\n", 400),
        (request("GET /", "Content-Length: x"), 400),
        (request("GET /", f"X: {'x' * 40_000}"), 431),
        ("GET /" + "x" * 20_000, 431),
    ],
)
async def test_every_request_is_answered(text: str, status: int) -> None:
    async with server(routes=ROUTES) as port:
        assert (await say(port, text)).startswith(f"HTTP/1.1 {status} ")


async def test_who_sends_more_than_is_read_gets_the_refusal_all_the_same() -> None:
    body = bytes(2_000_000)
    head = request("POST /", f"Content-Length: {len(body)}").encode()
    async with server(routes=ROUTES) as port:
        assert (await say(port, head + body)).startswith("HTTP/1.1 400 ")


async def test_what_is_allowed_is_said() -> None:
    async with server(routes=ROUTES) as port:
        assert headers_of(await say(port, request("PUT /")))["allow"] == "GET, HEAD"


async def test_requests_follow_one_another_on_one_connection() -> None:
    async with server(routes=ROUTES) as port:
        again = request("GET /", close=False) + request("GET /nowhere", close=False)
        answer = await say(port, again + request("GET /"))
    assert answer.count("<h1>Hello</h1>") == 2
    assert answer.count("HTTP/1.1 404") == 1


async def test_the_fingerprint_over_both_kinds_of_connection() -> None:
    tls = development_tls()
    async with server(tls=tls) as port:
        plain = await say(port, request(f"GET {FINGERPRINT_PATH}"))
        stream = trio.SSLStream(
            await trio.open_tcp_stream("127.0.0.1", port), unchecked_tls(), https_compatible=True
        )
        async with stream:
            await stream.send_all(request(f"GET {FINGERPRINT_PATH}").encode())
            secured = (await read_to_end(stream)).decode()
    for answer in (plain, secured):
        assert answer.endswith(f"\r\n\r\n{tls.fingerprint}")
        assert headers_of(answer)["access-control-allow-origin"] == "*"
        assert headers_of(answer)["cache-control"] == "no-store"


async def test_without_a_certificate_there_is_no_fingerprint_and_no_tls() -> None:
    async with server() as port:
        assert (await say(port, request(f"GET {FINGERPRINT_PATH}"))).startswith("HTTP/1.1 404")
        assert await say(port, b"\x16\x03\x01\x00\x05hello") == ""


async def test_a_route_may_be_a_function() -> None:
    counts = iter(range(10))
    routes = {"/count": lambda: Resource(body=b"%d" % next(counts))}
    async with server(routes=routes) as port:
        assert [(await say(port, request("GET /count")))[-1] for _ in range(3)] == ["0", "1", "2"]


async def test_a_route_that_fails_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> Resource:
        raise RuntimeError("a defect")

    async with server(routes={"/fails": fail, **ROUTES}) as port:
        with caplog.at_level(logging.CRITICAL, "moqtrio.transport"):
            assert await say(port, request("GET /fails")) == ""
        assert (await say(port, request("GET /"))).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("text", ["", "G", "GET / HTTP/1.1\r\n", "\x16", "\x16\x03\x01"])
async def test_who_does_not_come_to_the_point_is_closed(text: str) -> None:
    async with server(tls=development_tls(), connect_timeout=0.1) as port:
        start = trio.current_time()
        assert await say(port, text) == ""
        assert trio.current_time() - start < 2


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_a_request_in_drips_is_closed_after_the_same_time(requests_before: int) -> None:
    async with server(routes=ROUTES, connect_timeout=0.5) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        start = trio.current_time()
        async with stream, trio.open_nursery() as nursery:
            for _ in range(requests_before):
                await stream.send_all(request("GET /", close=False).encode())
                await stream.receive_some()

            async def drip() -> None:
                while True:
                    await stream.send_all(b"G")
                    await trio.sleep(0.02)

            nursery.start_soon(drip)
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.15):
                await read_to_end(stream)
            assert await read_to_end(stream) == b""
            nursery.cancel_scope.cancel()
        assert trio.current_time() - start < 2


async def test_a_second_request_may_take_its_time_but_not_all_of_it() -> None:
    async with server(
        routes=ROUTES, connect_timeout=0.2, idle_timeout=0.8, keep_alive=None
    ) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            for _ in range(2):
                await stream.send_all(request("GET /", close=False).encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                await trio.sleep(0.4)
            start = trio.current_time()
            assert await read_to_end(stream) == b""
            assert trio.current_time() - start < 2


async def test_who_does_not_read_its_answer_is_closed() -> None:
    routes = {"/large": Resource(body=bytes(32 << 20))}
    async with server(routes=routes, idle_timeout=0.3, keep_alive=None) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(request("GET /large").encode())
            await trio.sleep(0.6)
            assert len(await read_to_end(stream)) < 32 << 20


async def websocket(port: int) -> trio.SocketStream:
    """A connection that is served, and stays."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(upgrade().encode())
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
    return stream


async def test_clients_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with server(routes=ROUTES, max_connections=2) as port:
        one, two = [await websocket(port) for _ in range(2)]
        async with one, two:
            assert await say(port, request("GET /")) == ""
            assert "limit of 2 connections" in caplog.text
            await one.aclose()
        with trio.fail_after(5):
            while not (await say(port, request("GET /"))).startswith("HTTP/1.1 200"):
                pass


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (upgrade(Sec_WebSocket_Protocol="qmux-02.another, webtransport"), 400),
        (upgrade(Sec_WebSocket_Protocol=None), 400),
        (upgrade(Sec_WebSocket_Version="12"), 426),
        (upgrade(Sec_WebSocket_Version=None), 400),
        (upgrade(Sec_WebSocket_Key=None), 400),
        (upgrade(Connection="close"), 400),
        (upgrade(Upgrade="h2c"), 404),
        (upgrade().replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc"), 400),
        (upgrade().replace("GET", "POST"), 404),
    ],
)
async def test_no_websocket_without_a_valid_handshake(text: str, status: int) -> None:
    async with server(idle_timeout=0.3, keep_alive=None) as port:
        answer = await say(port, text)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    if status == 426:
        assert headers_of(answer)["sec-websocket-version"] == "13"


async def test_a_taken_port_is_an_error_that_says_so() -> None:
    async with server() as port:
        with pytest.raises(ConnectError, match=f"cannot listen on TCP 127.0.0.1:{port}: .*in use"):
            await serve_http(hold, "127.0.0.1", port, protocols=["x"], settings=plain_settings())
    with pytest.raises(ConnectError, match="cannot find the address"):
        await serve_http(hold, "no.such.host.invalid", 0, protocols=["x"])
