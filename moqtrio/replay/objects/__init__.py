"""A store in objects (S3, Google Cloud Storage, Azure, a directory), behind one on disk.

Needs obstore, which ``pip install 'moqtrio[objects]'`` brings; only :mod:`.client` knows it.
"""

from .store import ObjectStatistics, ObjectStore
from .tiered import ArchiveStatistics, TieredStatistics, TieredStore, TieredTrack
from .track import ObjectTrack

__all__ = [
    "ArchiveStatistics",
    "ObjectStatistics",
    "ObjectStore",
    "ObjectTrack",
    "TieredStatistics",
    "TieredStore",
    "TieredTrack",
]
