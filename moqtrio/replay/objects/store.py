"""The object store as its readers see it: what others have archived, and keep archiving."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from ...errors import ReplayError
from ...model.track import Track
from ...scope import open_scope
from .answers import MANIFEST_NAME, Found, ObjectMissing, Version
from .collection import Collection
from .manifest import Manifest, decode_manifest
from .track import ObjectTrack

if TYPE_CHECKING:
    import obstore.store

    from .client import ObjectClient

logger: logging.Logger = logging.getLogger("moqtrio.objects")

MIB = 1024 * 1024

ObjectTarget: TypeAlias = "str | obstore.store.ObjectStore"
"""Where objects are: a URL, or a store of obstore's."""


@attrs.frozen
class ObjectStatistics:
    """A snapshot of an object store as it is known here.

    Attributes:
        tracks: how many there are.
        objects: how many slices there are.
        object_bytes: the size of all of them.
        revision: how many times the manifest has changed.
        cache_bytes: what is kept in memory of what was read.
        loads, loads_in_flight, loaded_bytes: reads from objects, and what they brought.
        readers: group readers that have not been closed.
        last_error: what reading the manifest failed with, unless it has succeeded since.
    """

    tracks: int
    objects: int
    object_bytes: int
    revision: int
    cache_bytes: int
    loads: int
    loads_in_flight: int
    loaded_bytes: int
    readers: int
    last_error: str | None


class ObjectStore:
    """Reads what another process archives, and follows it. Made by :meth:`open`."""

    def __init__(self, client: ObjectClient, collection: Collection, version: Version) -> None:
        self._client = client
        self._collection = collection
        self._version = version
        self._last_error: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        target: ObjectTarget,
        *,
        interval: float = 5.0,
        cache_bytes: int = 64 * MIB,
        request_timeout: float = 10.0,
    ) -> AsyncIterator[ObjectStore]:
        """Open a store in objects, to read from it. Any number of processes may.

        On the way out requests that are under way are abandoned.

        Args:
            target: a URL such as ``s3://bucket/prefix``, ``gs://bucket/prefix``,
                ``az://container/prefix`` or ``file:///directory``, with credentials from
                the environment (see the documentation of obstore), or a store of obstore's.
            interval: seconds between looks for what is new. Less than the ``grace`` of
                whoever writes.
            cache_bytes: memory for what was read.
            request_timeout: seconds one request may take, for a URL; for a store of obstore's its
                own settings hold.

        Raises:
            ReplayError: obstore is not installed, the URL is not understood, the store does
                not answer, or there is nothing there.
        """
        client = connect(target, request_timeout)
        found = await trio.to_thread.run_sync(read_manifest, client, abandon_on_cancel=True)
        if found is None:
            raise ReplayError(
                f"there is no moqtrio store in {client.label}: it has no manifest",
                retryable=False,
            )
        manifest, version = found
        store = cls(client, Collection(client, cache_bytes, manifest), version)
        async with open_scope() as nursery:
            store._collection.reading.start_soon = nursery.start_soon
            nursery.start_soon(store._follow, interval)
            try:
                yield store
            finally:
                store._collection.close()

    def tracks(self) -> list[ObjectTrack]:
        """The tracks there are now; of one that was numbered anew, the latest numbering."""
        return self._collection.tracks()

    def track(self, broadcast: str, name: str) -> ObjectTrack:
        """The latest numbering of a track, as a source.

        Raises ReplayError where there is no such track yet.
        """
        track = self._collection.track(broadcast, name)
        if track is None:
            raise ReplayError(
                f"there is no track {broadcast}/{name} in {self._client.label}", retryable=False
            )
        return track

    def attach(self, track: Track) -> ObjectTrack:
        """Replay on ``track`` what there is now of the track of that name. What is published
        on it here comes after that, and is not recorded.

        Raises ReplayError where there is no such track yet, ProtocolError where the track
        has groups already.
        """
        source = self.track(track.broadcast, track.name)
        track.log.begin_at(source.spans.end)
        return source

    async def refresh(self) -> None:
        """Look now for what is new. Raises ReplayError where the store does not answer."""
        found = await trio.to_thread.run_sync(
            read_manifest,
            self._client,
            self._version,
            self._collection.manifest,
            abandon_on_cancel=True,
        )
        if found is not None:
            manifest, self._version = found
            self._collection.apply(manifest)

    def statistics(self) -> ObjectStatistics:
        """A snapshot of sizes and counters."""
        return describe(self._collection, self._last_error)

    async def _follow(self, interval: float) -> None:
        while True:
            await trio.sleep(interval)
            try:
                await self.refresh()
            except ReplayError as error:
                if self._last_error is None:
                    logger.warning("what is new cannot be seen, for now: %s", error)
                self._last_error = str(error)
            else:
                self._last_error = None


def connect(target: ObjectTarget, timeout: float) -> ObjectClient:
    """Raises ReplayError where obstore is not installed, or the URL is not understood."""
    try:
        from .client import ObjectClient
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("obstore"):
            raise
        raise ReplayError(
            "stores in objects need obstore: pip install 'moqtrio[objects]'", retryable=False
        ) from error
    return ObjectClient.connect(target, timeout)


def read_manifest(
    client: ObjectClient, version: Version | None = None, known: Manifest | None = None
) -> tuple[Manifest, Version] | None:
    """The manifest; None where there is none, or it is the one of ``version``. Blocks.

    Raises ReplayError.
    """
    try:
        found: Found | None = client.read_manifest(version)
    except ObjectMissing as error:
        if version is None:
            return None
        raise ReplayError(f"the manifest in {client.label} is gone") from error
    if found is None:
        return None
    where = f"{MANIFEST_NAME} in {client.label}"
    return decode_manifest(found.data, where, known), found.version


def describe(collection: Collection, last_error: str | None) -> ObjectStatistics:
    """The statistics of a collection."""
    manifest, reading = collection.manifest, collection.reading
    return ObjectStatistics(
        tracks=len(manifest.newest()),
        objects=len(manifest.slices),
        object_bytes=manifest.bytes,
        revision=manifest.revision,
        cache_bytes=collection.cache.bytes,
        loads=reading.loads,
        loads_in_flight=reading.in_flight,
        loaded_bytes=reading.loaded_bytes,
        readers=reading.readers,
        last_error=last_error,
    )
