"""A store on the local disk, in SQLite files that each hold a slice of time."""

from .export import ExportReport, ExportSink, export_track
from .findings import Problem, VerifyProgress, VerifyReport
from .info import StoredSlice, StoredTrack, StoreInfo, inspect_store
from .readonly import ReadOnlyStore, ReadOnlyTrack
from .store import SqliteStore, StoreStatistics
from .track import SqliteTrack
from .trim import TrimLimits, TrimmedTrack, TrimReport, trim_store
from .verify import verify_store

__all__ = [
    "ExportReport",
    "ExportSink",
    "Problem",
    "ReadOnlyStore",
    "ReadOnlyTrack",
    "SqliteStore",
    "SqliteTrack",
    "StoreInfo",
    "StoreStatistics",
    "StoredSlice",
    "StoredTrack",
    "TrimLimits",
    "TrimReport",
    "TrimmedTrack",
    "VerifyProgress",
    "VerifyReport",
    "export_track",
    "inspect_store",
    "trim_store",
    "verify_store",
]
