"""QUIC in virtual time, over a network that loses and reorders."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID
from trio.testing import MockClock

from moqtrio.errors import ConnectError
from moqtrio.transport.connection import ReceiveStream
from moqtrio.transport.tls import Credentials, ServerTls

from .network import Network, simulated_pair
from .pairs import plain_settings, read_all


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    return autojump_clock


async def test_silence_ends_a_connection_with_a_reason(clock: MockClock) -> None:
    network = Network()
    settings = plain_settings(idle_timeout=20, keep_alive=None)
    async with simulated_pair(network, client=settings, server=settings) as (near, far):
        await trio.sleep(1)
        assert near.closed is None
        network.cut = True
        start = trio.current_time()
        end = await near.wait_closed()
        assert 15 <= trio.current_time() - start <= 25
        assert "20 s" in end.reason
        assert "idle timeout" in end.reason
        assert not end.remote
        assert "idle timeout" in (await far.wait_closed()).reason


async def test_keep_alive_keeps_alive(clock: MockClock) -> None:
    settings = plain_settings(idle_timeout=20, keep_alive=5)
    quiet = plain_settings(idle_timeout=20, keep_alive=None)
    network = Network()
    async with simulated_pair(network, client=settings, server=quiet) as (near, far):
        await trio.sleep(1)
        before = len(network.sent)
        await trio.sleep(200)
        assert near.closed is None
        assert far.closed is None
        # A PING and its acknowledgement each five seconds, and nothing more.
        assert 60 <= len(network.sent) - before <= 120


async def test_without_keep_alive_a_quiet_connection_times_out(clock: MockClock) -> None:
    settings = plain_settings(idle_timeout=20, keep_alive=None)
    async with simulated_pair(Network(), client=settings, server=settings) as (near, _):
        with trio.fail_after(30):
            await near.wait_closed()


async def test_a_handshake_nobody_answers_times_out(clock: MockClock) -> None:
    network = Network(cut=True)
    settings = plain_settings(connect_timeout=7)
    start = trio.current_time()
    with pytest.RaisesGroup(
        pytest.RaisesExc(ConnectError, match=r"10\.0\.0\.2:4443 did not answer within 7 s")
    ):
        async with simulated_pair(network, client=settings):
            pytest.fail("connected through a cut")
    assert trio.current_time() - start == pytest.approx(7, abs=0.1)


PAYLOAD = bytes(range(256)) * 1200


async def exchange(network: Network, tls: ServerTls | None = None) -> None:
    """Move PAYLOAD, whole and as many small streams."""
    async with simulated_pair(network, tls=tls) as (near, far), trio.open_nursery() as nursery:

        async def send() -> None:
            big = await near.open_uni()
            await big.send_all(PAYLOAD)
            big.finish()
            for number in range(300):
                stream = await near.open_uni()
                stream.send_nowait(b"%d" % number, finish=True)

        nursery.start_soon(send)
        assert await read_all(await far.accept_uni()) == PAYLOAD
        seen = [int(await read_all(await far.accept_uni())) for _ in range(300)]
        assert seen == list(range(300))


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_on_a_bad_network(clock: MockClock, seed: int) -> None:
    network = Network(seed=seed, loss=0.05, jitter=0.02, duplication=0.03)
    await exchange(network)


@attrs.frozen
class Fixed:
    """One certificate for ever."""

    credentials: Credentials

    def load(self) -> Credentials:
        return self.credentials

    def is_stale(self) -> bool:
        return False


def fixed_size_tls() -> ServerTls:
    """A certificate whose signatures have one length; ECDSA's vary by a byte or two."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fixed")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, None)
    )
    return ServerTls(Fixed(Credentials(certificate, (), key)))


def test_one_seed_gives_one_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    # What else is random: keys and connection ids, whose sizes are fixed, and the order in
    # which Trio runs tasks that are ready at once, which its own tests fix like this.
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    tls = fixed_size_tls()

    def schedule(seed: int) -> list[tuple[float, Any, int]]:
        trio._core._run._r.seed(seed)
        network = Network(seed=seed, loss=0.03, jitter=0.01, duplication=0.02)
        trio.run(exchange, network, tls, clock=MockClock(autojump_threshold=0))
        return network.sent

    first = schedule(7)
    assert len(first) > 300
    assert schedule(7) == first
    assert schedule(8) != first


async def test_credit_survives_loss(clock: MockClock) -> None:
    settings = plain_settings(stream_window=5000, connection_window=8000, max_streams_uni=3)
    network = Network(seed=3, loss=0.1)
    async with (
        simulated_pair(network, client=settings, server=settings) as (near, far),
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            for _ in range(40):
                stream = await near.open_uni()
                await stream.send_all(bytes(12_000))
                stream.finish()

        async def read(stream: ReceiveStream) -> None:
            assert len(await read_all(stream)) == 12_000

        nursery.start_soon(send)
        with trio.fail_after(600):
            for _ in range(40):
                nursery.start_soon(read, await far.accept_uni())


async def test_resets_and_stops_survive_loss(clock: MockClock) -> None:
    network = Network(seed=5, loss=0.2, jitter=0.01)
    settings = plain_settings(max_streams_bidi=4)
    async with simulated_pair(network, client=settings, server=settings) as (near, far):
        with trio.fail_after(600):
            for number in range(60):
                bidi = await near.open_bidi()
                bidi.send.send_nowait(b"x" * 3000)
                other = await far.accept_bidi()
                if number % 2:
                    bidi.send.reset(number)
                    bidi.receive.stop(number)
                else:
                    other.receive.stop(number)
                    other.send.reset(number)
                await bidi.send.wait_stopped()
                other.send.reset(0)
                other.receive.stop(0)
                bidi.receive.stop(0)


async def test_keep_alive_heeds_the_peers_idle_timeout(clock: MockClock) -> None:
    patient = plain_settings(idle_timeout=60, keep_alive=20)
    hasty = plain_settings(idle_timeout=8, keep_alive=None)
    async with simulated_pair(Network(), client=patient, server=hasty) as (near, far):
        await trio.sleep(100)
        assert near.closed is None
        assert far.closed is None
