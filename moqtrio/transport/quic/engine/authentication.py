"""Who the peer is: what is checked of its certificate, beyond what aioquic checks.

aioquic verifies a server's certificate, and can ask a client for one ("for test purposes"):
then it checks that the client has the certificate's key, but neither who issued the
certificate nor that there is one.
"""

from __future__ import annotations

from typing import Any

import attrs
from aioquic._buffer import Buffer
from aioquic.tls import (
    Alert,
    AlertBadCertificate,
    AlertDescription,
    Context,
    verify_certificate,
)
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ...tls import CertificatePin
from .migrating import MigratingEngine
from .stock import require_names

require_names(
    Context,
    "_certificate_request",
    "_client_handle_certificate_verify",
    "_peer_certificate",
    "_peer_certificate_chain",
    "_request_client_certificate",
    "_server_handle_certificate",
    "_server_handle_certificate_verify",
)


class _CertificateRequired(Alert):
    description = AlertDescription.certificate_required


@attrs.frozen(kw_only=True)
class PeerCheck:
    """What a peer's certificate has to be.

    Args:
      pin: the server's certificate, whoever issued it.
      client_authorities: the PEM text of who may issue a client's certificate; None does
        not ask clients for any.
      required: whether a client without a certificate is refused.
    """

    pin: CertificatePin | None = None
    client_authorities: bytes | None = None
    required: bool = True


class AuthenticatingEngine(MigratingEngine):
    """Overrides how the handshake takes a peer's certificate."""

    _peer_check: PeerCheck
    #: What was wrong with the peer's certificate, if anything.
    certificate_error: str | None

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """What the peer presented, once the handshake is complete."""
        certificate: x509.Certificate | None = self.tls._peer_certificate
        return certificate if self._handshake_complete else None

    @property
    def was_asked_for_certificate(self) -> bool:
        """Whether the server wants to know who this client is."""
        return self._is_client and self.tls._certificate_request is not None

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._is_client:
            self._check_server(self.tls)
        elif self._peer_check.client_authorities is not None:
            self._check_client(self.tls, self._peer_check.client_authorities)

    def _check_server(self, context: Any) -> None:
        """Check the pin, and keep the error's words, where aioquic checks the chain:
        before the server's Finished, so before any application data either way."""
        pin = self._peer_check.pin
        verify = context._client_handle_certificate_verify

        def checked(buffer: Buffer) -> None:
            try:
                verify(buffer)
                if pin is not None:
                    mismatch = pin.mismatch(context._peer_certificate)
                    if mismatch is not None:
                        raise AlertBadCertificate(mismatch)
            except Exception as error:
                self.certificate_error = str(error) or type(error).__name__
                raise

        context._client_handle_certificate_verify = checked

    def _check_client(self, context: Any, authorities: bytes) -> None:
        """Ask for a certificate (RFC 8446 section 4.3.2), and refuse what does not hold
        before the handshake is complete, so before the application hears of the client."""
        context._request_client_certificate = True
        take, verify = context._server_handle_certificate, context._server_handle_certificate_verify

        def taken(buffer: Buffer) -> None:
            take(buffer)
            if context._peer_certificate is None and self._peer_check.required:
                raise _CertificateRequired("this server wants a client certificate")

        def checked(buffer: Buffer) -> None:
            verify(buffer)
            verify_certificate(
                certificate=context._peer_certificate,
                chain=context._peer_certificate_chain,
                cadata=authorities,
            )
            _check_usage(context._peer_certificate)

        context._server_handle_certificate = taken
        context._server_handle_certificate_verify = checked


def _check_usage(certificate: x509.Certificate) -> None:
    """RFC 5280 section 4.2.1.12: one that says what it is for must be for this."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError as error:
        raise AlertBadCertificate("Certificate extensions could not be parsed") from error
    if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
        usages
    ):
        raise AlertBadCertificate("Certificate is not meant for clients")
