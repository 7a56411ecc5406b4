"""What this room needs of an object store, over obstore's blocking calls.

Everything here blocks, and belongs in a worker thread. obstore's retries are turned off:
they would hold a thread for as long as an endpoint is dead. Whoever asks retries.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import obstore
from obstore import exceptions
from obstore.store import LocalStore, from_url

from ...errors import ReplayError
from .answers import MANIFEST_NAME, SLICES, Conflict, Found, ObjectMissing, Version

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

_PROBE_NAME = "probe"
_LOCK_NAME = ".manifest.lock"
_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 2
_LARGEST_MANIFEST = 64 * 2**20
_CONNECT_SECONDS = 3.0

# An http:// endpoint is refused unless one of these says otherwise. obstore reads them
# itself, but not where other options are given, which they are.
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_YES = {"1", "true", "yes", "on"}


class ObjectClient:
    """One prefix of one object store.

    Raises ReplayError (retryable) where the store does not answer or will not do it now.
    """

    def __init__(self, store: ObjectStore, label: str) -> None:
        self.label = label
        self._store = store

    @classmethod
    def connect(cls, target: str | ObjectStore, timeout: float) -> ObjectClient:
        """Raises ReplayError for a URL that is not understood. Nothing is asked yet."""
        if not isinstance(target, str):
            return cls(target, str(target))
        return cls(_open_url(target, timeout), target)

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """The bytes ``[start, end)`` of an object; fewer where it is shorter. Raises
        ObjectMissing."""
        with self._errors(name):
            try:
                return bytes(obstore.get_range(self._store, name, start=start, end=end))
            except exceptions.GenericError as error:
                # There is no error of its own for a range that lies beyond the end.
                if "range" in str(error).lower() and self._size(name) <= start:
                    return b""
                raise

    def put(self, name: str, pieces: Iterator[bytes]) -> None:
        """Store an object, a few MiB at a time, under a name that nobody uses."""
        with self._errors(name):
            obstore.put(
                self._store,
                name,
                pieces,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    def read_manifest(self, known: Version | None = None) -> Found | None:
        """The manifest; None where it is still the one that is known. Raises ObjectMissing."""
        options: dict[str, Any] = {}
        if known is not None and known.e_tag is not None:
            options["if_none_match"] = known.e_tag
        try:
            with self._errors(MANIFEST_NAME):
                found = obstore.get(self._store, MANIFEST_NAME, options=options)  # type: ignore[arg-type] # a dict literal is not its TypedDict
                if found.meta["size"] > _LARGEST_MANIFEST:
                    raise ReplayError(
                        f"the manifest in {self.label} has {found.meta['size']} bytes: "
                        "that cannot be",
                        retryable=False,
                    )
                return Found(bytes(found.bytes()), _version(found.meta))
        except exceptions.NotModifiedError:
            return None

    def put_manifest(self, data: bytes, known: Version | None) -> Version:
        """Replace the manifest, if it is the one that is known; None for that there is none.

        Raises Conflict; ReplayError (not retryable) where the store has no conditional puts.
        """
        return self._put_if(MANIFEST_NAME, data, known)

    def probe(self) -> None:
        """Make sure that a put with a condition that does not hold is refused.

        Raises ReplayError: not retryable where it is not.
        """
        try:
            with self._errors(_PROBE_NAME):
                stale = _version(obstore.put(self._store, _PROBE_NAME, secrets.token_bytes(8)))
                obstore.put(self._store, _PROBE_NAME, secrets.token_bytes(8))
        except ObjectMissing as error:
            raise ReplayError(
                f"the object store {self.label} takes nothing: there seems to be no such bucket"
            ) from error
        for known in (None, stale):
            try:
                self._put_if(_PROBE_NAME, b"refused", known)
            except Conflict:
                continue
            raise self._no_conditions("it accepted a put whose condition did not hold")

    def list(self) -> Iterator[Sequence[tuple[str, datetime]]]:
        """The objects with slices: their names and when they were made, some at a time."""
        with self._errors(SLICES):
            for some in obstore.list(self._store, SLICES, chunk_size=500):
                yield [(each["path"], each["last_modified"]) for each in some]

    def manifest_time(self) -> datetime:
        """When the manifest was last written, by the clock of the object store."""
        with self._errors(MANIFEST_NAME):
            return obstore.head(self._store, MANIFEST_NAME)["last_modified"]

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, those that are gone already among them."""
        for name in names:
            try:
                with self._errors(name):
                    obstore.delete(self._store, name)
            except ObjectMissing:
                pass

    def _size(self, name: str) -> int:
        return obstore.head(self._store, name)["size"]

    def _put_if(self, name: str, data: bytes, known: Version | None) -> Version:
        try:
            with self._errors(name):
                if known is None:
                    return _version(obstore.put(self._store, name, data, mode="create"))
                if isinstance(self._store, LocalStore):
                    return self._put_local(self._store, name, data, known)
                mode = {key: value for key, value in attrs.asdict(known).items() if value}
                return _version(obstore.put(self._store, name, data, mode=mode))  # type: ignore[arg-type] # a dict is not its TypedDict
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise Conflict from error
        except ObjectMissing as error:
            if known is not None:
                raise Conflict from error  # It was there: somebody has removed it.
            raise ReplayError(_describe(self.label, error.__cause__ or error)) from error
        except (NotImplementedError, exceptions.NotSupportedError) as error:
            raise self._no_conditions(_first_line(error)) from error

    def _put_local(self, store: LocalStore, name: str, data: bytes, known: Version) -> Version:
        """obstore cannot do this for directories; a file lock makes one of two steps."""
        if store.prefix is None:
            raise self._no_conditions("a local store needs a directory as its prefix")
        with _locked(Path(store.prefix) / _LOCK_NAME):
            if _version(obstore.head(store, name)) != known:
                raise Conflict
            return _version(obstore.put(store, name, data))

    def _no_conditions(self, detail: str) -> ReplayError:
        return ReplayError(
            f"{self.label} does not honour conditional puts ({detail}), without which two "
            "writers would destroy each other's history: use a store that does, as S3, "
            "Google Cloud Storage, Azure and MinIO do",
            retryable=False,
        )

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(name) from error
        except (
            exceptions.AlreadyExistsError,
            exceptions.PreconditionError,
            exceptions.NotModifiedError,
            exceptions.NotSupportedError,
        ):
            raise
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise ReplayError(_describe(self.label, error)) from error


def _open_url(url: str, timeout: float) -> ObjectStore:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, timeout)),
        "timeout": timedelta(seconds=timeout),
        "allow_http": any(os.environ.get(each, "").lower() in _YES for each in _ALLOW_HTTP),
    }
    scheme = url.partition(":")[0]
    try:
        if scheme == "file":
            return from_url(url, mkdir=True)
        if scheme == "memory":
            return from_url(url)
        return from_url(url, client_options=options, retry_config={"max_retries": 0})
    except (exceptions.BaseError, ValueError, OSError) as error:
        raise ReplayError(
            f"{url} cannot be used as an object store: {_first_line(error)}. Expected a URL "
            "such as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or "
            "file:///directory",
            retryable=False,
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _version(meta: Any) -> Version:
    return Version(meta["e_tag"], meta["version"])


def _describe(label: str, error: BaseException) -> str:
    said = _first_line(error)
    if "builder error" in said:  # what obstore says of an http:// that is not allowed
        said += ". An endpoint with http:// needs AWS_ALLOW_HTTP=true"
    return f"the object store {label}: {said}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
