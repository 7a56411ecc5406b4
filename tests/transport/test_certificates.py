"""Certificates that are renewed while a server runs, and those that clients present."""

from __future__ import annotations

import datetime
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moqtrio.errors import ConnectError
from moqtrio.transport import tls as tls_module
from moqtrio.transport.certificates import DevelopmentCertificates
from moqtrio.transport.connection import Connection
from moqtrio.transport.quic import QuicListener, open_quic
from moqtrio.transport.tls import ClientTls, ServerTls, fingerprint_of, generate_certificate

from .pairs import ALPN, plain_settings, start_server, until
from .test_quic_server import ask, echo

AUTHORITY = trustme.CA()
CLIENTS = trustme.CA()


@attrs.frozen
class Files:
    """Where an operator keeps a certificate and its key."""

    certificate: Path
    key: Path

    @classmethod
    def within(cls, directory: Path, name: str) -> Files:
        return cls(directory / f"{name}.pem", directory / f"{name}.key")

    def write(self, leaf: trustme.LeafCert) -> str:
        """Put a certificate there, as renewing tools do; returns its fingerprint."""
        pem = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        for path, content in (
            (self.key, leaf.private_key_pem.bytes()),
            (self.certificate, pem),
        ):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            os.replace(fresh, path)
        return fingerprint_of(x509.load_pem_x509_certificate(pem))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.within(tmp_path, "server")


@pytest.fixture
def watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_LOOK_INTERVAL", 0.01)


def ca_file(tmp_path: Path, authority: trustme.CA) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def opened(listener: QuicListener, tls: ClientTls) -> Any:
    return open_quic("127.0.0.1", listener.port, alpn=[ALPN], tls=tls, settings=plain_settings())


async def fingerprint_changes(listener: QuicListener, to: str) -> None:
    await until(lambda: listener.fingerprint == to)


# Renewal


async def test_a_new_certificate_serves_new_connections(
    files: Files, watched_closely: None, caplog: pytest.LogCaptureFixture
) -> None:
    first = files.write(AUTHORITY.issue_cert("127.0.0.1"))
    tls = ServerTls.from_files(files.certificate, files.key)
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, tls=tls)
        assert listener.fingerprint == first
        async with opened(listener, ClientTls(fingerprint=first)) as old:
            second = files.write(AUTHORITY.issue_cert("127.0.0.1"))
            await fingerprint_changes(listener, second)
            async with opened(listener, ClientTls(fingerprint=second)) as new:
                assert await ask(new, b"new") == b"new"
            assert await ask(old, b"old") == b"old"
        with pytest.raises(ConnectError, match="fingerprint"):
            async with opened(listener, ClientTls(fingerprint=first)):
                pytest.fail("the old certificate was presented")
        nursery.cancel_scope.cancel()
    assert f"new {files.certificate} certificate, SHA-256 fingerprint {second}" in caplog.text


async def test_a_bad_certificate_is_told_of_once_and_not_used(
    files: Files, watched_closely: None, caplog: pytest.LogCaptureFixture
) -> None:
    first = files.write(AUTHORITY.issue_cert("127.0.0.1"))
    tls = ServerTls.from_files(files.certificate, files.key)
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, tls=tls)
        files.certificate.write_text("half a certificate")
        await until(lambda: bool(caplog.records))
        await trio.sleep(0.1)  # ten more looks
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert "\n" not in record.message
        assert f"{files.certificate} holds no PEM" in record.message
        assert "old certificate stays in use" in record.message
        async with opened(listener, ClientTls(fingerprint=first)) as connection:
            assert await ask(connection, b"fine") == b"fine"
        # Once there is a good one again it is taken.
        second = files.write(AUTHORITY.issue_cert("127.0.0.1"))
        await fingerprint_changes(listener, second)
        files.certificate.unlink()
        await until(lambda: "No such file" in caplog.text)
        assert listener.fingerprint == second
        nursery.cancel_scope.cancel()


async def test_reloading_by_hand(files: Files) -> None:
    first = files.write(AUTHORITY.issue_cert("127.0.0.1"))
    tls = ServerTls.from_files(files.certificate, files.key)
    files.key.write_bytes(trustme.CA().private_key_pem.bytes())
    with pytest.raises(ConnectError, match="does not belong"):
        await tls.reload()
    assert tls.fingerprint == first
    second = files.write(AUTHORITY.issue_cert("127.0.0.1"))
    await tls.reload()
    assert tls.fingerprint == second


def test_a_key_nobody_can_sign_with_is_refused(files: Files) -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    files.certificate.write_bytes(generate_certificate().certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConnectError, match="use ECDSA P-256"):
        ServerTls.from_files(files.certificate, files.key)


