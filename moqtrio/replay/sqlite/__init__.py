"""A store on the local disk, in SQLite files that each hold a slice of time."""

from .info import StoredTrack, StoreInfo, inspect_store
from .store import SqliteStore, StoreStatistics
from .track import SqliteTrack

__all__ = [
    "SqliteStore",
    "SqliteTrack",
    "StoreInfo",
    "StoreStatistics",
    "StoredTrack",
    "inspect_store",
]
