"""Carries a qmux connection over a link: three tasks, however many streams there are."""

from __future__ import annotations

import trio

from ...errors import SessionCode
from .connection import QmuxConnection
from .link import LinkError, MessageLink

# What is handed to the link at once. More would be sent before what becomes more urgent
# meanwhile; less costs more calls for each byte.
_BATCH = 32 * 1024
# Seconds for the last words, and for the peer's.
_GOODBYE = 2.0
# Seconds after which others get their turn: a message may be thousands of frames.
_TURN = 0.005


async def drive(connection: QmuxConnection, link: MessageLink) -> None:
    """Send and receive until the connection is over, then close the link.

    Cancelling closes the connection, and tells the peer if that takes no longer than a
    moment.
    """
    goodbye = trio.CancelScope(shield=True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive, connection, link)
            nursery.start_soon(_keep_time, connection)
            nursery.start_soon(_send, connection, link, goodbye)
            try:
                await connection.wait_closed()
            finally:
                connection.close(SessionCode.NO_ERROR, "")
                goodbye.deadline = trio.current_time() + _GOODBYE
                nursery.cancel_scope.cancel()
        if not goodbye.cancelled_caught:
            with trio.CancelScope(shield=True, deadline=goodbye.deadline):
                await link.close()
    finally:
        with trio.CancelScope(shield=True):
            await link.abort()


async def _receive(connection: QmuxConnection, link: MessageLink) -> None:
    try:
        while (messages := await link.receive()) is not None:
            began = trio.current_time()
            connection.heard(began)
            for message in messages:
                connection.feed(message)
                if trio.current_time() - began > _TURN:
                    await trio.lowlevel.checkpoint()
                    began = trio.current_time()
            connection.settle()
            if link.has_answers:
                connection.wake_sender()
        connection.lost("the peer closed what carried it, without saying why")
    except LinkError as error:
        connection.broken(str(error))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.lost("what carried it broke")


async def _send(connection: QmuxConnection, link: MessageLink, until: trio.CancelScope) -> None:
    """Send what there is, and the last words of a connection that is over."""
    with until:
        try:
            while True:
                packed = [link.take_answers()] if link.has_answers else []
                packed += [link.pack(message) for message in connection.take(_BATCH)]
                if connection.take_link_ping():
                    packed.append(link.pack_ping())
                if packed:
                    with trio.move_on_after(connection.patience) as unread:
                        await link.send(b"".join(packed))
                    if unread.cancelled_caught:
                        connection.give_up(f"it does not read, for {connection.patience:g} s")
                        return
                    connection.sent()
                elif connection.closed is None:
                    await connection.wait_to_send()
                else:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.lost("what carried it broke")


async def _keep_time(connection: QmuxConnection) -> None:
    # The one time the deadline comes nearer is when the peer has declared itself.
    with trio.move_on_at(connection.deadline()):
        await connection.ready.wait()
    while connection.closed is None:
        connection.fire(trio.current_time())
        await trio.sleep_until(connection.deadline())
