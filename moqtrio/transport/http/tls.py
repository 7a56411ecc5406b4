"""TLS handshakes over TCP, by the standard library."""

from __future__ import annotations

import ssl

import trio
from cryptography import x509

from ...errors import ConnectError
from ..tls import ClientTls, explain_certificate_error

ALPN = ("http/1.1",)
"""What both sides speak over TLS."""


async def connect_tls(
    stream: trio.SocketStream, tls: ClientTls, server_name: str, where: str
) -> trio.SSLStream[trio.SocketStream]:
    """Shake hands as a client, and check the certificate before anything is sent.

    Raises:
      ConnectError: the handshake failed, or the certificate is not the one to accept.
    """
    context = await tls.ssl_context(ALPN)
    server = f"{server_name} ({where})"
    secured = trio.SSLStream(stream, context, server_hostname=server_name, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        raise _explain(error, server) from error
    certificate = peer_certificate(secured)
    if tls.pin is not None:
        assert certificate is not None, "a TLS server always presents one"
        mismatch = tls.pin.mismatch(certificate)
        if mismatch is not None:
            raise ConnectError(explain_certificate_error(mismatch, server), retryable=False)
    return secured


def peer_certificate(stream: trio.abc.Stream) -> x509.Certificate | None:
    """What the other side presented over TLS, if it did."""
    if not isinstance(stream, trio.SSLStream):
        return None
    presented: bytes | None = stream.getpeercert(binary_form=True)
    return None if presented is None else x509.load_der_x509_certificate(presented)


def _explain(error: trio.BrokenResourceError, server: str) -> ConnectError:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConnectError(
            explain_certificate_error(cause.verify_message, server), retryable=False
        )
    if isinstance(cause, ssl.SSLError):
        return ConnectError(
            f"{server}: the TLS handshake failed ({cause.reason or cause}); "
            "check that the port speaks TLS"
        )
    return ConnectError(f"{server}: the connection was lost during the TLS handshake")
