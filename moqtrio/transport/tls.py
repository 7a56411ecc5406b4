"""Who a server is and how a client checks it, and the other way round.

A client verifies by default, against certifi's authorities. It can be given other
authorities, or the SHA-256 fingerprint of the one certificate it accepts; it checks
nothing only when told so explicitly. A server asks for certificates only when it is given
the authorities that issue them.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import certifi
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import ConnectError
from .certificates import (
    CertificateFiles,
    CertificatePin,
    CertificateSource,
    Credentials,
    DevelopmentCertificates,
    fingerprint_of,
    normalise_fingerprint,
    read_certificates,
)

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("moqtrio.transport")

# How often a server looks whether its certificate was renewed.
_LOOK_INTERVAL = 10.0  # seconds


@attrs.frozen(kw_only=True)
class ClientTls:
    """How a client checks the server's certificate, and its own. The default checks fully.

    Args:
      ca_file: a PEM file of the authorities to trust, instead of certifi's.
      fingerprint: the SHA-256 of the only certificate to accept, in hexadecimal. Then
        neither its issuer nor its names matter.
      insecure: accept any certificate. Anyone on the path can read and change
        everything.
      certificate_file: a PEM file of the client's own certificate and its chain, for
        servers that ask for one.
      key_file: a PEM file of that certificate's key.

    Raises:
      ValueError: a malformed fingerprint, more than one of the first three, or one of the
        last two without the other.
    """

    ca_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    fingerprint: str | None = attrs.field(
        default=None, converter=attrs.converters.optional(normalise_fingerprint)
    )
    insecure: bool = False
    certificate_file: Path | None = attrs.field(
        default=None, converter=attrs.converters.optional(Path)
    )
    key_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))

    def __attrs_post_init__(self) -> None:
        chosen = [
            name
            for name, given in (
                ("ca_file", self.ca_file is not None),
                ("fingerprint", self.fingerprint is not None),
                ("insecure", self.insecure),
            )
            if given
        ]
        if len(chosen) > 1:
            raise ValueError(f"choose one of {' and '.join(chosen)}: they contradict each other")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together: give both")

    @property
    def pin(self) -> CertificatePin | None:
        """The fingerprint to insist on, if there is one."""
        return None if self.fingerprint is None else CertificatePin(self.fingerprint)

    async def load_authorities(self) -> bytes | None:
        """The PEM text of :attr:`ca_file`, or None for certifi's.

        Raises:
          ConnectError: the file cannot be read or holds no certificate.
        """
        if self.ca_file is None:
            return None
        return _to_pem(await _in_thread(partial(read_certificates, self.ca_file, "CA")))

    async def load_credentials(self) -> Credentials | None:
        """The client's own certificate and key, if it has any.

        Raises:
          ConnectError: a file cannot be read or used, or the key is another's.
        """
        if self.certificate_file is None or self.key_file is None:
            return None
        return await _in_thread(partial(Credentials.read, self.certificate_file, self.key_file))

    async def ssl_context(self, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """For TLS over TCP. With a :attr:`pin`, the certificate remains to be checked
        against it after the handshake: nothing else does.

        Raises:
          ConnectError: a file cannot be read or used.
        """
        authorities = await self.load_authorities()
        credentials = await self.load_credentials()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.insecure or self.pin is not None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif authorities is None:
            context.load_verify_locations(certifi.where())
        else:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        if credentials is not None:
            await trio.to_thread.run_sync(credentials.load_into, context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


class ServerTls:
    """A server's certificate as it is now, and whose certificates it asks clients for.

    Made by :meth:`from_files` or :func:`generate_certificate`. The certificate changes
    with :meth:`reload`, which a server that uses it calls of itself: new connections get
    the new one, those that exist go on.

    Attributes:
      client_authorities: who issues certificates for clients. Empty, clients are not asked
        for any.
      require_client_certificate: whether clients without a certificate are refused.
    """

    def __init__(
        self,
        source: CertificateSource,
        *,
        client_authorities: Sequence[x509.Certificate] = (),
        require_client_certificate: bool = True,
    ) -> None:
        self._source = source
        self._current = source.load()
        self.client_authorities: tuple[x509.Certificate, ...] = tuple(client_authorities)
        self.require_client_certificate: bool = require_client_certificate
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._keeping = trio.Lock()

    def __repr__(self) -> str:
        return f"<ServerTls {self._source} {self.fingerprint}>"

    @classmethod
    def from_files(
        cls,
        certificate_file: str | Path,
        key_file: str | Path,
        *,
        client_ca_file: str | Path | None = None,
        require_client_certificate: bool = True,
    ) -> ServerTls:
        """Read PEM files; the certificate file may go on with its chain. Blocks shortly.

        The certificate and its key are read again when they change. ``client_ca_file`` has
        the authorities that vouch for clients; it is read once.

        Raises:
          ConnectError: a file cannot be read or used, or the key is another's.
        """
        return cls(
            CertificateFiles(Path(certificate_file), Path(key_file)),
            client_authorities=_read_client_authorities(client_ca_file),
            require_client_certificate=require_client_certificate,
        )

    @property
    def credentials(self) -> Credentials:
        """Certificate, chain and key, in one object for as long as they are in use."""
        return self._current

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that new connections get."""
        return self._current.certificate

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What leads up to its authority."""
        return self._current.chain

    @property
    def private_key(self) -> Any:
        """Its key, as the cryptography package has it."""
        return self._current.private_key

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of :attr:`certificate`, in hexadecimal, for clients to pin."""
        return fingerprint_of(self.certificate)

    async def reload(self) -> None:
        """Read the files again, or make the next development certificate.

        Raises:
          ConnectError: what is there cannot be used. The certificate stays what it was.
        """
        self._current = await _in_thread(self._source.load)
        self._contexts.clear()

    async def keep_current(self) -> NoReturn:
        """Reload whenever the files have changed, or the development certificate is about
        to expire. Runs until cancelled; every server that uses the certificate does it.

        A certificate that cannot be used is told of in the log, once, and not used.
        """
        # Several servers may share one certificate: the first looks after it.
        async with self._keeping:
            while True:
                await trio.sleep(_LOOK_INTERVAL)
                if await _in_thread(self._source.is_stale):
                    await self._reload_or_say_why_not()

    async def _reload_or_say_why_not(self) -> None:
        try:
            await self.reload()
        except ConnectError as error:
            logger.error("%s; the old certificate stays in use", error)
        else:
            logger.warning(
                "new %s certificate, SHA-256 fingerprint %s", self._source, self.fingerprint
            )

    @property
    def client_authorities_pem(self) -> bytes | None:
        """:attr:`client_authorities` as PEM text; None without any."""
        return _to_pem(self.client_authorities) or None

    def ssl_context(self, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """For a connection over TCP: ask for it anew for each, so that it has the
        certificate of now. May block shortly, after a change."""
        key = tuple(alpn)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._make_context(key)
        return context

    def _make_context(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._current.load_into(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if self.client_authorities:
            context.load_verify_locations(cadata=_to_pem(self.client_authorities).decode("ascii"))
            context.verify_mode = (
                ssl.CERT_REQUIRED if self.require_client_certificate else ssl.CERT_OPTIONAL
            )
        return context


def generate_certificate(
    hostnames: Sequence[str] = (),
    *,
    client_ca_file: str | Path | None = None,
    require_client_certificate: bool = True,
) -> ServerTls:
    """A development certificate nobody vouches for: clients have to pin its fingerprint.

    It is for ``hostnames`` (DNS names or IP addresses), localhost and the loopback
    addresses, and lives 13 days, so that browsers accept it pinned too. A server that runs
    for longer makes the next one a day before, and logs its fingerprint.

    The other arguments are those of :meth:`ServerTls.from_files`.
    """
    return ServerTls(
        DevelopmentCertificates(hostnames),
        client_authorities=_read_client_authorities(client_ca_file),
        require_client_certificate=require_client_certificate,
    )


async def _in_thread(read: Callable[[], T]) -> T:
    """Files may be on a disk that hangs: what is cancelled does not wait for it."""
    return await trio.to_thread.run_sync(read, abandon_on_cancel=True)


def _read_client_authorities(path: str | Path | None) -> list[x509.Certificate]:
    return [] if path is None else read_certificates(Path(path), "client CA")


def _to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def explain_certificate_error(detail: str, server: str) -> str:
    """One line saying what is wrong with ``server``'s certificate and what to do."""
    lowered = detail.lower()
    if "fingerprint" in lowered:
        hint = "check the fingerprint the server prints; it changes with every new certificate"
    # Two libraries look at dates, each in its own words: ours are the same for both.
    elif "not valid yet" in lowered or "not yet valid" in lowered:
        detail = "certificate is not valid yet"
        hint = "check the clocks of both machines"
    elif "no longer valid" in lowered or "expired" in lowered:
        detail = "certificate has expired"
        hint = "renew it, or check this machine's clock"
    elif "doesn't match" in lowered or "hostname" in lowered or "no subjectaltname" in lowered:
        names = ", ".join(re.findall(r"pattern=b?'([^']+)'", detail))
        detail = f"certificate is for another host ({names or detail})"
        hint = "connect by a name that is in the certificate"
    elif "issuer" in lowered or "self-signed" in lowered or "self signed" in lowered:
        detail = f"certificate comes from an unknown issuer ({detail})"
        hint = "give its authority's CA file, or pin its SHA-256 fingerprint"
    else:
        detail = f"certificate refused ({detail})"
        hint = "give a CA file or pin its SHA-256 fingerprint"
    return f"{server}: {detail}; {hint}"


__all__ = [
    "CertificatePin",
    "ClientTls",
    "Credentials",
    "ServerTls",
    "explain_certificate_error",
    "fingerprint_of",
    "generate_certificate",
    "normalise_fingerprint",
]
