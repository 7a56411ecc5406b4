"""From moqtrio's settings to aioquic's configuration."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TextIO

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.logger import QuicFileLogger, QuicLoggerTrace

from ..settings import TransportSettings
from ..tls import ClientTls, Credentials, ServerTls
from .endpoint import CONNECTION_ID_LENGTH
from .engine import PeerCheck

# RFC 9221 section 3: how to say that any size that fits a packet is fine.
_ANY_DATAGRAM = 65535
# A trace is held in memory until its connection ends.
_QLOG_EVENTS = 20_000


class QlogFiles(QuicFileLogger):
    """Writes one file per connection: its last events."""

    def start_trace(self, is_client: bool, odcid: bytes) -> QuicLoggerTrace:
        """A new trace, with room for so many events."""
        trace = super().start_trace(is_client=is_client, odcid=odcid)
        trace._events = deque(maxlen=_QLOG_EVENTS)
        return trace

    def forget(self, trace: QuicLoggerTrace) -> None:
        """Drop a trace without writing it."""
        self._traces.remove(trace)


@contextmanager
def key_log(settings: TransportSettings) -> Iterator[TextIO | None]:
    """The open key log, if secrets are to be written."""
    if settings.keylog_file is None:
        yield None
        return
    with open(settings.keylog_file, "a", encoding="ascii") as file:
        yield file


def client_configuration(
    *,
    alpn: Sequence[str],
    tls: ClientTls,
    authorities: bytes | None,
    credentials: Credentials | None = None,
    server_name: str,
    settings: TransportSettings,
    secrets: TextIO | None,
) -> QuicConfiguration:
    """What a client offers. Certificates go unchecked only with a pin, which is checked
    instead, or when ``tls`` says so."""
    unchecked = tls.insecure or tls.pin is not None
    return QuicConfiguration(
        is_client=True,
        **_identity(credentials),
        server_name=server_name,
        cadata=authorities,
        verify_mode=ssl.CERT_NONE if unchecked else ssl.CERT_REQUIRED,
        **_common(alpn, settings, secrets),
    )


def server_configuration(
    *,
    alpn: Sequence[str],
    tls: ServerTls,
    settings: TransportSettings,
    secrets: TextIO | None,
) -> QuicConfiguration:
    """What a server offers."""
    return QuicConfiguration(
        is_client=False,
        **_identity(tls.credentials),
        **_common(alpn, settings, secrets),
    )


class ServerConfigurations:
    """What a server offers from now on: its certificate changes."""

    def __init__(
        self,
        *,
        alpn: Sequence[str],
        tls: ServerTls,
        settings: TransportSettings,
        secrets: TextIO | None,
    ) -> None:
        self._tls = tls
        self._make = partial(
            server_configuration, alpn=alpn, tls=tls, settings=settings, secrets=secrets
        )
        self._credentials = tls.credentials
        self._configuration = self._make()
        self.client_check: PeerCheck = PeerCheck(
            client_authorities=tls.client_authorities_pem,
            required=tls.require_client_certificate,
        )

    @property
    def current(self) -> QuicConfiguration:
        """For the next connection."""
        if self._credentials is not self._tls.credentials:
            self._credentials = self._tls.credentials
            self._configuration = self._make()
        return self._configuration


def _identity(credentials: Credentials | None) -> dict[str, Any]:
    if credentials is None:
        return {}
    return {
        "certificate": credentials.certificate,
        "certificate_chain": list(credentials.chain),
        "private_key": credentials.private_key,
    }


def _common(
    alpn: Sequence[str], settings: TransportSettings, secrets: TextIO | None
) -> dict[str, Any]:
    if not alpn:
        raise ValueError("offer at least one ALPN")
    qlog = None
    if settings.qlog_directory is not None:
        settings.qlog_directory.mkdir(parents=True, exist_ok=True)
        qlog = QlogFiles(str(settings.qlog_directory))
    return {
        "alpn_protocols": list(alpn),
        "congestion_control_algorithm": settings.congestion_control,
        "connection_id_length": CONNECTION_ID_LENGTH,
        "idle_timeout": settings.idle_timeout,
        "max_data": settings.connection_window,
        "max_datagram_frame_size": _ANY_DATAGRAM,
        "max_datagram_size": settings.max_datagram_size,
        "max_stream_data": settings.stream_window,
        "quic_logger": qlog,
        "secrets_log_file": secrets,
    }
