"""Requests that come at a bad moment, or say more than they should."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from moqtrio.transport.webtransport.codes import H3Code

from ..pairs import plain_settings
from . import raw
from .raw import serving
from .test_server import Sessions


async def test_a_client_that_does_not_want_its_answer_has_no_session() -> None:
    async with serving(max_sessions=1) as peer:
        given_up = await peer.request(raw.headers(raw.connect_fields()))
        given_up.receive.stop(H3Code.REQUEST_CANCELLED)
        await trio.testing.wait_all_tasks_blocked()
        await peer.hello()
        await trio.testing.wait_all_tasks_blocked()
        await peer.session()


async def test_a_second_session_does_not_wait_for_what_the_first_has_unsent() -> None:
    sessions = Sessions()
    small = plain_settings(
        connection_send_high=2000,
        connection_send_low=1000,
        stream_send_high=1000,
        stream_send_low=500,
        stream_window=400,
    )
    async with serving(sessions, settings=small) as peer:
        await peer.hello()
        await peer.session()
        first = await sessions.next()
        with pytest.raises(trio.WouldBlock):  # noqa: PT012  # how many fit does not matter
            while True:
                (await first.open_uni()).send_nowait(bytes(900))
        await peer.session()


@pytest.mark.parametrize("name", [b":answer", b":status"])
async def test_pseudo_fields_that_no_request_has(name: bytes) -> None:
    async with serving() as peer:
        await peer.hello()
        fields = raw.connect_fields()
        stream = await peer.request(raw.headers([(name, b"200"), *fields]))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive.receive_some()
        assert getattr(caught.value, "code", None) == H3Code.MESSAGE_ERROR


async def test_the_number_of_pushes_never_shrinks() -> None:
    async with serving() as peer:
        control = await peer.hello()
        for number in (7, 7, 9):
            control.send_nowait(raw.frame(0xD, raw.varints(number)))
        await peer.session()
        control.send_nowait(raw.frame(0xD, raw.varints(8)))
        assert await peer.closed_with() == H3Code.ID_ERROR
