"""A subscribe stream as its subscriber uses it: how each version is asked for the same."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import attrs
import trio

from ..errors import RequestError, StreamReset, describe_stream_code
from ..model import Wakeup
from ..wire import Version, lite
from .control import ControlStream
from .latency import LONGEST_LATENCY


class Asker(Protocol):
    """What a subscribe stream needs of its session."""

    async def open_request(self, kind: lite.BidiStreamType, request: lite.Message) -> ControlStream:
        """Open a stream, and ask on it."""
        ...

    def next_subscribe_id(self) -> int:
        """A number no subscription of the session has had."""
        ...


class Listener(Protocol):
    """Who hears what the publisher says."""

    def accepted(self, answer: lite.SubscribeOk) -> None:
        """Drafts 03 and 04: it will come, from somewhere on."""
        ...

    def started(self, start: int) -> None:
        """``start`` is the first group that comes."""
        ...

    def ended(self, final: int) -> None:
        """There is no group from ``final`` on, and there will be none."""
        ...

    def dropped(self, drop: lite.SubscribeDrop) -> None:
        """These do not come."""
        ...


class SubscribeStream:
    """Asks for a subscription and reads the answers.

    Draft 06 has no "latest" as a place to start: without a start it sends what is younger
    than the max latency, and 0, for the latest alone, also gives up on each group that has a
    successor. So whoever wants the latest group and then all that follow has to ask first
    which one that is. Nor can it tell history from what comes later: where a max latency is
    given beside a start, it is asked for when it is known that the history will come.

    Args:
        asker: the session.
        version: what it speaks.
        wanted: what is asked for; ``start`` None is the latest group.
    """

    def __init__(self, asker: Asker, version: Version, wanted: lite.Subscribe) -> None:
        self._asker = asker
        self._version = version
        self._wanted = wanted
        self._control: ControlStream | None = None
        self._scope = trio.CancelScope()
        self._sending = trio.Lock()
        self._start: int | None = None
        self._promised: int | None = None
        self._updated = Wakeup()
        has_latest = version.draft < 6
        self._asks_first = not has_latest and wanted.start is None and wanted.max_latency > 0
        self._spares_history = not has_latest and wanted.start is not None
        self.check(wanted)

    @property
    def description(self) -> str:
        """Which track it is, for errors."""
        return f"{self._wanted.broadcast}/{self._wanted.track}"

    async def run(
        self, listener: Listener, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Ask, and tell ``listener`` what the publisher says, until it ends the stream or this
        side closes it.

        It has started once it is sure that the publisher accepts, or will be asked no more
        before it says so: drafts 03 and 04 answer at once, later ones when there is a group.

        Raises RequestError where the publisher refuses or resets, DecodeError and
        ProtocolError for what is not moq-lite, SessionClosed when the session is over.
        """
        try:
            with self._scope:
                await self._run(listener, task_status)
        except StreamReset as error:
            raise RequestError(
                f"the publisher ended the subscription to {self.description}: "
                f"{describe_stream_code(error.code)}",
                code=error.code,
            ) from None

    async def _run(self, listener: Listener, task_status: trio.TaskStatus[None]) -> None:
        if self._asks_first:
            task_status.started()
            await self._find_latest()
            await self._wait_until_wanted(listener)
        wanted = self._wanted
        self._control = control = await self._asker.open_request(
            lite.BidiStreamType.SUBSCRIBE, self._message(wanted)
        )
        if self._wanted is not wanted:  # an update came while it waited for a stream
            await self._tell()
        if lite.SubscribeStart.exists_in(self._version) and not self._asks_first:
            task_status.started()
        while (response := await control.read_response()) is not None:
            await self._hear(response, listener)
            if isinstance(response, lite.SubscribeOk):
                task_status.started()

    async def _hear(self, response: lite.SubscribeResponse, listener: Listener) -> None:
        if isinstance(response, lite.SubscribeStart):
            self._hear_start(response.start, listener)
            if self._spares_history:
                self._spares_history = False
                await self._tell()
        elif isinstance(response, lite.SubscribeEnd):
            listener.ended(response.end)
        elif isinstance(response, lite.SubscribeDrop):
            listener.dropped(response)
        else:
            self._start = response.start
            listener.accepted(response)

    def _hear_start(self, start: int, listener: Listener) -> None:
        self._start = start
        if self._promised is None:
            listener.started(start)
        elif start > self._promised:  # what was the latest is not there any more
            listener.dropped(lite.SubscribeDrop(self._promised, start, 0))

    async def _find_latest(self) -> None:
        """Find out which group is the latest."""
        wanted, number = self._wanted, self._asker.next_subscribe_id()
        control = await self._asker.open_request(
            lite.BidiStreamType.SUBSCRIBE,
            lite.Subscribe(number, wanted.broadcast, wanted.track, wanted.priority, start=0),
        )
        try:
            answer = await control.read_response()
        finally:
            control.finish()
        if isinstance(answer, lite.SubscribeStart):
            self._start = answer.start
        elif isinstance(answer, lite.SubscribeEnd):  # it has ended and has no group
            self._start = answer.end

    async def _wait_until_wanted(self, listener: Listener) -> None:
        """Where the latest group is beyond the end, there is nothing to ask for until an update
        moves that."""
        while (
            self._start is not None and (end := self._wanted.end) is not None and self._start >= end
        ):
            if self._promised is None:
                self._promised = self._start
                listener.started(self._start)
            await self._updated.wait()

    def check(self, wanted: lite.Subscribe) -> None:
        """Raise ValueError where that cannot be asked for."""
        for message in (wanted, self._message(wanted)):
            message.encode(self._version)

    async def update(self, wanted: lite.Subscribe) -> None:
        """Ask for something else, now or when it is asked for anything."""
        self._wanted = wanted
        self._updated.set()
        await self._tell()

    async def _tell(self) -> None:
        control = self._control
        if control is not None:
            async with self._sending:
                # A publisher that has ended it wants to hear no more, and what it said last is
                # still to be read.
                with suppress(StreamReset):
                    await control.send_all(self._message(self._wanted).wishes)

    def _message(self, wanted: lite.Subscribe) -> lite.Subscribe:
        """What to say for that. An update without a start would mean the latest group there
        is by then, so it names the one that was the latest; with an end before that, nothing."""
        start, end, first = wanted.start, wanted.end, self._start
        if first is not None:
            start = first if start is None else max(start, first)
            end = None if end is None else max(end, first)
        max_latency = LONGEST_LATENCY if self._spares_history else wanted.max_latency
        return attrs.evolve(wanted, start=start, end=end, max_latency=max_latency)

    def close(self) -> None:
        """Unsubscribe. Never blocks; idempotent."""
        self._scope.cancel()
        if self._control is not None:
            self._control.finish()

    def reset(self, code: int) -> None:
        """End it with an error. Never blocks, never raises."""
        if self._control is not None:
            self._control.reset(code)
