"""npm's @moq/net in Chromium against moqtrio, over WebTransport with a pinned certificate."""

from __future__ import annotations

import itertools
from pathlib import Path

from browser_tools import BROADCAST, HERE, TRACK, Server, running
from playwright.sync_api import Page

_CONNECT = """
const Moq = await import("@moq/net");
const connection = await Moq.Connection.connect(new URL(url), {
    webtransport: { serverCertificateHashes: [{ value: fingerprint }] },
    websocket: { enabled: false },
});
"""

# Follows the track until `beyond` groups have come that began after it subscribed.
_FOLLOW = (
    "async ({ url, fingerprint, broadcast, track, beyond }) => {"
    + _CONNECT
    + """
    const { path, active } = await connection.announced().next();
    const source = connection.consume(Moq.Path.from(broadcast)).track(track);
    const began = Date.now();
    const subscription = source.subscribe({ startGroup: 0, ordered: true, latencyMax: 3_600_000 });
    const groups = [];
    while (beyond > 0) {
        const group = await subscription.recvGroup();
        const samples = [];
        for (let frame; (frame = await group.readFrame()); ) {
            samples.push(JSON.parse(new TextDecoder().decode(frame.payload)));
        }
        const isLive = samples[0].unix_ns / 1e6 > began;
        beyond -= isLive ? 1 : 0;
        groups.push([group.sequence, isLive, samples.map(({ sample }) => sample)]);
    }
    subscription.close();
    connection.close();
    return { version: connection.version, announcement: { path, active }, groups };
}"""
)

_PUBLISH = (
    "async ({ url, fingerprint, broadcast, track, texts }) => {"
    + _CONNECT
    + """
    const producer = new Moq.Broadcast.Producer();
    const output = producer.createTrack(track, { timescale: Moq.Time.Timescale.MICRO });
    connection.publish(Moq.Path.from(broadcast), producer);
    const signal = AbortSignal.timeout(20_000);
    while (!output.used.peek()) {
        signal.throwIfAborted();
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    for (const text of texts) {
        output.writeString(text);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    window.connection = connection; // until the page is closed
    return connection.version;
}"""
)


def test_history_from_the_store_and_then_live(npm_page: Page, server: Server) -> None:
    server.wait_for_history()
    result = npm_page.evaluate(
        _FOLLOW,
        {
            "url": f"https://127.0.0.1:{server.port}/",
            "fingerprint": server.fingerprint,
            "broadcast": BROADCAST,
            "track": TRACK,
            "beyond": 10,
        },
    )
    assert result["version"] == "moq-lite-05"
    assert result["announcement"] == {"path": BROADCAST, "active": True}
    # They come as they arrive, and a retransmission may change the order of two.
    groups = sorted(result["groups"])
    sequences, live, samples = zip(*groups, strict=True)
    assert sequences == tuple(range(len(groups)))
    assert live.count(False) > 20
    assert list(itertools.chain(*samples)) == list(range(5 * len(groups)))


def test_publishes_to_a_subscriber(npm_page: Page, tmp_path: Path) -> None:
    texts = [f"from the browser, {number}" for number in range(20)]
    with running(str(HERE / "receiver.py"), "from/browser", "texts") as receiver:
        ready = receiver.read()
        version = npm_page.evaluate(
            _PUBLISH,
            {
                "url": f"https://127.0.0.1:{ready['port']}/",
                "fingerprint": ready["fingerprint"],
                "broadcast": "from/browser",
                "track": "texts",
                "texts": texts,
            },
        )
        received = [receiver.read() for _ in texts]
    assert version == "moq-lite-05"
    assert [frame["text"] for frame in received] == texts
    sequences = [frame["group"] for frame in received]
    assert sequences == list(range(sequences[0], sequences[0] + len(texts)))
