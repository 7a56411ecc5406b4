"""URLs taken apart, and refused with a reason."""

from __future__ import annotations

import pytest

from moqtrio.session.url import Binding, SessionUrl


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("moqt://localhost:4443", "moqt", "localhost", 4443, None),
        ("moql://127.0.0.1:1/", "moql", "127.0.0.1", 1, None),
        ("https://relay.example", "https", "relay.example", 443, None),
        ("http://[::1]:4443/a/b?jwt=x.y-z&c=d", "http", "::1", 4443, "/a/b?jwt=x.y-z&c=d"),
        ("ws://h?q", "ws", "h", 80, "?q"),
        ("wss://h/p#fragment", "wss", "h", 443, "/p"),
        ("HTTPS://Relay.Example/Path", "https", "relay.example", 443, "/Path"),
        ("https://h/ä b%20", "https", "h", 443, "/%C3%A4%20b%20"),
        ("moqt://h?", "moqt", "h", 443, None),
        ("https://bücher.example", "https", "xn--bcher-kva.example", 443, None),
    ],
)
def test_a_url_is_taken_apart(
    url: str, scheme: str, host: str, port: int, path: str | None
) -> None:
    assert SessionUrl.parse(url) == SessionUrl(scheme, host, port, path)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:4443", "has no scheme: expected https://HOST:PORT"),
        ("ftp://h", "got the scheme 'ftp'"),
        ("", "has no scheme"),
        ("https://", "has no host"),
        ("moqt://:4443", "has no host"),
        ("moqt://h:99999", "is not a URL"),
        ("moqt://h:x", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("https://user:secret@h", "has a user name"),
        ("moqt://" + "a" * 64 + ".example", "no name of a host"),
        ("https://a..b", "no name of a host"),
    ],
)
def test_what_is_no_url_of_a_session_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SessionUrl.parse(url)


def test_the_scheme_says_what_carries_the_session() -> None:
    bindings = {scheme: SessionUrl(scheme, "h", 1).binding for scheme in ("moqt", "https", "ws")}
    assert bindings == {"moqt": Binding.QUIC, "https": Binding.WEB, "ws": Binding.WEBSOCKET}
    assert SessionUrl.parse("http://h").binding is Binding.WEB
    assert not SessionUrl.parse("http://h").is_encrypted
    assert SessionUrl.parse("wss://h").is_encrypted


def test_a_url_is_put_together_again() -> None:
    url = "http://[2001:db8::1]:4443/a?b=c"
    assert str(SessionUrl.parse(url)) == url
    assert SessionUrl.parse("ws://h?q").target == "/?q"
    assert SessionUrl.parse("moqt://h").target == "/"


def test_a_client_needs_a_port() -> None:
    assert SessionUrl.parse_to_connect("https://h/p").port == 443
    with pytest.raises(ValueError, match="port 0: expected the one the server prints"):
        SessionUrl.parse_to_connect("https://h:0")


@pytest.mark.parametrize("url", ["https://[::]:0", "http://h", "moqt://h:0/", "moql://h"])
def test_what_a_server_can_listen_on(url: str) -> None:
    assert SessionUrl.parse_to_listen(url) == SessionUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ws://h:1", "takes WebSockets too, got the scheme 'ws'"),
        ("wss://h:1", "takes WebSockets too, got the scheme 'wss'"),
        ("https://h:1/path", "clients may ask for any path"),
        ("moqt://h:1?jwt=a", "clients may ask for any path"),
    ],
)
def test_what_a_server_cannot_listen_on(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SessionUrl.parse_to_listen(url)
