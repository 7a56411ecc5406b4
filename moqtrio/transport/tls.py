"""Who a server is, and how a client checks it.

A client verifies by default, against certifi's authorities. It can be given other
authorities, or the SHA-256 fingerprint of the one certificate it accepts; it checks
nothing only when told so explicitly.
"""

from __future__ import annotations

import datetime
import hmac
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConnectError

# WebTransport in browsers accepts a pinned certificate of at most 14 days
# (W3C WebTransport, "serverCertificateHashes").
_DEVELOPMENT_LIFETIME = datetime.timedelta(days=13)
# Other machines' clocks differ.
_BACKDATED = datetime.timedelta(hours=1)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_FINGERPRINT_DIGITS = 64


def fingerprint_of(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's DER encoding, in lower-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def normalise_fingerprint(text: str) -> str:
    """A SHA-256 fingerprint in lower case without separators.

    Raises:
      ValueError: it is not 64 hexadecimal digits, apart from colons and spaces.
    """
    digits = text.replace(":", "").replace(" ", "").lower()
    if len(digits) != _FINGERPRINT_DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(
            f"a SHA-256 fingerprint is {_FINGERPRINT_DIGITS} hexadecimal digits "
            f"(colons may separate them), not {text!r}"
        )
    return digits


@attrs.frozen
class CertificatePin:
    """The one certificate a client accepts."""

    fingerprint: str = attrs.field(converter=normalise_fingerprint)

    def mismatch(self, certificate: x509.Certificate) -> str | None:
        """What is wrong with ``certificate``, or None if it is the pinned one."""
        presented = fingerprint_of(certificate)
        if hmac.compare_digest(presented, self.fingerprint):
            return None
        return f"certificate fingerprint: expected {self.fingerprint} got {presented}"


@attrs.frozen(kw_only=True)
class ClientTls:
    """How a client checks the server's certificate. The default checks it fully.

    Args:
      ca_file: a PEM file of the authorities to trust, instead of certifi's.
      fingerprint: the SHA-256 of the only certificate to accept, in hexadecimal. Then
        neither its issuer nor its names matter.
      insecure: accept any certificate. Anyone on the path can read and change
        everything.

    Raises:
      ValueError: a malformed fingerprint, or more than one of the three.
    """

    ca_file: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    fingerprint: str | None = attrs.field(
        default=None, converter=attrs.converters.optional(normalise_fingerprint)
    )
    insecure: bool = False

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
        try:
            pem = await trio.Path(self.ca_file).read_bytes()
        except OSError as error:
            raise ConnectError(f"cannot read the CA file {self.ca_file}: {error}") from error
        try:
            x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise ConnectError(f"the CA file {self.ca_file} holds no PEM certificate") from error
        return pem


@attrs.frozen(kw_only=True)
class ServerTls:
    """A server's certificate, what leads up to its authority, and its key.

    Made by :meth:`from_files` or :func:`generate_certificate`.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()
    private_key: Any = attrs.field(repr=False)

    @classmethod
    def from_files(cls, certificate_file: str | Path, key_file: str | Path) -> ServerTls:
        """Read PEM files; the certificate file may go on with its chain. Blocks shortly.

        Raises:
          ConnectError: a file cannot be read or used, or the key is another's.
        """
        try:
            certificates = x509.load_pem_x509_certificates(Path(certificate_file).read_bytes())
        except (OSError, ValueError) as error:
            raise ConnectError(
                f"cannot read the certificate file {certificate_file}: {error}"
            ) from error
        try:
            key: Any = load_pem_private_key(Path(key_file).read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConnectError(f"cannot read the key file {key_file}: {error}") from error
        leaf = certificates[0]
        if key.public_key() != leaf.public_key():
            raise ConnectError(
                f"the key in {key_file} does not belong to the certificate in {certificate_file}"
            )
        return cls(certificate=leaf, chain=tuple(certificates[1:]), private_key=key)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, in hexadecimal, for clients to pin."""
        return fingerprint_of(self.certificate)


def generate_certificate(hostnames: Sequence[str] = ()) -> ServerTls:
    """A development certificate nobody vouches for: clients have to pin its fingerprint.

    It is for ``hostnames`` (DNS names or IP addresses), localhost and the loopback
    addresses, and lives 13 days, so that browsers accept it pinned too.
    """
    names = list(dict.fromkeys((*hostnames, *_LOCAL_NAMES)))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moqtrio development")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _DEVELOPMENT_LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return ServerTls(certificate=certificate, private_key=key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode("ascii"))


def explain_certificate_error(detail: str, server: str) -> str:
    """One line saying what is wrong with ``server``'s certificate and what to do."""
    lowered = detail.lower()
    if "fingerprint" in lowered:
        hint = "check the fingerprint the server prints; it changes with every new certificate"
    elif "not valid yet" in lowered or "no longer valid" in lowered or "expired" in lowered:
        detail = f"certificate expired or not valid yet ({detail})"
        hint = "renew it, or check this machine's clock"
    elif "doesn't match" in lowered or "hostname" in lowered or "no subjectaltname" in lowered:
        detail = f"certificate is for another host ({detail})"
        hint = "connect by a name in the certificate, or set the server name"
    elif "issuer" in lowered or "self-signed" in lowered or "self signed" in lowered:
        detail = f"certificate comes from an unknown issuer ({detail})"
        hint = "give its authority's CA file, or pin its SHA-256 fingerprint"
    else:
        detail = f"certificate refused ({detail})"
        hint = "give a CA file or pin its SHA-256 fingerprint"
    return f"{server}: {detail}; {hint}"
