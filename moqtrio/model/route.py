"""The way by which a broadcast gets to those who subscribe to it."""

from __future__ import annotations

import attrs


@attrs.frozen
class Route:
    """A way to a broadcast.

    Attributes:
        hops: the identifiers of the endpoints it came through, the publisher's first; 0 is
            one that does not tell its own. Empty for a broadcast of our own.
        cost: what one more subscription by this way costs, in units of the deployment's
            choice; by default the number of endpoints on the way.
        cold_cost: the same where nobody subscribes yet; by default ``cost``.
    """

    hops: tuple[int, ...] = ()
    cost: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    cold_cost: int = attrs.field(
        default=attrs.Factory(lambda self: self.cost, takes_self=True),
        validator=attrs.validators.ge(0),
    )
