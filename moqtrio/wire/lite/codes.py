"""The numbers of moq-lite (draft-lcurley-moq-lite) all drafts share: types, levels, limits."""

from __future__ import annotations

from enum import IntEnum

MAX_HOPS = 32
"""How many hops an announcement may have passed."""

MAX_SETUP_PARAMETERS = 64
"""How many parameters a SETUP may carry."""

UNKNOWN_HOP = 0
"""The hop id of an endpoint that has none, or does not tell."""


class BidiStreamType(IntEnum):
    """What a bidirectional stream is for: the varint it starts with."""

    ANNOUNCE = 0x1
    SUBSCRIBE = 0x2
    FETCH = 0x3
    PROBE = 0x4
    GOAWAY = 0x5
    TRACK = 0x6


class UniStreamType(IntEnum):
    """What a unidirectional stream is for: the varint it starts with."""

    GROUP = 0x0
    SETUP = 0x1


class AnnounceStatus(IntEnum):
    """What an announcement says of its broadcast.

    A repeated :attr:`ACTIVE` for a broadcast that is active means the same as
    :attr:`RESTART`: the new announcement replaces the old one at once.
    """

    ENDED = 0x0
    ACTIVE = 0x1
    RESTART = 0x2


class SetupParameter(IntEnum):
    """The parameters of SETUP this version gives a meaning to."""

    PROBE = 0x1
    PATH = 0x2
    ROLE = 0x3
    COST = 0x4
    ORIGIN = 0x5


class ProbeLevel(IntEnum):
    """What a publisher can do for a probe stream; each level includes those below it."""

    NONE = 0x0
    REPORT = 0x1
    INCREASE = 0x2


class Role(IntEnum):
    """The one direction a client means to use its session in."""

    PUBLISHER = 0x1
    SUBSCRIBER = 0x2
