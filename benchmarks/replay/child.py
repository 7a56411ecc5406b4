"""One process of a measurement: ``python -m benchmarks.replay.child ROLE JOB``."""

from __future__ import annotations

import os
import sys
from functools import partial

from ..child import profiled
from .history import record
from .jobs import Server, Subscriber, load
from .server import serve
from .subscribers import first, follow, join

SUBSCRIBERS = {"follow": follow, "join": join, "first": first}


def main() -> None:
    role, text = sys.argv[1:]
    job = load(Subscriber if role in SUBSCRIBERS else Server, text)
    os.sched_setaffinity(0, {job.core})
    if role == "record":
        record(job.directory, job.history)
        return
    run = partial(SUBSCRIBERS.get(role, serve), job)
    if job.profile:
        profiled(run)
    else:
        run()


if __name__ == "__main__":
    main()
