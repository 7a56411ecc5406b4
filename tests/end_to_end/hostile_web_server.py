"""A server on every binding that looks at its own memory and log. Run as a script.

Told to "look" on standard input, it prints how much memory it has and has had since it was last
asked, what it has logged since then, and how many files are open. At the end of its input it goes.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from functools import partial

import trio
from slow_readers_server import Observer, say

import moqtrio

GROUP = 64 * 1024
LINES = 200


class Memory(logging.Handler):
    """Keeps what was logged last."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {self.format(record)}")


async def main() -> None:
    memory, observer = Memory(), Observer()
    logging.basicConfig(level=logging.INFO, handlers=[memory])
    origin = moqtrio.Origin()
    track = origin.create_broadcast("b").create_track("t")
    with track.append_group() as group:
        group.write_frame(bytes(GROUP))
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(
            partial(
                moqtrio.serve,
                origin,
                "https://127.0.0.1:0",
                tls=moqtrio.generate_certificate(),
                transport=moqtrio.TransportSettings(connect_timeout=1.0),
            )
        )
        nursery.start_soon(observer.watch)
        say(port=listener.port, fingerprint=listener.fingerprint)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            now = observer.look()
            files = observer.process.num_fds()
            say(rss=now, most=observer.most, log=list(memory.lines), files=files)
            memory.lines.clear()
            observer.most = now
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
