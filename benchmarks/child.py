"""One side of one run in a process of its own: ``python -m benchmarks.child SIDE JOB``."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import sys
import time
from collections.abc import Callable
from functools import partial

from .contestants import load
from .job import Job, emit

TOP = 25


def main() -> None:
    side, job = sys.argv[1], Job.load(sys.argv[2])
    os.sched_setaffinity(0, {job.core})
    contestant = load(job.contestant)
    run = contestant.serve if side == "serve" else contestant.subscribe
    if job.profile:
        profiled(partial(run, job))
    else:
        run(job)


def profiled(run: Callable[[], None]) -> None:
    """Run it under cProfile, and tell the runner where the time went."""
    profile = cProfile.Profile(time.thread_time)  # other programs' time is not ours
    profile.runcall(run)
    text = io.StringIO()
    statistics = pstats.Stats(profile, stream=text)
    statistics.sort_stats("tottime").print_stats(TOP)
    emit("profile", text=text.getvalue())


if __name__ == "__main__":
    main()
