"""This machine's own telemetry, as lines of JSON at a steady rate."""

from __future__ import annotations

import json
import time
from typing import Any

import psutil
import trio

RATE = 50.0


class TelemetryReader:
    """Samples load, processors, memory, disks and network ``RATE`` times a second.

    Has the interface of :class:`~moqtrio.cli.lines.LineReader`.

    Args:
        seconds: the input ends after so long; None never ends it.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._count = 0
        self._started: float | None = None

    async def receive_batch(self) -> list[bytes]:
        """The next sample, when it is due; ``[]`` at the end."""
        if self._started is None:
            self._started = trio.current_time()
        due = self._count / RATE
        if self._seconds is not None and due >= self._seconds:
            return []
        await trio.sleep_until(self._started + due)
        sample = await trio.to_thread.run_sync(_sample, self._count)
        self._count += 1
        return [json.dumps(sample, separators=(",", ":")).encode()]


def _sample(number: int) -> dict[str, Any]:
    memory = psutil.virtual_memory()
    disk = psutil.disk_io_counters()
    return {
        "sample": number,
        "unix_ns": time.time_ns(),  # a fact about the world, not a clock anything waits on
        "load": psutil.getloadavg(),
        "cpu_percent": psutil.cpu_percent(percpu=True),
        "cpu_seconds": [times._asdict() for times in psutil.cpu_times(percpu=True)],
        "cpu_stats": psutil.cpu_stats()._asdict(),
        "memory": memory._asdict(),
        "disk": None if disk is None else disk._asdict(),
        "network": {
            name: counters._asdict()
            for name, counters in psutil.net_io_counters(pernic=True).items()
        },
    }
