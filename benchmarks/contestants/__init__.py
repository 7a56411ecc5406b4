"""The implementations that are measured, each a module with ``serve`` and ``subscribe``.

``serve(job)`` emits ``listening`` (with ``url`` and ``fingerprint``), waits for a line,
publishes, and emits ``result`` once its standard input ends. ``subscribe(job)`` emits
``subscribed`` when it is ready for the first group, and ``result`` after the last.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

import attrs

from ..job import Job
from ..shapes import Shape

MAX_OUTSTANDING_BYTES = 4 * 1024 * 1024
MIN_OUTSTANDING_GROUPS = 8


@attrs.frozen
class Entry:
    """One contestant.

    Attributes:
        module: where it is, in this package.
        outstanding_groups: how many groups in flight suit it best.
        compared: whether it is part of the comparison.
        prepared: whether it publishes a fixed number of groups before the clock runs.
        scheme: of the URL moqtrio connects to, which says what carries the session.
    """

    module: str
    outstanding_groups: int
    compared: bool = True
    prepared: bool = False
    scheme: str = "moqt"

    def window(self, shape: Shape) -> int:
        """Groups in flight for groups of this size."""
        fitting = MAX_OUTSTANDING_BYTES // shape.group_bytes
        return max(MIN_OUTSTANDING_GROUPS, min(self.outstanding_groups, fitting))


# Stock aioquic looks at every open stream for every packet: with 256 open it is three times
# slower than with 16. moq-rs is half as fast with 16, or with 2048, as with 256.
CONTESTANTS = {
    "moqtrio live": Entry("moqtrio_live", 2048),
    "moqtrio replay": Entry("moqtrio_replay", 2048, prepared=True),
    "moqtrio webtransport": Entry("moqtrio_live", 2048, compared=False, scheme="https"),
    "moqtrio wss": Entry("moqtrio_live", 2048, compared=False, scheme="wss"),
    "moqtrio ws": Entry("moqtrio_live", 2048, compared=False, scheme="ws"),
    "moqtrio recorded": Entry("moqtrio_recorded", 2048, compared=False),
    "aioquic": Entry("aioquic_streams", 16),
    "moq-rs": Entry("moq_rs", 256),
}


class Contestant(Protocol):
    def serve(self, job: Job) -> None: ...

    def subscribe(self, job: Job) -> None: ...


def load(name: str) -> Contestant:
    """The module of one contestant; only its own dependencies are imported."""
    module: Contestant = import_module(f".{CONTESTANTS[name].module}", __name__)
    return module
