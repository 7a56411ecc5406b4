"""Who is let in: certificates, pins, protocols. Over loopback UDP."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from moqtrio.errors import ConnectError
from moqtrio.transport.connection import Connection
from moqtrio.transport.quic import QuicListener, open_quic
from moqtrio.transport.tls import (
    ClientTls,
    ServerTls,
    explain_certificate_error,
    generate_certificate,
    normalise_fingerprint,
)

from .pairs import ALPN, development_tls, pinned, plain_settings, start_server

AUTHORITY = trustme.CA()


def issued(tmp_path: Path, *names: str, **options: Any) -> ServerTls:
    """A certificate of AUTHORITY's, read from files as an operator would."""
    leaf = AUTHORITY.issue_cert(*names, **options)
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return ServerTls.from_files(certificate, key)


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return path


@asynccontextmanager
async def listening(
    tls: ServerTls | None = None, alpn: tuple[str, ...] = (ALPN,)
) -> AsyncIterator[tuple[QuicListener, list[str]]]:
    """A server, and the ALPN of each connection its handler was given."""
    handled: list[str] = []

    async def handler(connection: Connection) -> None:
        handled.append(connection.alpn)
        await connection.wait_closed()

    async with trio.open_nursery() as nursery:
        yield await start_server(nursery, handler, tls=tls, alpn=alpn), handled
        nursery.cancel_scope.cancel()


async def refused(listener: QuicListener, tls: ClientTls, **options: Any) -> str:
    """Why connecting fails."""
    with pytest.raises(ConnectError) as raised:
        await connected(listener, tls, **options)
    return str(raised.value)


async def connected(
    listener: QuicListener, tls: ClientTls, *, alpn: tuple[str, ...] = (ALPN,), **options: Any
) -> str:
    """Connect and say which protocol was agreed on."""
    async with open_quic(
        "127.0.0.1", listener.port, alpn=alpn, tls=tls, settings=plain_settings(), **options
    ) as connection:
        return connection.alpn


async def test_a_certificate_of_a_known_authority(tmp_path: Path, ca_file: Path) -> None:
    async with listening(issued(tmp_path, "127.0.0.1", "server.test")) as (listener, handled):
        assert await connected(listener, ClientTls(ca_file=ca_file)) == ALPN
        tls = ClientTls(ca_file=ca_file)
        assert await connected(listener, tls, server_name="server.test") == ALPN
        assert handled == [ALPN] * 2


async def test_another_host(tmp_path: Path, ca_file: Path) -> None:
    async with listening(issued(tmp_path, "other.test")) as (listener, handled):
        reason = await refused(listener, ClientTls(ca_file=ca_file))
        assert "another host" in reason
        assert "127.0.0.1" in reason
        assert "for another host (other.test)" in reason
        reason = await refused(listener, ClientTls(ca_file=ca_file), server_name="server.test")
        assert "another host" in reason
        assert not handled


async def test_an_expired_certificate(tmp_path: Path, ca_file: Path) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    async with listening(issued(tmp_path, "127.0.0.1", not_after=past)) as (listener, _):
        assert "expired" in await refused(listener, ClientTls(ca_file=ca_file))


async def test_an_unknown_authority(tmp_path: Path) -> None:
    async with listening(issued(tmp_path, "127.0.0.1")) as (listener, handled):
        assert "unknown issuer" in await refused(listener, ClientTls())
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        assert "unknown issuer" in await refused(listener, ClientTls(ca_file=other))
        assert not handled


async def test_a_development_certificate_is_not_trusted_unasked() -> None:
    async with listening() as (listener, handled):
        reason = await refused(listener, ClientTls())
        assert "unknown issuer" in reason
        assert "pin" in reason
        assert not handled


async def test_the_right_and_the_wrong_pin() -> None:
    async with listening() as (listener, handled):
        right = development_tls().fingerprint
        assert listener.fingerprint == right
        spaced = ":".join(right[at : at + 2] for at in range(0, 64, 2)).upper()
        assert await connected(listener, ClientTls(fingerprint=spaced)) == ALPN
        handled.clear()
        wrong = "0" * 64
        reason = await refused(listener, ClientTls(fingerprint=wrong))
        assert f"expected {wrong} got {right}" in reason
        # The pin is checked before the handshake ends: the server never served us.
        await trio.sleep(0.05)
        assert not handled


async def test_anything_goes_only_when_told() -> None:
    async with listening() as (listener, _):
        assert await connected(listener, ClientTls(insecure=True)) == ALPN


@pytest.mark.parametrize(
    "options",
    [
        {"fingerprint": "0" * 64, "insecure": True},
        {"fingerprint": "0" * 64, "ca_file": "x"},
        {"ca_file": "x", "insecure": True},
    ],
)
def test_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="contradict"):
        ClientTls(**options)


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "0" * 63, "0" * 65])
def test_malformed_fingerprints_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        normalise_fingerprint(text)


async def test_no_protocol_in_common() -> None:
    async with listening(alpn=("moq-lite-04",)) as (listener, handled):
        reason = await refused(listener, pinned(), alpn=("moq-lite-05", "moq-lite-06"))
        assert "moq-lite-05, moq-lite-06" in reason
        assert f"127.0.0.1:{listener.port}" in reason
        assert not handled


async def test_the_server_prefers_its_own_order() -> None:
    async with listening(alpn=("b", "a")) as (listener, _):
        assert await connected(listener, pinned(), alpn=("a", "b")) == "b"


async def test_missing_and_broken_files(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(ConnectError, match="CA file"):
        await ClientTls(ca_file=missing).load_authorities()
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConnectError, match="no PEM certificate"):
        await ClientTls(ca_file=empty).load_authorities()
    with pytest.raises(ConnectError, match="certificate file"):
        ServerTls.from_files(missing, missing)


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    tls, other = generate_certificate(), generate_certificate()
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(tls.certificate.public_bytes(Encoding.PEM))
    pem = other.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(pem)
    with pytest.raises(ConnectError, match="does not belong"):
        ServerTls.from_files(certificate, key)


def test_a_generated_certificate_can_be_pinned_by_browsers() -> None:
    tls = generate_certificate(["moq.test", "10.1.2.3"])
    certificate = tls.certificate
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime <= datetime.timedelta(days=14)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"moq.test", "localhost"}
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"10.1.2.3", "127.0.0.1", "::1"}
    assert normalise_fingerprint(tls.fingerprint) == tls.fingerprint
    assert "private_key" not in repr(tls)


def test_every_explanation_says_what_to_do() -> None:
    for detail in ("Certificate is not valid yet", "odd", "unable to get local issuer"):
        assert ";" in explain_certificate_error(detail, "server")
