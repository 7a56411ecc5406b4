"""What the tests of stores in objects share: a server that speaks S3, a proxy before it that
can fail, and ways to record, archive and read back."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import obstore
import trio
from obstore.store import MemoryStore, S3Store
from store_tools import frames_of, read_group, read_sequences

from moqtrio.model.group import FINISHED
from moqtrio.model.source import ReplaySource
from moqtrio.replay.objects import TieredStore, TieredTrack
from moqtrio.replay.target import GroupWrite

BROADCAST, TRACK = "live/a", "all"
_buckets = itertools.count()


@attrs.define
class MotoServer:
    """moto's S3 server, listening on a port of loopback."""

    port: int

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[MotoServer]:
        """Start it, and wait until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            cls._wait_until_it_answers(process, f"http://127.0.0.1:{port}/moto-api/")
            yield cls(port)
        finally:
            process.terminate()
            process.wait()

    @staticmethod
    def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert process.poll() is None, "moto's server has ended"
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(url, timeout=5).close()
                return
            time.sleep(0.05)
        raise AssertionError("moto's server does not answer")

    def make_bucket(self) -> str:
        """A new bucket."""
        name = f"bucket-{next(_buckets)}"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=5).close()
        return name


def s3_store(port: int, bucket: str, *, seconds: float = 5.0) -> S3Store:
    """A client without retries, as the library makes them for URLs."""
    return S3Store(
        bucket,
        prefix="some/prefix",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="id",
        secret_access_key="secret",
        region="us-east-1",
        client_options={"allow_http": True, "timeout": f"{int(seconds * 1000)}ms"},
        retry_config={"max_retries": 0},
    )


@attrs.define(eq=False)
class Endpoint:
    """A TCP proxy to a server, which can be dead, or silent, or answer with an error.

    ``mode`` is ``open``; ``refuse``: connections are closed at once; ``silent``: they are
    accepted, and nothing comes; ``broken``: HTTP 500; ``cut``: what comes from the server is
    cut off after a few bytes.
    """

    port: int
    bucket: str
    _server_port: int
    _listener: socket.socket
    mode: str = "open"
    connections: int = 0
    _sockets: list[socket.socket] = attrs.Factory(list)

    @classmethod
    @contextmanager
    def before(cls, server: MotoServer) -> Iterator[Endpoint]:
        """Listen, and pass on what comes."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        endpoint = cls(port, server.make_bucket(), server.port, listener)
        threading.Thread(target=endpoint._accept, daemon=True).start()
        try:
            yield endpoint
        finally:
            listener.close()
            endpoint._close_all()

    def set_mode(self, mode: str) -> None:
        """From now on; connections there are end."""
        self.mode = mode
        self._close_all()

    def store(self, *, seconds: float = 5.0) -> S3Store:
        """A client that goes through here."""
        return s3_store(self.port, self.bucket, seconds=seconds)

    def _close_all(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            _end(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.mode == "refuse":
                client.close()
                continue
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Who serves it closes it: it may have come while all others were being closed.
        with suppress(OSError), ending(client):
            if self.mode == "silent":
                while client.recv(65536):
                    pass
            elif self.mode == "broken":
                client.recv(65536)
                client.sendall(
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n"
                    b"Connection: close\r\n\r\n"
                )
                client.shutdown(socket.SHUT_RDWR)
            else:
                self._pass_on(client)

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        with ending(server):
            self._sockets.append(server)
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            if self.mode == "cut":
                client.sendall(server.recv(65536)[:300])
            else:
                _copy(server, client)


@contextmanager
def ending(each: socket.socket) -> Iterator[None]:
    """End a socket on the way out, whoever else waits for it."""
    try:
        yield
    finally:
        _end(each)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@asynccontextmanager
async def tiered(directory: Path, cold: Any, **options: Any) -> AsyncIterator[TieredStore]:
    """A store of two tiers with small slices."""
    options.setdefault("slice_bytes", 150_000)
    options.setdefault("interval", 0.05)
    async with TieredStore.open(directory, cold, **options) as store:
        yield store


def hot_track(store: TieredStore, name: str = TRACK) -> Any:
    """The disk's part of a track, to write to."""
    return store._hot.track(BROADCAST, name)


def cold_slices(store: TieredStore) -> int:
    """How many objects there are."""
    return store.statistics().cold.objects


async def record(
    store: TieredStore, first: int, end: int, *, count: int = 3, size: int = 2000
) -> None:
    """Record groups with known frames."""
    track = hot_track(store)
    for start in range(first, end, 5):
        await track.write(
            [
                GroupWrite(sequence, 0, frames_of(sequence, count, size), FINISHED)
                for sequence in range(start, min(start + 5, end))
            ]
        )


async def check(
    source: ReplaySource, first: int, end: int, *, count: int = 3, size: int = 2000
) -> None:
    """The source has these groups, byte for byte."""
    for sequence in range(first, end):
        found = await read_group(source, sequence)
        assert found == (frames_of(sequence, count, size), FINISHED), sequence


async def drop_hot(store: TieredStore) -> None:
    """Have the disk let go of everything that is archived, as time would."""
    store._hot.shelf._limits = attrs.evolve(store._hot.shelf._limits, retention=0.0)
    await store._hot.apply_retention()


def tiered_track(store: TieredStore) -> TieredTrack:
    """The track of both tiers."""
    return store.track(BROADCAST, TRACK)


def objects_of(store: Any) -> dict[str, bytes]:
    """Every object of a store of obstore's."""
    return {
        each["path"]: bytes(obstore.get(store, each["path"]).bytes())
        for each in obstore.list(store).collect()
    }


__all__ = ["MemoryStore", "read_group", "read_sequences", "trio"]
