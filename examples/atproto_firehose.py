"""Record the AT Protocol's firehose, and serve the last 72 hours of it.

    pip install 'moqtrio[cli]' trio-websocket libipld
    python examples/atproto_firehose.py --store firehose.store

and then, with the URL and the fingerprint it prints,

    moqtrio subscribe URL atproto firehose --from oldest --tls-fingerprint FINGERPRINT

Every message of the relay is a frame, byte for byte, and 64 of them, or those of a second, a
group. After a lost connection or a crash the relay is asked for what follows the last message
of the last whole group on disk (its cursor), and subscribers see nothing that is not on disk:
in the whole groups they get, no message is missing and none comes twice. Of a group that a
crash cut short they are told; its messages come once more, in the next one.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
from functools import partial

import attrs
import libipld
import trio
import trio_websocket

import moqtrio
from moqtrio.cli.durations import parse_duration
from moqtrio.replay import ReplaySource, read_group

RELAY = "wss://bsky.network/xrpc/com.atproto.sync.subscribeRepos"

GROUP_FRAMES = 64
GROUP_SECONDS = 1.0
SILENCE_SECONDS = 30.0  # a connection that says nothing for so long is as good as lost
LARGEST_MESSAGE = 8 * 2**20
# Where the disk is this far behind, the relay has to wait: it keeps what is not yet read.
AHEAD_OF_STORE = 64 * 2**20
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0

logger = logging.getLogger("firehose")


class RelayError(Exception):
    """The relay says that something is wrong."""


RELAY_ERRORS = (
    *(OSError, trio.TooSlowError, RelayError),
    *(trio_websocket.ConnectionClosed, trio_websocket.HandshakeError),
)


def sequence_of(message: bytes) -> int | None:
    """The relay's number of a message; None where it has none, being about the connection.
    Raises RelayError where it says that something is wrong."""
    try:
        header, body = libipld.decode_dag_cbor_multi(message)
        operation, sequence = header["op"], body.get("seq")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        logger.warning("skipped a message of %d bytes that is no event: %s", len(message), error)
        return None
    if operation != 1:
        raise RelayError(f"{body.get('error')}: {body.get('message')}")
    if header.get("t") == "#info":  # such as OutdatedCursor: it no longer has what would come next
        logger.warning("the relay says: %s: %s", body.get("name"), body.get("message"))
    return sequence if isinstance(sequence, int) else None


async def last_recorded(source: ReplaySource) -> int | None:
    """The relay's number of the last message that is in the store, in a whole group."""
    bounds = source.bounds()
    if bounds.oldest is None or bounds.latest is None:
        return None
    for sequence in range(bounds.latest, bounds.oldest - 1, -1):
        try:
            return sequence_of((await read_group(source, sequence))[-1].payload)
        except moqtrio.RequestError:
            pass  # a number that was set aside when the last run was killed
        except moqtrio.ReplayError as error:
            if error.retryable:
                raise
            logger.warning("group %d comes once more: %s", sequence, error)
    return None


@attrs.define
class Recording:
    """Puts a relay's messages into a track. ``last`` is the number of the last of them."""

    track: moqtrio.Track
    last: int | None

    async def run(self, relay: str) -> None:
        """Follow a relay, connecting again as often as need be."""
        delay = FIRST_DELAY
        while True:
            before = self.last
            try:
                await self.follow(relay)
            except RELAY_ERRORS as error:
                reason = error if str(error) else error.__cause__ or error
                logger.warning("lost the relay: %s", str(reason) or repr(reason))
            delay = FIRST_DELAY if self.last != before else min(2 * delay, LONGEST_DELAY)
            await trio.sleep(delay * random.uniform(0.5, 1.0))

    async def follow(self, relay: str) -> None:
        """Record what comes over one connection."""
        if self.last is not None:
            relay += f"{'&' if '?' in relay else '?'}cursor={self.last}"
        logger.info("following %s", relay)
        async with trio_websocket.open_websocket_url(
            relay,
            max_message_size=LARGEST_MESSAGE,
            message_queue_size=GROUP_FRAMES,
            receive_buffer_size=2**16,
            disconnect_timeout=1.0,
        ) as socket:
            while True:
                await self.record_group(socket)
                await self.track.wait_durable(AHEAD_OF_STORE)

    async def record_group(self, socket: trio_websocket.WebSocketConnection) -> None:
        """Make the next messages a group."""
        message = await self.receive(socket)
        group = self.track.append_group()
        try:
            group.write_frame(message)
            with trio.move_on_after(GROUP_SECONDS):
                for _ in range(GROUP_FRAMES - 1):
                    group.write_frame(await self.receive(socket))
        finally:
            group.finish()  # also where the connection is lost: what came of it is all there

    async def receive(self, socket: trio_websocket.WebSocketConnection) -> bytes:
        """The next message that has not been recorded yet."""
        while True:
            with trio.fail_after(SILENCE_SECONDS):
                message = await socket.get_message()
            if isinstance(message, str):
                continue  # an event is bytes
            sequence = sequence_of(message)
            if sequence is not None and (self.last is None or sequence > self.last):
                self.last = sequence
                return message


async def main(options: argparse.Namespace) -> None:
    origin = moqtrio.Origin()
    tls = moqtrio.generate_certificate()
    if options.tls_cert:
        tls = moqtrio.ServerTls.from_files(options.tls_cert, options.tls_key)
    async with (
        moqtrio.SqliteStore.open(options.store, retention=options.window) as store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        track = origin.create_broadcast("atproto").create_track(
            "firehose", store=store, recording="durable"
        )
        assert track.source is not None
        recording = Recording(track, await last_recorded(track.source))
        listener = await nursery.start(partial(moqtrio.serve, origin, options.listen, tls=tls))
        print(listener.url, listener.fingerprint, flush=True)
        await recording.run(options.relay)


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """End in good order: what was received is recorded, and the store closed."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("relay", nargs="?", default=RELAY, metavar="URL", help="what to follow")
    parser.add_argument("--store", required=True, metavar="DIR", help="where to record")
    parser.add_argument("--window", default="72h", help="how long to keep it")
    parser.add_argument("--listen", default="https://[::]:4443", help="where to serve")
    parser.add_argument("--tls-cert", metavar="FILE", help="a certificate of your own, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    options = parser.parse_args()
    try:
        options.window = parse_duration(options.window)
    except ValueError as error:
        parser.error(f"--window: {error}")
    if not options.relay.startswith(("ws://", "wss://")):
        parser.error(f"expected a URL such as {RELAY}, not {options.relay}")
    return options


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logger.setLevel(logging.INFO)
    failures: list[BaseException] = []
    try:
        trio.run(main, parse_options())
    except* (moqtrio.MoqError, OSError) as group:
        failures += group.exceptions
    if failures:
        sys.exit(f"{sys.argv[0]}: {failures[0]}")
