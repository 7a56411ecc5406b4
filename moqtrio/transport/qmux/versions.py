"""The drafts of qmux, and the WebSocket subprotocols that name them.

A subprotocol is ``DRAFT.PROTOCOL``: ``qmux-02.moq-lite-05`` is moq-lite-05 over the qmux of
draft-ietf-quic-qmux-02.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs


@attrs.frozen
class QmuxVersion:
    """One draft: draft-ietf-quic-qmux with the number in its name.

    Attributes:
        name: as subprotocols name it.
        has_records: whether a message holds as many frames as fit. Such drafts have pings,
            datagrams and an idle timeout too.
        largest_message: bytes a message may have that this side sends or takes.
    """

    name: str
    has_records: bool
    largest_message: int


# draft-02 and draft-01: "max_record_size", the value that holds if neither side raises it.
QMUX_02 = QmuxVersion("qmux-02", has_records=True, largest_message=16382)
QMUX_01 = QmuxVersion("qmux-01", has_records=True, largest_message=16382)
# draft-00: "max_frame_size"; a message is one frame.
QMUX_00 = QmuxVersion("qmux-00", has_records=False, largest_message=16384)

VERSIONS: tuple[QmuxVersion, ...] = (QMUX_02, QMUX_01, QMUX_00)
"""What this side speaks, the newest first."""


@attrs.frozen
class Agreement:
    """What a WebSocket carries."""

    version: QmuxVersion
    protocol: str

    @property
    def subprotocol(self) -> str:
        """Its name in ``Sec-WebSocket-Protocol``."""
        return f"{self.version.name}.{self.protocol}"


def agreements(protocols: Sequence[str]) -> list[Agreement]:
    """What can be offered for application protocols, the preferred ones first."""
    return [Agreement(version, protocol) for protocol in protocols for version in VERSIONS]


def choose(protocols: Sequence[str], offered: Collection[str]) -> Agreement | None:
    """What a server that speaks ``protocols`` takes of the subprotocols it was offered.

    The server's preference counts, for the application protocol before the draft.
    """
    for agreement in agreements(protocols):
        if agreement.subprotocol in offered:
            return agreement
    return None
