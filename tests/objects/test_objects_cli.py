"""``--store DIR --store URL``: the command line's way to two tiers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from cli_commands import run_moqtrio, running_moqtrio
from object_tools import MotoServer, s3_store
from store_tools import find_group, read_rest

import moqtrio
from moqtrio.cli.failures import UsageError
from moqtrio.cli.options import SourceOptions
from moqtrio.errors import ReplayError
from moqtrio.replay.objects.client import ObjectClient

LINES = [f"line {index} ".encode() + b"." * (index % 300) for index in range(400)]


def serve(directory: Path, url: str, path: Path, *more: str) -> list[str]:
    return [
        *("serve", "moqt://127.0.0.1:0", "--broadcast", "b", "--track", "t"),
        *("--input", str(path), "--group-frames", "10", "--tls-generate", "localhost"),
        *("--store", str(directory), "--store", url, *more),
    ]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    return path


async def read_lines(url: str) -> list[bytes]:
    found: list[bytes] = []
    async with moqtrio.ObjectStore.open(url) as objects:
        track = objects.track("b", "t")
        for sequence in range(len(LINES) // 10):
            reader = await find_group(track, sequence)
            assert not isinstance(reader, moqtrio.Missing)
            found += [frame.payload for frame in await read_rest(reader)]
            reader.close()
    return found


async def test_what_was_served_is_in_the_objects(tmp_path: Path, lines: Path) -> None:
    url = (tmp_path / "cold").as_uri()
    done = await run_moqtrio(*serve(tmp_path / "hot", url, lines, "--exit"))
    assert done.code == 0, done.err
    assert await read_lines(url) == LINES
    done = await run_moqtrio("store", "info", url, "--json")
    assert done.code == 0, done.err
    track, store = done.messages
    assert (track["oldest"], track["latest"], track["groups"], track["frames"]) == (0, 39, 40, 400)
    assert track["bytes"] == sum(map(len, LINES))
    assert store["objects"] == 1
    shown = await run_moqtrio("store", "info", url)
    assert b"the oldest is 0, the latest 39" in shown.out


async def test_info_where_there_is_nothing(tmp_path: Path) -> None:
    done = await run_moqtrio("store", "info", (tmp_path / "cold").as_uri())
    assert done.code == 2
    assert "no moqtrio store" in done.err


async def test_s3_by_the_environment_and_a_disk_that_was_lost(
    tmp_path: Path, lines: Path, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto.port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    url = f"s3://{moto.make_bucket()}/some/prefix"
    done = await run_moqtrio(*serve(tmp_path / "hot", url, lines, "--exit"))
    assert done.code == 0, done.err
    assert await read_lines(url) == LINES
    # Another disk, and no input: the history is served all the same.
    empty = tmp_path / "empty"
    empty.write_bytes(b"one more\n")
    async with running_moqtrio(*serve(tmp_path / "other", url, empty)) as server:
        listening = await server.read_message()
        copy = await run_moqtrio(
            *("subscribe", listening["url"], "b", "t", "--from", "oldest"),
            *("--tls-fingerprint", listening["fingerprint"]),
        )
        assert copy.out.splitlines() == [*LINES, b"one more"], copy.err
        assert copy.code == 0


@pytest.mark.parametrize(
    ("stores", "complaint"),
    [
        (["s3://bucket/prefix"], "needs a directory besides"),
        (["one", "two"], "one directory"),
        (["one", "s3://bucket/a", "s3://bucket/b"], "one URL"),
    ],
)
def test_stores_that_do_not_go_together(stores: Sequence[str], complaint: str) -> None:
    options = SourceOptions(broadcast="b", track="t", store=tuple(stores))
    with pytest.raises(UsageError, match=complaint):
        options.check()


def test_a_directory_and_a_url_in_any_order() -> None:
    for stores in (("dir", "s3://b/p"), ("s3://b/p", "dir")):
        options = SourceOptions(broadcast="b", track="t", store=stores)
        assert options.split_stores() == (Path("dir"), "s3://b/p")
    assert SourceOptions(broadcast="b", track="t").split_stores() == (None, None)


async def test_a_bucket_that_is_not_there(moto: MotoServer) -> None:
    client = ObjectClient(s3_store(moto.port, "absent"), "s3://absent/prefix")
    with pytest.raises(ReplayError, match="there seems to be no such bucket"):
        await trio.to_thread.run_sync(client.probe)


async def test_http_that_is_not_allowed(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    client = ObjectClient.connect("s3://bucket/prefix", 5.0)
    with pytest.raises(ReplayError, match="http:// needs AWS_ALLOW_HTTP=true"):
        await trio.to_thread.run_sync(client.probe)


async def test_a_url_that_means_nothing(tmp_path: Path, lines: Path) -> None:
    done = await run_moqtrio(*serve(tmp_path / "hot", "ftp://host/x", lines, "--exit"))
    assert done.code == 1
    assert "ftp://host/x cannot be used as an object store" in done.err
