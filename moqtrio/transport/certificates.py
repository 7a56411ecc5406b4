"""Certificates: read from files, made for development, recognised by their fingerprint."""

from __future__ import annotations

import datetime
import hmac
import ipaddress
import os
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConnectError

# WebTransport in browsers accepts a pinned certificate of at most 14 days
# (W3C WebTransport, "serverCertificateHashes").
_DEVELOPMENT_LIFETIME = datetime.timedelta(days=13)
# So long before its end a development certificate gives way to the next.
_RENEWAL = datetime.timedelta(days=1)
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


@attrs.frozen
class Credentials:
    """A certificate, what leads up to its authority, and its key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    private_key: Any = attrs.field(repr=False)

    @classmethod
    def read(cls, certificate_file: Path, key_file: Path) -> Credentials:
        """Read PEM files; the certificate file may go on with its chain. Blocks shortly.

        Raises:
          ConnectError: a file cannot be read or used, or the key is another's.
        """
        certificate, *chain = read_certificates(certificate_file, "certificate")
        try:
            key: Any = load_pem_private_key(key_file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConnectError(f"cannot read the key file {key_file}: {error}") from error
        if not _can_sign(key):
            raise ConnectError(
                f"the key in {key_file} is of no kind that TLS takes here: use ECDSA P-256 or "
                "P-384, RSA, Ed25519 or Ed448"
            )
        if key.public_key() != certificate.public_key():
            raise ConnectError(
                f"the key in {key_file} does not belong to the certificate in {certificate_file}"
            )
        return cls(certificate, tuple(chain), key)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make ``context`` present this certificate. Blocks shortly."""
        password = secrets.token_bytes(24).hex().encode()
        certificates = b"".join(
            each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain)
        )
        key = self.private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
        )
        # The ssl module takes files alone. This one is ours to read, and says nothing.
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "credentials.pem")
            path.write_bytes(certificates + key)
            context.load_cert_chain(path, password=password)


def _can_sign(key: Any) -> bool:
    """Whether both TLS implementations in use, aioquic's and OpenSSL's, sign with ``key``."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)


def read_certificates(path: Path, what: str) -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one; ``what`` names the file in errors.

    Raises:
      ConnectError: the file cannot be read or holds no certificate.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConnectError(f"cannot read the {what} file {path}: {error.strerror}") from error
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConnectError(f"the {what} file {path} holds no PEM certificate") from error


class CertificateSource(Protocol):
    """Where a server's certificate comes from, again and again."""

    def load(self) -> Credentials:
        """The certificate of now. May block shortly. Raises ConnectError where there is none
        to use."""
        ...

    def is_stale(self) -> bool:
        """Whether :meth:`load` would bring something else than the last time, or fail in
        another way. May block shortly."""
        ...


class CertificateFiles:
    """A certificate and a key that somebody renews in place."""

    def __init__(self, certificate_file: Path, key_file: Path) -> None:
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._loaded: object = None

    def __str__(self) -> str:
        return str(self._certificate_file)

    def load(self) -> Credentials:
        """Read the files, as they are now."""
        self._loaded = self._state()
        return Credentials.read(self._certificate_file, self._key_file)

    def is_stale(self) -> bool:
        """Whether a file was written or replaced since it was read."""
        return self._state() != self._loaded

    def _state(self) -> object:
        return _state_of(self._certificate_file), _state_of(self._key_file)


def _state_of(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


class DevelopmentCertificates:
    """Certificates nobody vouches for, each made shortly before the last one expires."""

    def __init__(
        self,
        hostnames: Sequence[str],
        lifetime: datetime.timedelta = _DEVELOPMENT_LIFETIME,
    ) -> None:
        self._names = list(dict.fromkeys((*hostnames, *_LOCAL_NAMES)))
        self._lifetime = lifetime
        self._renew_at = datetime.datetime.now(datetime.UTC)

    def __str__(self) -> str:
        return "development"

    def load(self) -> Credentials:
        """Make a new one."""
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
            .not_valid_after(now + self._lifetime)
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in self._names]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._renew_at = now + self._lifetime - _RENEWAL
        return Credentials(certificate, (), key)

    def is_stale(self) -> bool:
        """Whether the last one is about to expire."""
        return datetime.datetime.now(datetime.UTC) >= self._renew_at


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode("ascii"))
