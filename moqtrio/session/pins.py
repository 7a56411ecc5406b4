"""How long a subscriber that takes nothing may keep groups in memory that left the log."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from ..model import TrackLog, Wakeup
from ..replay import Resolver
from .group_sender import GroupSender


class PinLimit:
    """Ends the pins of groups that are being sent.

    A group that is being sent stays in memory although the log has let go of it, so that a
    short pause of the subscriber costs nothing. After ``seconds`` in which it took nothing,
    the rest of the group comes from the store.
    """

    def __init__(self, log: TrackLog, resolver: Resolver, seconds: float) -> None:
        self._log = log
        self._resolver = resolver
        self._seconds = seconds

    def enforce(self, sender: GroupSender) -> None:
        """Let go of the sender's group if that is due.

        Raises ReplayError where the group is nowhere else.
        """
        blocked = sender.blocked_since
        if (
            blocked is not None
            and sender.is_live
            and trio.current_time() >= blocked + self._seconds
            and self._log.get(sender.sequence) is None
        ):
            sender.go_on_with(self._resolver.reopen(sender.sequence, sender.taken))

    async def wait(self, wakeup: Wakeup, senders: Iterable[GroupSender]) -> None:
        """``await wakeup.wait()``, but not for longer than until a pin may have to end."""
        now = trio.current_time()
        ends = [
            sender.blocked_since + self._seconds
            for sender in senders
            if sender.blocked_since is not None and sender.is_live
        ]
        # Where the time is over and the log still has the group, the log's next change wakes.
        with trio.CancelScope(
            deadline=min((end for end in ends if end > now), default=float("inf"))
        ):
            await wakeup.wait()