async def test_a_development_certificate_is_renewed_a_day_before_its_end(
    watched_closely: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Aging(DevelopmentCertificates):
        """Its first certificate ends in a day."""

        def load(self) -> Any:
            self._lifetime = lifetimes.pop(0)
            return super().load()

    day = datetime.timedelta(days=1)
    lifetimes = [day, 13 * day]
    tls = ServerTls(Aging(["server.test"]))
    first = tls.fingerprint
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo, tls=tls)
        await until(lambda: listener.fingerprint != first)
        await trio.sleep(0.05)  # a third would find no lifetime
        async with opened(listener, ClientTls(fingerprint=listener.fingerprint)) as connection:
            assert await ask(connection, b"fine") == b"fine"
        nursery.cancel_scope.cancel()
    assert f"new development certificate, SHA-256 fingerprint {tls.fingerprint}" in caplog.text
    lives = tls.certificate.not_valid_after_utc - tls.certificate.not_valid_before_utc
    assert lives <= 14 * day


async def test_one_of_several_servers_looks_after_a_certificate_they_share(
    files: Files, watched_closely: None, caplog: pytest.LogCaptureFixture
) -> None:
    files.write(AUTHORITY.issue_cert("127.0.0.1"))
    tls = ServerTls.from_files(files.certificate, files.key)
    first = trio.CancelScope()

    async def serve_for_a_while(task_status: trio.TaskStatus[None]) -> None:
        with first:
            async with trio.open_nursery() as inner:
                await start_server(inner, echo, tls=tls)
                task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_for_a_while)
        listener = await start_server(nursery, echo, tls=tls)
        await fingerprint_changes(listener, files.write(AUTHORITY.issue_cert("127.0.0.1")))
        assert len(caplog.records) == 1
        first.cancel()  # the other takes over
        await fingerprint_changes(listener, files.write(AUTHORITY.issue_cert("127.0.0.1")))
        assert len(caplog.records) == 2
        nursery.cancel_scope.cancel()


# Clients' certificates


def issued_to_client(tmp_path: Path, authority: trustme.CA = CLIENTS) -> ClientTls:
    mine = Files.within(tmp_path, "client")
    mine.write(authority.issue_cert("alice@clients.test"))
    return ClientTls(
        ca_file=ca_file(tmp_path, AUTHORITY), certificate_file=mine.certificate, key_file=mine.key
    )


@asynccontextmanager
async def asking(
    tmp_path: Path, *, require: bool = True
) -> AsyncIterator[tuple[QuicListener, list[x509.Certificate | None]]]:
    """A server that asks for certificates of CLIENTS, and what it was shown."""
    files = Files.within(tmp_path, "server")
    files.write(AUTHORITY.issue_cert("127.0.0.1"))
    authorities = tmp_path / "clients.pem"
    CLIENTS.cert_pem.write_to_path(str(authorities))
    tls = ServerTls.from_files(
        files.certificate,
        files.key,
        client_ca_file=authorities,
        require_client_certificate=require,
    )
    shown: list[x509.Certificate | None] = []

    async def handler(connection: Connection) -> None:
        shown.append(connection.peer_certificate)
        await echo(connection)

    async with trio.open_nursery() as nursery:
        yield await start_server(nursery, handler, tls=tls), shown
        nursery.cancel_scope.cancel()


def names_of(certificate: x509.Certificate | None) -> list[str]:
    assert certificate is not None
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.RFC822Name)


async def refusal(listener: QuicListener, tls: ClientTls) -> str:
    with trio.fail_after(5), pytest.raises(ConnectError) as raised:
        async with opened(listener, tls):
            pytest.fail("was let in")
    return str(raised.value)


async def test_a_client_shows_who_it_is(tmp_path: Path) -> None:
    async with asking(tmp_path) as (listener, shown):
        async with opened(listener, issued_to_client(tmp_path)) as connection:
            assert await ask(connection, b"hello") == b"hello"
            assert fingerprint_of(connection.peer_certificate) == listener.fingerprint
        assert [names_of(each) for each in shown] == [["alice@clients.test"]]


async def test_a_client_without_a_certificate_is_refused(tmp_path: Path) -> None:
    async with asking(tmp_path) as (listener, shown):
        reason = await refusal(listener, ClientTls(ca_file=ca_file(tmp_path, AUTHORITY)))
        assert "did not accept this client" in reason
        assert "certificate_file" in reason
        assert shown == []


async def test_a_client_without_a_certificate_is_let_in_where_it_need_not_have_one(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path, require=False) as (listener, shown):
        anonymous = ClientTls(ca_file=ca_file(tmp_path, AUTHORITY))
        for tls in (anonymous, issued_to_client(tmp_path)):
            async with opened(listener, tls) as connection:
                assert await ask(connection, b"hello") == b"hello"
        assert shown[0] is None
        assert names_of(shown[1]) == ["alice@clients.test"]
        # One that is shown must hold, though none need be.
        await refusal(listener, issued_to_client(tmp_path, trustme.CA()))
        assert len(shown) == 2


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    async with asking(tmp_path) as (listener, shown):
        for authority in (trustme.CA(), AUTHORITY):
            reason = await refusal(listener, issued_to_client(tmp_path, authority))
            assert "did not accept this client" in reason
        assert shown == []


