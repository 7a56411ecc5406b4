import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from moqtrio.cli.failures import Failure, OutputClosed
from moqtrio.cli.output import encode_json, open_output


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for descriptor in (read_end, write_end):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(descriptor)


async def test_everything_is_written_in_order(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    expected = b""
    async with open_output(descriptor) as output:
        for number in range(1000):
            await output.write(b"%d\n" % number)
            expected += b"%d\n" % number
        await output.write_json({"type": "end", "sequence": None})
        expected += b'{"type":"end","sequence":null}\n'
    os.close(descriptor)
    assert (tmp_path / "out").read_bytes() == expected


def test_json_is_one_line_whatever_it_holds() -> None:
    assert encode_json({"path": "a\nb\u2028é"}).count(b"\n") == 1


async def test_a_pipe_nobody_reads_holds_back_the_writer_only(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    written = 0

    async def write_for_ever() -> None:
        nonlocal written
        async with open_output(write_end) as output:
            while True:
                await output.write(b"x" * 65536)
                written += 65536

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_for_ever)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert written < 8 << 20
        started = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started < 5  # a stuck pipe does not keep it from ending
    os.set_blocking(read_end, False)
    while True:  # let the abandoned thread go
        try:
            os.read(read_end, 1 << 20)
        except BlockingIOError:
            break


async def test_what_was_taken_is_written_even_when_cancelled(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    with trio.CancelScope() as scope:
        async with open_output(descriptor) as output:
            await output.write(b"received\n")
            scope.cancel()
            await trio.sleep_forever()
    os.close(descriptor)
    assert (tmp_path / "out").read_bytes() == b"received\n"


async def test_a_closed_pipe_ends_it_at_once(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    os.close(read_end)
    with pytest.RaisesGroup(OutputClosed):
        async with open_output(write_end) as output:
            await output.write(b"unwanted")
            await trio.sleep_forever()


async def test_a_full_disk_is_a_failure() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.RaisesGroup(pytest.RaisesExc(Failure, match="No space left")):
        async with open_output(descriptor) as output:
            await output.write(b"too much")
            await trio.sleep_forever()
    os.close(descriptor)
