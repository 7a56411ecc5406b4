"""What the processes of a measurement are told."""

from __future__ import annotations

import json
from typing import Any

import attrs

from .history import History


@attrs.frozen
class Server:
    """Serve a store.

    Attributes:
        directory: the store.
        history: what is in it.
        core: the processor it may use.
        profile: run under cProfile, and tell where the time went.
    """

    directory: str
    history: History
    core: int
    profile: bool = False


@attrs.frozen
class Subscriber:
    """Subscribe to a server.

    Attributes:
        url, fingerprint: where it listens.
        history: what it has.
        core: the processor to use.
        starts: where joiners begin, each on a connection of its own; each begins again with
            the oldest group when it is through, until the time is over.
        seconds: how long they go on; 0 to read everything once.
        firsts: groups that are asked for one after the other.
    """

    url: str
    fingerprint: str
    history: History
    core: int
    starts: list[int] = attrs.Factory(list)
    seconds: float = 0.0
    firsts: list[int] = attrs.Factory(list)
    profile: bool = False


def dump(job: Server | Subscriber) -> str:
    return json.dumps(attrs.asdict(job))


def load(kind: type[Server] | type[Subscriber], text: str) -> Any:
    fields = json.loads(text)
    return kind(**{**fields, "history": History(**fields["history"])})
