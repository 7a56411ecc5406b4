"""What must be over before the peer may open another stream in the place of one of its own."""

from __future__ import annotations

DISCARDED = 1  # on the wire, in both directions
ACCEPTED = 2  # the application took it out of the accept queue
CONSUMED = 4  # the application took its last byte, or never will
ALL_SETTLED = DISCARDED | ACCEPTED | CONSUMED
