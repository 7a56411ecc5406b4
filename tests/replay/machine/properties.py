"""What must hold, by name, and how it is said that it did not."""

from __future__ import annotations

from typing import Final

PROPERTIES: Final = {
    "P1": "the first group is the one SUBSCRIBE_OK named, and not before the one asked for",
    "P2": "from the first group on every sequence is accounted for, once, without overlap",
    "P3": "groups begin in the order of their sequences",
    "P4": "nothing is dropped or cut short that the log or the store has",
    "P5": "nothing is invented: the bytes are those published, a part is never the whole",
    "P6": "the subscription ends when every sequence up to the track's end is accounted for",
    "P7": "code 0 is only for what is not there",
    "P8": "a failure of the store is a nonzero code, or a success later on",
    "P9": "memory is bounded, whatever is stored and however slow the subscriber",
    "P10": "what left memory is durable, or marked as lost",
    "P11": "a sequence never means two contents within an epoch, across restarts and kills",
    "P12": "a chunk is loaded once at a time, whoever waits for it",
    "P13": "who has left holds nothing: no watcher, no reader, no wait, no stream",
    "P14": "a live group does not wait for a store that is stalled",
    "P15": "with a store that heals and a client that reads, the edge is reached",
}
"""The properties, as in the rules the engine was built to. P16, what is durable survives
``kill -9``, needs a process to kill and is tested with one."""


class Broken(AssertionError):
    """A property does not hold.

    Attributes:
        name: which one, a key of :data:`PROPERTIES`.
    """

    def __init__(self, name: str, what: str, account: object = None) -> None:
        self.name = name
        text = f"{name} is broken ({PROPERTIES[name]}): {what}"
        super().__init__(text if account is None else f"{text}\n{account}")


def require(holds: object, name: str, what: str, account: object = None) -> None:
    """Raise :exc:`Broken` unless ``holds``."""
    if not holds:
        raise Broken(name, what, account)