def signed_by_clients_authority(**dates: datetime.datetime) -> tuple[x509.Certificate, Any]:
    """A certificate that CLIENTS' key has signed, for servers alone unless it is expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(CLIENTS.cert_pem.bytes())
    now = datetime.datetime.now(datetime.UTC)
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if dates else ExtendedKeyUsageOID.SERVER_AUTH
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mallory")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(dates.get("until", now + datetime.timedelta(days=1)))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(CLIENTS._private_key, hashes.SHA256())
    )
    return certificate, key


@pytest.mark.parametrize("flaw", ["for servers", "expired", "another's key"])
async def test_a_flawed_certificate_is_refused(tmp_path: Path, flaw: str) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate, key = (
        signed_by_clients_authority(until=past)
        if flaw == "expired"
        else signed_by_clients_authority()
    )
    tls = issued_to_client(tmp_path)
    assert tls.certificate_file is not None
    assert tls.key_file is not None
    tls.certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    if flaw != "another's key":
        tls.key_file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        async with asking(tmp_path) as (listener, shown):
            assert "did not accept" in await refusal(listener, tls)
            assert shown == []
    else:
        async with asking(tmp_path) as (listener, shown):
            assert "does not belong" in await refusal(listener, tls)


async def test_a_thief_of_a_certificate_lacks_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = issued_to_client(tmp_path)
    credentials = await tls.load_credentials()
    assert credentials is not None
    stolen = attrs.evolve(credentials, private_key=ec.generate_private_key(ec.SECP256R1()))

    async def steal(_: ClientTls) -> Any:
        return stolen

    monkeypatch.setattr(ClientTls, "load_credentials", steal)
    async with asking(tmp_path) as (listener, shown):
        assert "did not accept" in await refusal(listener, tls)
        assert shown == []


def test_half_a_certificate_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        ClientTls(certificate_file=tmp_path / "client.pem")


# TLS over TCP


async def over_tcp(server: ServerTls, client: ClientTls) -> tuple[Any, Any, str | None]:
    """What each side is shown by the other, and the protocol they agreed on."""
    alpn = ("moq", "http/1.1")
    near, far = trio.testing.memory_stream_pair()
    ours = trio.SSLStream(near, await client.ssl_context(alpn[:1]), server_hostname="127.0.0.1")
    theirs = trio.SSLStream(far, server.ssl_context(alpn), server_side=True)

    async def answer() -> None:
        try:
            await theirs.do_handshake()
            await theirs.send_all(b"welcome")
        except trio.BrokenResourceError:
            await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await ours.do_handshake()
        # A server's refusal comes after the handshake, to a client.
        assert await ours.receive_some() == b"welcome"
    return (
        ours.getpeercert(binary_form=True),
        theirs.getpeercert(binary_form=True),
        ours.selected_alpn_protocol(),
    )


async def test_tls_over_tcp_presents_the_certificate_of_now(files: Files, tmp_path: Path) -> None:
    files.write(AUTHORITY.issue_cert("127.0.0.1"))
    server = ServerTls.from_files(files.certificate, files.key)
    client = ClientTls(ca_file=ca_file(tmp_path, AUTHORITY))
    shown, _, alpn = await over_tcp(server, client)
    assert shown == server.certificate.public_bytes(Encoding.DER)
    assert alpn == "moq"
    assert server.ssl_context(["a"]) is server.ssl_context(["a"])
    files.write(AUTHORITY.issue_cert("127.0.0.1"))
    await server.reload()
    shown, _, _ = await over_tcp(server, client)
    assert shown == server.certificate.public_bytes(Encoding.DER)


async def test_tls_over_tcp_with_a_pin_and_with_an_unknown_authority() -> None:
    server = generate_certificate()
    shown, _, _ = await over_tcp(server, ClientTls(fingerprint=server.fingerprint))
    assert fingerprint_of(x509.load_der_x509_certificate(shown)) == server.fingerprint
    with pytest.RaisesGroup(
        pytest.RaisesExc(trio.BrokenResourceError), flatten_subgroups=True
    ) as raised:
        await over_tcp(server, ClientTls())
    [error] = raised.value.exceptions
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


async def test_tls_over_tcp_asks_for_certificates_too(files: Files, tmp_path: Path) -> None:
    files.write(AUTHORITY.issue_cert("127.0.0.1"))
    authorities = tmp_path / "clients.pem"
    CLIENTS.cert_pem.write_to_path(str(authorities))
    server = ServerTls.from_files(files.certificate, files.key, client_ca_file=authorities)
    _, shown, _ = await over_tcp(server, issued_to_client(tmp_path))
    assert names_of(x509.load_der_x509_certificate(shown)) == ["alice@clients.test"]
    with pytest.RaisesGroup(pytest.RaisesExc(trio.BrokenResourceError), flatten_subgroups=True):
        await over_tcp(server, ClientTls(ca_file=ca_file(tmp_path, AUTHORITY)))
