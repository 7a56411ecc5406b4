"""Bugs to plant, each with the properties it breaks.

A mutant replaces a piece of one function's source, and the function's code by what that
compiles to. The piece must occur exactly once: where the code has changed, planting fails
rather than planting nothing. (A method that uses ``super()`` cannot be patched so.)
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

import attrs

from moqtrio.model import log as log_module
from moqtrio.model import recording
from moqtrio.replay import expiry, live, recorder, reopened, resolver, retry
from moqtrio.session import group_sender, group_stream, publisher, serving, subscription
from moqtrio.transport import base, memory
from moqtrio.wire import LITE_05
from moqtrio.wire.lite import frames as wire_frames
from moqtrio.wire.lite import subscribe as wire_subscribe

from .world import PLENTY, Settings

PLAIN = Settings()
BY_CLOCK = Settings(version=LITE_05)
"""Where groups also become older while they wait."""
SMALL_CACHE = Settings(cache_and_max_bytes=(0, PLENTY))
SMALL_WINDOWS = Settings(small_windows=True)
SLOW_STORE = Settings(cache_and_max_bytes=(0, PLENTY), read_seconds=1.0)
SLUGGISH_STORE = attrs.evolve(SLOW_STORE, read_seconds=0.2)


class Rotten(AssertionError):
    """The code is not what a mutant expects: it must be written anew."""


@attrs.frozen
class Mutant:
    """A bug.

    Attributes:
        name: what is wrong.
        breaks: any of these properties may be the one that is seen to be broken.
        where: the function or property.
        old, new: the piece of source and what takes its place.
        world, rules: where it shows and what it takes, if it would take thousands of examples
            to come across it; otherwise everywhere, and everything.
    """

    name: str
    breaks: tuple[str, ...]
    where: Any
    old: str
    new: str
    world: Settings | None = None
    rules: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    @contextmanager
    def planted(self) -> Iterator[None]:
        """While this is open, the bug is there."""
        function = _function(self.where)
        before = function.__code__
        function.__code__ = self._mutated(function)
        try:
            yield
        finally:
            function.__code__ = before

    def _mutated(self, function: FunctionType) -> CodeType:
        source = textwrap.dedent(inspect.getsource(function))
        found = source.count(self.old)
        if found != 1:
            raise Rotten(
                f"{self.name}: expected {self.old!r} once in {function.__qualname__}, "
                f"found it {found} times"
            )
        flags = __future__.annotations.compiler_flag
        code = compile(
            source.replace(self.old, self.new), inspect.getfile(function), "exec", flags=flags
        )
        namespace: dict[str, Any] = {}
        exec(code, function.__globals__, namespace)
        return _function(namespace[function.__name__]).__code__


def _function(where: Any) -> FunctionType:
    if isinstance(where, property):
        where = where.fget
    assert isinstance(where, FunctionType), where
    return where


Resolver = resolver.Resolver
Server = serving.SubscriptionServer
Log = log_module.TrackLog

UPSTREAM = [
    Mutant(
        "1 the start is clamped after it was promised",
        ("P1",),
        Resolver.poll_start,
        "while self.cursor < log.edge:",
        "while False:",
    ),
    Mutant(
        "2 the end message forgets what only the replay served",
        ("P6",),
        Server._announce_end,
        "self._respond(SubscribeEnd(final))",
        "self._respond(SubscribeEnd(0 if self._log.latest is None else final))",
    ),
    Mutant(
        "3a what is being read blocks what is live",
        ("P14",),
        Server._turn,
        "for sender in tuple(self._senders):",
        "for sender in () if self._resolver_waits is not None else tuple(self._senders):",
        PLAIN,
        ("publish", "stall", "go_on"),
    ),
    Mutant(
        "3b an error looks like not stored",
        ("P1", "P7", "P8"),
        Resolver._poll_source,
        "return self._failed(sequence, error)",
        "return Missing(None)",
    ),
    Mutant(
        "4 the oldest group in memory is taken for a boundary",
        ("P4", "P7", "P8"),
        Resolver.poll_next,
        "answer = self._poll_source(cursor)",
        "oldest = self._log.statistics().oldest\n"
        "    answer = (self._poll_source(cursor) if oldest is None or cursor < oldest\n"
        "        else Missing(None))",
        SMALL_CACHE,
        ("publish_many", "let_time_pass", "subscribe"),
    ),
    # A callback that must answer at once is a matter of design. The nearest fault: an answer
    # that is not there yet is taken for one that says there is none.
    Mutant(
        "5 what cannot be answered at once is missing",
        ("P1", "P4", "P7"),
        Resolver._poll_source,
        "if isinstance(answer, Pending):\n        return answer",
        "if isinstance(answer, Pending):\n        return Missing(None)",
    ),
]
"""The five defects of the first design, where the numbers are from."""

ENGINE = [
    Mutant(
        "P1 the group that was promised is looked up again",
        ("P1",),
        Resolver.poll_next,
        "found, self._found = self._found, None\n",
        "found, self._found = self._found, None\n"
        "        found.close()\n"
        "        return self._drop(cursor + 1, 0)\n",
    ),
    Mutant(
        "P2 a lowered start is served again",
        ("P2", "P3"),
        Resolver.raise_start,
        "if self.cursor is None or start > self.cursor:",
        "if True:",
    ),
    Mutant(
        "P2 nobody is told what is missing",
        ("P2",),
        Server._start_groups,
        "self._respond(SubscribeDrop(answer.start, answer.end, answer.code))",
        "pass",
    ),
    Mutant(
        "P3 groups begin before those that wait for the store",
        ("P2", "P3"),
        Server._block,
        "1 if sender.stream is not None else self._limits.groups_blocked",
        "1",
    ),
    Mutant(
        "P4 a drop runs over what is in memory",
        ("P1", "P2", "P4"),
        Resolver._next_available,
        "if in_log is not None:",
        "if False:",
    ),
    Mutant(
        "P4 a drop runs over what is stored",
        ("P1", "P4", "P7"),
        Resolver._next_available,
        "if missing.next_available is not None:",
        "if False:",
    ),
    Mutant(
        "P5 an aborted group ends like a whole one",
        ("P5",),
        live.LiveReader.poll_frames,
        "if isinstance(group.end, Aborted):",
        "if False:",
    ),
    Mutant(
        "P5 a group that goes on from the store begins anew",
        ("P5",),
        reopened.ReopenedReader.poll_frames,
        "or not self._skip",
        "or True",
        SMALL_WINDOWS,
        ("publish", "publish_many", "let_time_pass", "stop_or_go_on_reading"),
    ),
    Mutant(
        "P6 the subscription ends before its groups do",
        ("P4", "P6"),
        Server._is_over,
        "and not self._senders",
        "",
    ),
    Mutant(
        "P7 what was lost is reported as absent",
        ("P7", "P8"),
        Resolver.poll_next,
        "self._drop(min(lost_until, self._log.edge), StreamCode.EVICTED)",
        "self._drop(min(lost_until, self._log.edge), 0)",
    ),
    Mutant(
        "P8 an error within a group is its end",
        ("P5", "P8"),
        retry.RetryingReader.poll_frames,
        "waiting = self._tries.failed()\n        if waiting is None:\n            raise",
        "return End()",
        SLUGGISH_STORE,
        ("subscribe", "fail", "heal", "fetch", "let_time_pass"),
    ),
    Mutant(
        "P8 what cannot be read is reported as absent",
        ("P7", "P8"),
        Resolver._failed,
        "error.code or StreamCode.EVICTED",
        "0",
    ),
    Mutant(
        "P9 the window of groups in flight has no bound",
        ("P2", "P9"),
        Server._start_groups,
        "or self._blocked >= most_blocked",
        "",
    ),
    Mutant(
        "P9 memory has no hard cap",
        ("P9",),
        Log.evict,
        "while self._bytes > limits.max_bytes and",
        "while False and",
    ),
    Mutant(
        "P10 what leaves memory unrecorded is not marked",
        ("P10",),
        Log._forget,
        "self._lose(group)",
        "pass",
    ),
    Mutant(
        "P10 what is not durable leaves memory",
        ("P10",),
        Log._settle,
        "if self._backlog is None or group.durable or group.lost:",
        "if True:",
    ),
    Mutant(
        "P10 a commit that failed counts as durable",
        ("P10",),
        recorder.Recorder._write,
        "if error.retryable:\n            raise",
        "if error.retryable:\n            self._committed(batch, collected_at)\n            return",
        PLAIN,
        ("fail", "publish", "let_time_pass"),
    ),
    Mutant(
        "P11 sequences are shown before they are reserved",
        ("P11",),
        recorder.Recorder._reserve,
        "await self._target.reserve(log.next_sequence + self._reserve_block)\n"
        "    log.set_reserved_end(self._target.reserved_end)",
        "log.set_reserved_end(log.next_sequence + self._reserve_block)\n"
        "    await self._target.reserve(log.next_sequence + self._reserve_block)",
        PLAIN,
        ("fail", "publish_many", "let_time_pass", "end_it"),
    ),
    Mutant(
        "P11 what is not reserved is shown",
        ("P1", "P4", "P11"),
        Log.edge,
        "return min(self.next_sequence, self._visible_end)",
        "return self.next_sequence",
    ),
    Mutant(
        "P13 who has left still follows the log",
        ("P13",),
        Server.run,
        "remove_log()",
        "pass",
    ),
    Mutant(
        "P13 a group that is given up keeps its reader",
        ("P13",),
        group_sender.GroupSender.close,
        "self._reader.close()",
        "pass",
    ),
    Mutant(
        "P13 who has left still waits for the store",
        ("P13",),
        publisher._cancel_when_unwanted,
        "scope.cancel()",
        "pass",
    ),
    Mutant(
        "P14 the store is asked for what is in memory",
        ("P14",),
        Resolver.poll_next,
        "group = self._log.get(cursor)\n",
        "group = self._log.get(cursor)\n"
        "    if group is not None and isinstance(answer := self._poll_source(cursor), Pending):\n"
        "        return answer\n"
        "    if group is not None and isinstance(answer, Ready):\n"
        "        answer.value.close()\n",
        PLAIN,
        ("publish", "stall", "let_time_pass"),
    ),
    Mutant(
        "P15 a store that has answered wakes nobody",
        ("P15",),
        Server._wait_for_resolver,
        "self._wakeup.set()",
        "pass",
        SLOW_STORE,
    ),
    Mutant(
        "P15 credit from the subscriber wakes nobody",
        ("P2", "P15"),
        Server.run,
        "self._connection.on_writable(self._wakeup.set)",
        "self._connection.on_writable(lambda: None)",
        SMALL_WINDOWS,
        ("publish", "publish_many", "stop_or_go_on_reading"),
    ),
]
"""At least one for each property."""

LAYERS = [
    Mutant(
        "wire: a drop names one group too many",
        ("P2", "P4", "P7"),
        wire_subscribe.SubscribeDrop._write,
        "writer.varint(self.end - 1)",
        "writer.varint(self.end)",
    ),
    Mutant(
        "wire: timestamps are not relative to the one before",
        ("P5",),
        wire_frames.encode_frames,
        "previous_ticks = ticks\n",
        "pass\n",
    ),
    Mutant(
        "transport: what a stream could not take is lost",
        ("P5", "P15"),
        memory._MemorySendHalf._deliver,
        "self._chunks.appendleft(chunk[allowed:])",
        "pass",
    ),
    Mutant(
        "transport: who was refused credit is not told of it",
        ("P2", "P15"),
        base.ConnectionBase._send_buffers_shrank,
        "if drained:",
        "if False:",
        SMALL_WINDOWS,
        ("publish", "publish_many", "stop_or_go_on_reading"),
    ),
    Mutant(
        "model: the first group in memory is overlooked",
        ("P1", "P2", "P4"),
        Log.first_from,
        "bisect_left(order, sequence, lo=self._head)",
        "bisect_left(order, sequence, lo=self._head) + 1",
    ),
    Mutant(
        "model: lost groups are found again",
        ("P7", "P8", "P10"),
        recording.Backlog.lost_until,
        "return self._lost.end_of(sequence)",
        "return None",
    ),
    Mutant(
        "replay: the record of a gap is forgotten",
        ("P7", "P10"),
        recorder.Recorder._step,
        "await self._target.write_gaps(",
        "list(",
    ),
    Mutant(
        "session: the subscriber passes over a gap in silence",
        ("P2",),
        subscription.Subscription._next_gap,
        "return Gap(cursor, end, drop.code)",
        "return self._next_in_sequence()",
    ),
    Mutant(
        "session: a reset looks like an end",
        ("P5",),
        group_stream.StreamGroupConsumer._read,
        "self._error = error\n        raise",
        "self._ended = True\n        return []",
    ),
    Mutant(
        "session: groups expire too soon",
        ("P4",),
        expiry.Expiry.is_expired,
        "newest.created_at - group.created_at > self.max_latency",
        "newest.created_at - group.created_at > self.max_latency / 4",
        BY_CLOCK,
        ("subscribe", "publish", "let_time_pass"),
    ),
    Mutant(
        "session: a track that was aborted goes on",
        ("P15",),
        Server._turn,
        "if self._log.aborted is not None:",
        "if False:",
        PLAIN,
    ),
    Mutant(
        "session: history expires",
        ("P4",),
        expiry.Expiry.is_expired,
        "or sequence < self.exempt_end",
        "",
        BY_CLOCK,
    ),
]
"""A fault in each layer."""

MUTANTS: list[Mutant] = [*UPSTREAM, *ENGINE, *LAYERS]
