"""MB per CPU-second of this transport beside aioquic's own asyncio driver.

    python tests/transport/speed.py [--size MB] [--streams N]

Sender and receiver are two processes; each line gives what one of them spent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from aioquic.asyncio import connect, serve
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from moqtrio.errors import SessionClosed
from moqtrio.transport.connection import Connection
from moqtrio.transport.quic import open_quic, serve_quic
from moqtrio.transport.settings import TransportSettings
from moqtrio.transport.tls import ClientTls, ServerTls, generate_certificate

ALPN = "speed"
CHUNK = 64 * 1024
SMALL = 100


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# moqtrio


async def trio_send(connection: Connection, shape: str, count: int) -> None:
    if shape == "bulk":
        stream = await connection.open_uni()
        for _ in range(count // CHUNK):
            await stream.send_all(bytes(CHUNK))
        stream.finish()
        await stream.wait_stopped()
        return
    payload = bytes(SMALL)
    writable = trio.Event()

    def wake() -> None:
        writable.set()

    connection.on_writable(wake)
    sent = 0
    while sent < count:
        try:
            connection.open_uni_nowait().send_nowait(payload, finish=True)
            sent += 1
        except trio.WouldBlock:
            await writable.wait()
            writable = trio.Event()
    await trio.sleep(0.2)


async def trio_receive(connection: Connection, shape: str, count: int) -> int:
    total = 0
    if shape == "bulk":
        stream = await connection.accept_uni()
        while data := await stream.receive_some():
            total += len(data)
        return total
    finished = 0
    while finished < count:
        stream = await connection.accept_uni()
        while True:
            try:
                data = stream.receive_nowait()
            except trio.WouldBlock:
                data = await stream.receive_some()
            total += len(data)
            if len(data) == SMALL or not data:
                break
        finished += 1
        try:
            while True:
                total += len(connection.accept_uni_nowait().receive_nowait())
                finished += 1
        except trio.WouldBlock:
            pass
    return total


async def trio_server(shape: str, count: int, settings: TransportSettings, tls: ServerTls) -> None:
    used = 0.0
    done = trio.Event()

    async def handler(connection: Connection) -> None:
        nonlocal used
        start = cpu()
        with contextlib.suppress(SessionClosed):
            await trio_send(connection, shape, count)
        await connection.wait_closed()
        used = cpu() - start
        done.set()

    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[object]) -> None:
            await serve_quic(
                handler,
                "127.0.0.1",
                0,
                alpn=[ALPN],
                tls=tls,
                settings=settings,
                task_status=task_status,
            )

        listener = await nursery.start(run)
        print(listener.port, flush=True)
        await done.wait()
        nursery.cancel_scope.cancel()
    print(used, flush=True)


async def trio_client(port: int, shape: str, count: int, settings: TransportSettings) -> None:
    async with open_quic(
        "127.0.0.1", port, alpn=[ALPN], tls=ClientTls(insecure=True), settings=settings
    ) as connection:
        start, began = cpu(), time.perf_counter()
        total = await trio_receive(connection, shape, count)
        used, wall = cpu() - start, time.perf_counter() - began
        lost = connection.statistics().packets_lost
    print(json.dumps({"cpu": used, "wall": wall, "bytes": total, "lost": lost}), flush=True)


# aioquic's asyncio


async def asyncio_server(shape: str, count: int, size: int, certificate: str) -> None:
    done = asyncio.Event()
    used = 0.0

    class Sender(QuicConnectionProtocol):
        def quic_event_received(self, event: events.QuicEvent) -> None:
            if isinstance(event, events.HandshakeCompleted):
                self.task = asyncio.ensure_future(self.send())
                self.started = cpu()
            elif isinstance(event, events.ConnectionTerminated):
                nonlocal used
                used = cpu() - self.started
                done.set()

        async def send(self) -> None:
            quic = self._quic
            if shape == "bulk":
                stream = quic.get_next_available_stream_id(is_unidirectional=True)
                for index in range(count // CHUNK):
                    quic.send_stream_data(stream, bytes(CHUNK), index == count // CHUNK - 1)
                    self._transmit_soon()
                    await asyncio.sleep(0)
                    sender = quic._streams[stream].sender
                    # aioquic tells nobody when its buffer shrinks.
                    while sender._buffer_stop - sender.highest_offset > 4 * CHUNK:  # noqa: ASYNC110  # see above
                        await asyncio.sleep(0.0005)
                return
            for _ in range(count):
                stream = quic.get_next_available_stream_id(is_unidirectional=True)
                while stream // 4 >= quic._remote_max_streams_uni:  # noqa: ASYNC110  # nor of credit
                    await asyncio.sleep(0.0005)
                quic.send_stream_data(stream, bytes(SMALL), True)
                self._transmit_soon()

    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=[ALPN], max_datagram_size=size
    )
    configuration.load_cert_chain(certificate)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Sender)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await done.wait()
    print(used, flush=True)


async def asyncio_client(port: int, shape: str, count: int, size: int) -> None:
    done = asyncio.Event()
    total = finished = 0

    class Receiver(QuicConnectionProtocol):
        def quic_event_received(self, event: events.QuicEvent) -> None:
            nonlocal total, finished
            if isinstance(event, events.StreamDataReceived):
                total += len(event.data)
                finished += event.end_stream
                if finished == (1 if shape == "bulk" else count):
                    done.set()

    configuration = QuicConfiguration(
        alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE, max_datagram_size=size
    )
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Receiver):
        start, began = cpu(), time.perf_counter()
        await done.wait()
        used, wall = cpu() - start, time.perf_counter() - began
    print(json.dumps({"cpu": used, "wall": wall, "bytes": total, "lost": 0}), flush=True)


def child(role: str, stack: str, shape: str, count: int, size: int, argument: str) -> None:
    settings = TransportSettings(max_datagram_size=size, keylog_file=None)
    if stack == "moqtrio":
        if role == "server":
            trio.run(trio_server, shape, count, settings, generate_certificate())
        else:
            trio.run(trio_client, int(argument), shape, count, settings)
    elif role == "server":
        asyncio.run(asyncio_server(shape, count, size, argument))
    else:
        asyncio.run(asyncio_client(int(argument), shape, count, size))


def spawn(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure(stack: str, shape: str, count: int, size: int, certificate: str) -> None:
    server = spawn("server", stack, shape, count, size, certificate)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    client = spawn("client", stack, shape, count, size, port)
    received = json.loads(client.communicate(timeout=300)[0])
    sent_cpu = float(server.stdout.readline())
    server.wait(timeout=30)
    megabytes = received["bytes"] / 1e6
    line = (
        f"{stack:8} {shape:5} {size:5} B: sender {megabytes / sent_cpu:7.1f} MB/CPU-s, "
        f"receiver {megabytes / received['cpu']:7.1f} MB/CPU-s, "
        f"{megabytes / received['wall']:6.1f} MB/s wall"
    )
    if shape == "small":
        line += (
            f"; per stream {sent_cpu / count * 1e6:.1f} / {received['cpu'] / count * 1e6:.1f} us"
        )
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="MB of the bulk stream")
    parser.add_argument("--streams", type=int, default=40_000)
    parser.add_argument("--datagram", type=int, default=1200)
    parser.add_argument("--only", choices=("moqtrio", "aioquic"))
    parser.add_argument("--shape", choices=("bulk", "small"))
    parser.add_argument("--child", nargs=6)
    options = parser.parse_args()
    if options.child:
        role, stack, shape, count, size, argument = options.child
        child(role, stack, shape, int(count), int(size), argument)
        return
    with tempfile.TemporaryDirectory() as directory:
        tls = generate_certificate()
        certificate = Path(directory, "certificate.pem")
        key = tls.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificate.write_bytes(tls.certificate.public_bytes(Encoding.PEM) + b"\n" + key)
        for shape, count in (("bulk", options.size * (1 << 20)), ("small", options.streams)):
            for stack in ("aioquic", "moqtrio"):
                if options.only in (None, stack) and options.shape in (None, shape):
                    measure(stack, shape, count, options.datagram, str(certificate))


if __name__ == "__main__":
    os.environ.pop("SSLKEYLOGFILE", None)
    main()
