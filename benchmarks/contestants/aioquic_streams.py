"""aioquic's own asyncio server and client: one unidirectional stream per group.

It moves the same payload bytes and does nothing else: there is no frame, no session and no
cache, so it is a bound on what a protocol over stock aioquic can do.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
from typing import Any

from aioquic.asyncio.client import connect as quic_connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve as quic_serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..job import Job, Meter, emit, frame_payload
from ._asyncio import line_from_runner, publish

ALPN = "benchmark"
BIDIRECTIONAL_ID_MASK = 0x2


def serve(job: Job) -> None:
    asyncio.run(_serve(job))


def subscribe(job: Job) -> None:
    asyncio.run(_subscribe(job))


class ServerProtocol(QuicConnectionProtocol):
    """Remembers the one connection of a run."""

    connected: asyncio.Future[ServerProtocol]

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self.connected.set_result(self)

    def send_group(self, data: bytes) -> None:
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._quic.send_stream_data(stream_id, data, end_stream=True)
        # What aioquic's own stream writer does: a burst of groups shares one flush.
        self._transmit_soon()

    def say_how_many(self, groups: int) -> None:
        stream_id = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream_id, str(groups).encode(), end_stream=True)
        self.transmit()


class ClientProtocol(QuicConnectionProtocol):
    """Puts each stream's bytes together and counts it when it ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter: Meter | None = None
        self.group_payload = b""
        self.finished = asyncio.Event()
        self._parts: dict[int, list[bytes]] = {}
        self._expected: int | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if not isinstance(event, StreamDataReceived):
            return
        parts = self._parts.setdefault(event.stream_id, [])
        parts.append(event.data)
        if event.end_stream:
            del self._parts[event.stream_id]
            self._stream_received(event.stream_id, b"".join(parts))

    def _stream_received(self, stream_id: int, data: bytes) -> None:
        meter = self.meter
        assert meter is not None
        if stream_id & BIDIRECTIONAL_ID_MASK:
            if data != self.group_payload:
                raise AssertionError("a stream does not carry what was sent")
            meter.bytes += len(data)
            meter.group()
        else:
            self._expected = int(data)
        if meter.groups == self._expected:
            meter.stop()
            self.finished.set()


async def _serve(job: Job) -> None:
    certificate, key = _certificate()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN])
    configuration.certificate = certificate
    configuration.private_key = key
    connected: asyncio.Future[ServerProtocol] = asyncio.get_running_loop().create_future()
    protocol_class = type("Protocol", (ServerProtocol,), {"connected": connected})
    server = await quic_serve(
        "127.0.0.1", 0, configuration=configuration, create_protocol=protocol_class
    )
    assert server._transport is not None  # the only way to learn the port
    port = server._transport.get_extra_info("sockname")[1]
    emit("listening", url=f"127.0.0.1:{port}", fingerprint="")
    await line_from_runner()
    protocol = await connected
    meter = Meter(job)
    group_payload = frame_payload(job.shape) * job.shape.frames
    await publish(job, meter, lambda _: protocol.send_group(group_payload))
    protocol.say_how_many(meter.groups)
    await line_from_runner()
    meter.report()
    server.close()


async def _subscribe(job: Job) -> None:
    host, _, port = job.url.rpartition(":")
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[ALPN])
    configuration.verify_mode = ssl.CERT_NONE
    meter = Meter(job)
    async with quic_connect(
        host, int(port), configuration=configuration, create_protocol=ClientProtocol
    ) as connection:
        assert isinstance(connection, ClientProtocol)
        connection.meter = meter
        connection.group_payload = frame_payload(job.shape) * job.shape.frames
        emit("subscribed")
        meter.start()
        await connection.finished.wait()
        meter.frames = meter.groups * job.shape.frames
        meter.report()


def _certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate, key
