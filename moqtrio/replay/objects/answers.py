"""What an object store answers, for those who need not know obstore."""

from __future__ import annotations

import attrs

MANIFEST_NAME = "manifest"
SLICES = "slices"


class ObjectMissing(Exception):
    """There is no object of that name."""


class Conflict(Exception):
    """The manifest is not what it was: somebody else has written it."""


@attrs.frozen
class Version:
    """Identifies one state of the manifest; some stores use the one, some the other."""

    e_tag: str | None
    version: str | None


@attrs.frozen
class Found:
    """The manifest as it was found: its bytes, and which state of it that is."""

    data: bytes
    version: Version
