"""What the contestants that run under asyncio share."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from ..job import Job, Meter, Pacer


async def line_from_runner() -> str:
    """The next line of standard input, without blocking the event loop."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


async def publish(job: Job, meter: Meter, publish_group: Callable[[int], None]) -> None:
    """Publish as fast as the subscriber takes, until the job is done."""
    pacer = Pacer(job)
    acknowledged = asyncio.Event()

    def on_reports() -> None:
        pacer.acknowledge(os.read(job.credit_fd, 65536))
        acknowledged.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(job.credit_fd, on_reports)
    try:
        while not pacer.finished:
            for _ in range(pacer.room()):
                publish_group(pacer.published)
                pacer.published += 1
                meter.groups += 1
                meter.sample()
            if pacer.room() > 0:
                await asyncio.sleep(0)
            else:
                acknowledged.clear()
                await acknowledged.wait()
    finally:
        loop.remove_reader(job.credit_fd)
