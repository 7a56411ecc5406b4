"""What the runner tells a child process, and what a child process tells the runner.

One JSON object per line in both directions. A subscriber reports what it has taken to the
publisher through a pipe of their own (one byte per ``Job.acknowledge_every`` groups), so
that the runner costs nothing while the clock runs.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from .shapes import Shape


@attrs.frozen
class Job:
    """One side of one run.

    Attributes:
        contestant: a name in ``benchmarks.contestants.CONTESTANTS``.
        shape: what to move.
        seconds: how long to publish, unless ``groups`` says how much.
        groups: how many groups to publish, or 0.
        window: how many groups the publisher may be ahead of what the subscriber has
            taken. It keeps the comparison lossless: no cache of any contestant ever has to
            evict a group that is still to be delivered.
        credit_fd: the pipe from the subscriber to the publisher (its end for this side).
        core: the processor this side may use.
        directory: a fresh directory, removed afterwards.
        url: where the server listens (for the subscriber).
        fingerprint: SHA-256 of the server's certificate (for the subscriber).
        profile: run under cProfile and print where the time went.
        sample_every: report memory each time this many groups went through, or 0.
        scheme: of the URL moqtrio connects to: which binding carries the session.
        version: the protocol version moqtrio offers; empty for all of them.
    """

    contestant: str
    shape: Shape
    seconds: float
    groups: int
    window: int
    credit_fd: int
    core: int
    directory: str
    url: str = ""
    fingerprint: str = ""
    profile: bool = False
    sample_every: int = 0
    scheme: str = "moqt"
    version: str = ""

    @property
    def acknowledge_every(self) -> int:
        """How many groups a subscriber takes between two reports to the publisher."""
        return max(1, self.window // 8)

    def dump(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def load(cls, text: str) -> Job:
        fields = json.loads(text)
        fields["shape"] = Shape(**fields["shape"])
        return cls(**fields)


def emit(kind: str, **fields: Any) -> None:
    """Tell the runner something."""
    print(json.dumps({"type": kind, **fields}), flush=True)


def wait_for_line() -> str:
    """Block until the runner says something (or goes away: an empty string)."""
    return sys.stdin.readline().strip()


def resident_bytes() -> int:
    """The memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The most memory this process ever held. ru_maxrss would include the parent's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status; the benchmarks need Linux")


def cpu_seconds() -> float:
    """CPU time of this process so far: all its threads, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Meter:
    """Counts groups, and the time and CPU they took since the last :meth:`start`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._expected = frame_payload(job.shape)
        self._wall = time.perf_counter()
        self._cpu = cpu_seconds()
        self._last: tuple[float, float] | None = None
        self.groups = 0
        self.frames = 0
        self.bytes = 0

    def start(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = cpu_seconds()
        self._last = None

    def stop(self) -> None:
        """Take the time now; what comes after is not part of the measurement."""
        if self._last is None:
            self._last = (time.perf_counter(), cpu_seconds())

    def frame(self, payload: bytes) -> None:
        """Count a received frame, and check it."""
        if payload != self._expected:
            raise AssertionError(f"a frame of {len(payload)} bytes is not what was published")
        self.frames += 1
        self.bytes += len(payload)

    def group(self) -> None:
        """Count a group that went through, and tell the other side from time to time."""
        self.groups += 1
        if self.groups % self._job.acknowledge_every == 0:
            os.write(self._job.credit_fd, b"+")
        self.sample()

    def sample(self) -> None:
        every = self._job.sample_every
        if every and self.groups % every == 0:
            emit("sample", groups=self.groups, resident_bytes=resident_bytes())

    def report(self) -> None:
        self.stop()
        assert self._last is not None
        wall, cpu = self._last
        emit(
            "result",
            groups=self.groups,
            frames=self.frames,
            bytes=self.bytes,
            seconds=wall - self._wall,
            cpu_seconds=cpu - self._cpu,
            peak_resident_bytes=peak_resident_bytes(),
        )


class Pacer:
    """Says how many groups a publisher may publish now. Does no waiting of its own."""

    def __init__(self, job: Job) -> None:
        self._window = job.window
        self._acknowledge_every = job.acknowledge_every
        self._limit = job.groups
        self._deadline = 0.0 if job.groups else time.perf_counter() + job.seconds
        self.published = 0
        self.taken = 0

    def acknowledge(self, reports: bytes) -> None:
        self.taken += len(reports) * self._acknowledge_every

    @property
    def finished(self) -> bool:
        if self._limit:
            return self.published >= self._limit
        return time.perf_counter() >= self._deadline

    def room(self) -> int:
        """Groups that may be published now, at most 16 at a time so that others run."""
        room = min(16, self._window - (self.published - self.taken))
        return min(room, self._limit - self.published) if self._limit else room


def frame_payload(shape: Shape) -> bytes:
    """The bytes of every frame of a run: the same for all, so that making them is free."""
    block = bytes((31 * index + 7) % 256 for index in range(256))
    return (block * (shape.frame_bytes // len(block) + 1))[: shape.frame_bytes]


def timestamp_us(group: int, frame: int) -> int:
    """A plausible clock: groups a millisecond apart, frames a microsecond."""
    return 1_000 * group + frame
