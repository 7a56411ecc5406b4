"""Lines as they are: split at b"\\n" only, whatever the pieces they arrive in."""

import os
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from moqtrio.cli import lines as lines_module
from moqtrio.cli.failures import Failure
from moqtrio.cli.lines import LineReader, open_lines


async def read_all(reader: LineReader) -> list[bytes]:
    result: list[bytes] = []
    while batch := await reader.receive_batch():
        result += batch
    return result


async def read_file(path: Path, max_line: int = 1000) -> list[bytes]:
    async with open_lines(str(path), max_line=max_line) as reader:
        return await read_all(reader)


@settings(deadline=None, max_examples=50)
@given(
    content=st.lists(st.binary(max_size=20), max_size=20).map(b"\n".join),
    chunk=st.integers(min_value=1, max_value=16),
)
def test_every_byte_of_a_file_comes_back(content: bytes, chunk: int) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines_module, "_CHUNK", chunk)
            found = trio.run(read_file, Path(file.name))
    printed = b"".join(line + b"\n" for line in found)
    assert printed == content if content.endswith(b"\n") or not content else content + b"\n"
    assert printed in (content, content + b"\n")


async def test_carriage_returns_nulls_and_empty_lines_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"one\r\n\n\0\xff\xfe\n\x85\x0b\x0c\nlast")
    assert await read_file(path) == [b"one\r", b"", b"\0\xff\xfe", b"\x85\x0b\x0c", b"last"]


@pytest.mark.parametrize("ending", [b"", b"\n"])
async def test_a_line_that_is_too_long_is_named(tmp_path: Path, ending: bytes) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"short\n" + b"x" * 101 + ending)
    with pytest.raises(Failure, match=r"line 2 of .* has more than 100 bytes"):
        await read_file(path, max_line=100)
    path.write_bytes(b"short\n" + b"x" * 100 + ending)
    assert len(await read_file(path, max_line=100)) == 2


async def test_a_line_without_end_is_refused_before_it_fills_memory() -> None:
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    try:
        reader = LineReader(descriptor, name="zeros", max_line=1 << 20)
        with pytest.raises(Failure, match="line 1 of zeros"):
            await reader.receive_batch()
    finally:
        os.close(descriptor)


async def test_a_pipe_is_read_as_it_comes_and_can_be_cancelled() -> None:
    read_end, write_end = os.pipe()
    try:
        reader = LineReader(read_end, name="pipe", max_line=100)
        os.write(write_end, b"one\ntwo\nthr")
        assert await reader.receive_batch() == [b"one", b"two"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.receive_batch)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert os.get_blocking(read_end)  # it may be shared with other processes
        os.write(write_end, b"ee\n")
        assert await reader.receive_batch() == [b"three"]
        os.close(write_end)
        write_end = -1
        assert await reader.receive_batch() == []
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)


async def test_a_named_pipe_without_a_writer_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with trio.move_on_after(0.05) as scope:
        async with open_lines(str(path), max_line=100):
            pytest.fail("there is no writer")  # pragma: no cover
    assert scope.cancelled_caught
    # Let the abandoned thread go.
    os.close(os.open(path, os.O_WRONLY))


async def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with open_lines(str(tmp_path / "absent"), max_line=100):
            pass
