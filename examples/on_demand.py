"""Publish the time, with its history in a database of your own.

Run it, then ``python examples/follower.py URL FINGERPRINT`` with what it prints. Stop it and
start it again: it goes on with the next number, and what came before is still to be had.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import trio

import moqtrio

DATABASE = "ticks.db"


def open_database() -> sqlite3.Connection:
    return sqlite3.connect(DATABASE, isolation_level=None)


def prepare() -> int:
    """Make the table if need be; returns the number of the next tick."""
    with closing(open_database()) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS tick (number INTEGER PRIMARY KEY, at_us, text)"
        )
        (count,) = database.execute("SELECT coalesce(max(number) + 1, 0) FROM tick").fetchone()
        return int(count)


def write_tick(number: int, at_us: int, text: str) -> None:
    with closing(open_database()) as database:
        database.execute("INSERT INTO tick VALUES (?, ?, ?)", (number, at_us, text))


def find_tick(number: int) -> tuple[int, int, str] | None:
    """The tick of that number, or the next one there is."""
    with closing(open_database()) as database:
        query = "SELECT number, at_us, text FROM tick WHERE number >= ? ORDER BY number LIMIT 1"
        found: tuple[int, int, str] | None = database.execute(query, (number,)).fetchone()
        return found


async def answer(requests: moqtrio.ReplayRequests) -> None:
    """Look up what subscribers ask for. One at a time will do for a database on this disk."""
    async for request in requests:
        with request:
            try:
                tick = await trio.to_thread.run_sync(find_tick, request.sequence)
            except sqlite3.OperationalError:  # it is locked, perhaps
                request.retry(after=0.5)
                continue
            if tick is None:
                request.missing()
            elif tick[0] > request.sequence:
                request.missing(next_available=tick[0])
            else:
                _, at_us, text = tick
                with request.accept() as group:
                    await group.send_frame(text.encode(), at_us)


async def publish(track: moqtrio.Track) -> None:
    """Put each tick into the database, then publish it."""
    while True:
        now = datetime.now(UTC)
        text, at_us = now.isoformat(), int(now.timestamp() * 1_000_000)
        number = track.statistics().next_sequence
        await trio.to_thread.run_sync(write_tick, number, at_us, text)
        track.write_frame(text.encode(), at_us)
        await trio.sleep(0.2)


async def main(url: str) -> None:
    count = await trio.to_thread.run_sync(prepare)
    origin = moqtrio.Origin()
    track = origin.create_broadcast("clock").create_track(
        "utc", cache_age=0.5, first_sequence=count
    )
    tls = moqtrio.generate_certificate()
    with track.requests() as requests:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, requests)
            nursery.start_soon(publish, track)
            listener = await nursery.start(partial(moqtrio.serve, origin, url, tls=tls))
            print(listener.url, listener.fingerprint, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "https://[::]:4443")
