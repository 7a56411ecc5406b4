"""Holds the manifest as its only writer, for as long as it is that."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from ...errors import ReplayError
from ..sqlite.store import SqliteStore
from ..sqlite.track import SqliteTrack
from .answers import Conflict, ObjectMissing, Version
from .collection import Collection
from .manifest import Manifest, encode_manifest
from .revise import LEASE, Revision, slices_from
from .store import read_manifest

if TYPE_CHECKING:
    from .client import ObjectClient

T = TypeVar("T")

_PUTS_AT_ONCE = 3


class Refused(Exception):
    """Another writer has the manifest now."""


class Keeper:
    """See the module's docstring.

    Attributes:
        claimed: whether this is, or was, the writer.
        doubtful: whether a put of ours may or may not have happened.
        archived: by its number on the disk, the number of the object a slice has become.
        deleted: objects that have been deleted, and are still in the manifest as doomed.
    """

    def __init__(
        self, client: ObjectClient, collection: Collection, hot: SqliteStore, hot_id: str
    ) -> None:
        self.claimed: bool = False
        self.doubtful: bool = False
        self.archived: dict[int, int] = {}
        self.deleted: set[str] = set()
        self._client = client
        self._collection = collection
        self._hot = hot
        self._hot_id = hot_id
        self._writer = secrets.token_hex(8)
        self._version: Version | None = None
        self._on_disk: dict[int, int] = {}
        self._leases: dict[int, int] = {}  # by epoch, what the manifest says was reserved
        self._wanted: dict[int, int] = {}  # by epoch, what is to be reserved
        # Not shared with reads, nor with the store on the disk: they must not wait for this.
        self._limiter = trio.CapacityLimiter(2)

    @property
    def manifest(self) -> Manifest:
        """As it was last seen, or put."""
        return self._collection.manifest

    def on_disk(self, number: int) -> bool:
        """Whether the slice an object was made from is still on the disk."""
        found = self._on_disk.get(number)
        return found is not None and self._hot.shelf.has_slice(found)

    def check_reserve(self, track: SqliteTrack, end: int) -> None:
        """Sequences beyond what the manifest reserves would be used twice, were the disk
        lost. Raises ReplayError (retryable) for those."""
        lease_end = self._leases.get(track.row.epoch)
        if lease_end is None or end <= lease_end:
            return
        self._wanted[track.row.epoch] = end
        self._hot.shelf.notify()
        raise ReplayError(
            f"track {track.key.label}: sequences from {lease_end} on are not reserved in "
            f"{self._client.label} yet"
        )

    async def claim(self, *, adopt: bool) -> None:
        """Become the writer, and go on with the numberings that the disk has lost, unless
        it is too late to ``adopt`` them.

        Raises Refused where another is quicker, and ReplayError.
        """
        await self.in_thread(self._client.probe)
        manifest, version = await self._read() or (Manifest("", 0, 0), None)
        revision = self._revise(manifest)
        if manifest.writer != self._writer:  # else an earlier attempt has succeeded after all
            revision.claim(self._writer)
        adopted = revision.adopt() if adopt else []
        try:
            await self._put(revision, version)
        except Conflict as error:
            await self.read_own()
            # It is our own of an earlier attempt that has come late.
            raise ReplayError(f"the manifest in {self._client.label} has just changed") from error
        for row in adopted:
            self._hot.adopt(row.broadcast, row.name, row.epoch, row.lease_end - LEASE)
        self.claimed = True

    async def update(self, change: Callable[[Revision], None]) -> None:
        """Change the manifest. Raises Refused where it has another writer, and ReplayError."""
        for _ in range(_PUTS_AT_ONCE):
            if self.doubtful:
                await self.read_own()
            revision = self._revise(self.manifest)
            change(revision)
            revision.forget_doomed(self.deleted)
            try:
                await self._put(revision, self._version)
            except Conflict:
                continue  # by whom it was changed is found out first
            self.deleted -= revision.forgotten
            return
        raise ReplayError(
            f"{self._client.label} refuses to replace the manifest, though nobody has changed it"
        )

    async def renew_leases(self) -> None:
        """Reserve sequences where it is time to. Raises as :meth:`update` does."""
        if self._wanted or self._revise(self.manifest).lease_is_due():
            await self.update(lambda revision: None)

    async def read_own(self) -> None:
        """Find out which of our puts have happened. Raises as :meth:`update` does."""
        found = await self._read()
        if found is None:
            raise Refused(f"the manifest in {self._client.label} was removed")
        manifest, self._version = found
        if manifest.writer != self._writer:
            raise Refused(
                f"another process is the writer of {self._client.label} since: two servers must "
                "not archive to the same place"
            )
        self.doubtful = False
        self._accept(manifest)

    async def follow(self) -> None:
        """See what the manifest's writer has changed. Raises ReplayError."""
        known = self.manifest
        found = await self.in_thread(partial(read_manifest, self._client, self._version, known))
        if found is not None:
            manifest, self._version = found
            self._collection.apply(manifest)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a worker thread, which is abandoned where this is cancelled."""
        try:
            return await trio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=self._limiter
            )
        except ObjectMissing as error:
            raise ReplayError(f"{self._client.label}: {error} is not there") from error

    async def _read(self) -> tuple[Manifest, Version] | None:
        return await self.in_thread(partial(read_manifest, self._client))

    async def _put(self, revision: Revision, version: Version | None) -> None:
        manifest = revision.finish(self._wanted)
        for row in manifest.tracks.values():
            # A numbering that is new there counts from now on: the put may well succeed.
            self._leases.setdefault(row.epoch, row.lease_end)
        self.doubtful = True
        self._version = await self.in_thread(
            lambda: self._client.put_manifest(encode_manifest(manifest), version)
        )
        self.doubtful = False
        self._accept(manifest)

    def _accept(self, manifest: Manifest) -> None:
        """This is ours, and it is what there is."""
        self._leases.update((row.epoch, row.lease_end) for row in manifest.tracks.values())
        for epoch, end in list(self._wanted.items()):
            if self._leases.get(epoch, end) >= end:
                del self._wanted[epoch]
        self._collection.apply(manifest)
        self.archived = slices_from(self._hot_id, manifest.slices.values())
        self._on_disk = {number: found for found, number in self.archived.items()}

    def _revise(self, manifest: Manifest) -> Revision:
        return Revision(self._hot, self._hot_id, manifest)
