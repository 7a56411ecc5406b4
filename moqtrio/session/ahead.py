"""How far a subscription is served beyond the group its subscriber has to read first."""

from __future__ import annotations

from collections import deque

from .group_sender import GroupSender


class Ahead:
    """Counts what was sent of groups that were begun after one that is not complete.

    A subscriber that reads in order takes nothing of them until it has that one. What it
    has not taken uses up its windows, which must leave room for what it waits for.
    """

    def __init__(self) -> None:
        self._begun: deque[GroupSender] = deque()
        self.bytes: int = 0

    def begin(self, sender: GroupSender) -> None:
        """A group is about to be sent, the latest so far."""
        self._begun.append(sender)

    def includes(self, sender: GroupSender) -> bool:
        """Whether a group that is under way is not the first of them."""
        return sender is not self._begun[0]

    def count(self, sender: GroupSender, sent: int) -> None:
        """``sent`` more bytes of a group that was under way have been sent."""
        begun = self._begun
        if sender is not begun[0]:
            self.bytes += sent
        while begun and begun[0].is_over:
            begun.popleft()
            if begun:
                self.bytes -= begun[0].sent
