"""Every protocol version moqtrio speaks: one table, newest first.

A version joins by a line here and, where its bytes differ from its neighbour's, a codec
in the package of its family. Whoever negotiates reads this table and nothing else.
"""

from __future__ import annotations

from enum import Enum

import attrs


class Family(Enum):
    """Which of the two protocols a version is a draft of; the codecs live in a package each."""

    LITE = "lite"
    """draft-lcurley-moq-lite"""
    IETF = "ietf"
    """draft-ietf-moq-transport"""


@attrs.frozen
class Version:
    """One draft of one protocol.

    Attributes:
        name: how logs and errors call it.
        alpn: what names it in TLS's ALPN and in WebTransport's protocol negotiation.
        family: the protocol it is a draft of.
        draft: the number of the draft.
    """

    name: str
    alpn: str
    family: Family
    draft: int

    def __str__(self) -> str:
        return self.name


LITE_06 = Version("moq-lite-06", alpn="moq-lite-06", family=Family.LITE, draft=6)
LITE_05 = Version("moq-lite-05", alpn="moq-lite-05", family=Family.LITE, draft=5)
LITE_04 = Version("moq-lite-04", alpn="moq-lite-04", family=Family.LITE, draft=4)
LITE_03 = Version("moq-lite-03", alpn="moq-lite-03", family=Family.LITE, draft=3)

VERSIONS: tuple[Version, ...] = (LITE_06, LITE_05, LITE_04, LITE_03)
"""All versions there is a codec for, newest first."""

OFFERED: tuple[Version, ...] = VERSIONS
"""What an endpoint offers and accepts unless told otherwise, newest (preferred) first."""

_BY_ALPN = {version.alpn: version for version in VERSIONS}


def version_for_alpn(alpn: str) -> Version | None:
    """The version ``alpn`` names, or None if there is no codec for it."""
    return _BY_ALPN.get(alpn)
