"""How far a subscription is served beyond the group its subscriber has to read first."""

from __future__ import annotations

from .group_sender import GroupSender


class Ahead:
    """Counts what was sent of groups that were begun after one that is not complete.

    A subscriber that reads in order takes nothing of them until it has that one. What it
    has not taken uses up its windows, which must leave room for what it waits for.

    Attributes:
        bytes: so many.
    """

    def __init__(self) -> None:
        # The groups that are not complete, in order, and with each what was sent of the
        # complete ones right behind it: those are not held on to.
        self._begun: dict[GroupSender, int] = {}
        self.bytes: int = 0

    def begin(self, sender: GroupSender) -> None:
        """A group is about to be sent, the latest so far."""
        self._begun[sender] = 0

    def includes(self, sender: GroupSender) -> bool:
        """Whether a group that is under way is not the first of them."""
        return sender is not next(iter(self._begun))

    def count(self, sender: GroupSender, sent: int) -> None:
        """``sent`` more bytes of a group that was under way have been sent."""
        if self.includes(sender):
            self.bytes += sent
            if sender.is_over:
                self._close_up(sender)
        elif sender.is_over:
            self.bytes -= self._begun.pop(sender)
            if self._begun:
                self.bytes -= next(iter(self._begun)).sent

    def _close_up(self, sender: GroupSender) -> None:
        """A group is complete that is not the first: it is behind the one before it."""
        before = sender
        for each in self._begun:
            if each is sender:
                break
            before = each
        self._begun[before] += self._begun.pop(sender) + sender.sent
