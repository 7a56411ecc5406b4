"""A store on the local disk, in SQLite files that each hold a slice of time."""

from .findings import Problem, VerifyProgress, VerifyReport
from .info import StoredSlice, StoredTrack, StoreInfo, inspect_store
from .store import SqliteStore, StoreStatistics
from .track import SqliteTrack
from .verify import verify_store

__all__ = [
    "Problem",
    "SqliteStore",
    "SqliteTrack",
    "StoreInfo",
    "StoreStatistics",
    "StoredSlice",
    "StoredTrack",
    "VerifyProgress",
    "VerifyReport",
    "inspect_store",
    "verify_store",
]
