/** A session that is kept: made, and made again with growing pauses whenever it is lost. */

import { Session } from "./session.js";

const FIRST_PAUSE = 0.5;
const LONGEST_PAUSE = 30;
/** A session that lasts so many seconds was a good one. */
const GOOD_SESSION = 10;
const FINGERPRINT_TIMEOUT = 5000;

/** Something a person has to know: what is wrong, and what to do. */
export class Problem extends Error {
  name = "Problem";

  constructor(message, advice, { final = false } = {}) {
    super(message);
    this.advice = advice;
    /** Whether trying again is of no use. */
    this.final = final;
  }
}

/**
 * Keep a session with the server this page is from, until `signal` aborts.
 *
 * `use(session)` is called with every session, and ends by itself when that does. `tell(state,
 * problem)` hears "connecting", "connected", "waiting" (also while it tries again) and "failed",
 * which is final.
 */
export async function keepConnected({ use, tell, signal }) {
  let failures = 0;
  tell("connecting"); // once: who listens to a screen reader need not hear of every attempt
  while (!signal.aborted) {
    try {
      const session = await connect(location);
      const began = performance.now();
      tell("connected");
      const end = () => session.close();
      signal.addEventListener("abort", end);
      await Promise.all([use(session), session.closed]);
      signal.removeEventListener("abort", end);
      failures = performance.now() - began < GOOD_SESSION * 1000 ? failures : 0;
      tell("waiting", new Problem("The connection was lost.", "Connecting again by itself."));
    } catch (error) {
      if (error.final) {
        tell("failed", error);
        return;
      }
      tell("waiting", error);
    }
    await pause(Math.min(FIRST_PAUSE * 2 ** failures, LONGEST_PAUSE), signal);
    failures += 1;
  }
}

/** A session with the server at `location`. Throws Problem. */
async function connect(location) {
  if (!window.isSecureContext) {
    throw new Problem(
      "Browsers allow WebTransport on secure pages only.",
      `Open https://${location.host}/, or http://localhost:${location.port}/ on the server itself.`,
      { final: true },
    );
  }
  if (typeof WebTransport === "undefined") {
    throw new Problem(
      "This browser does not have WebTransport.",
      "Use a current Chromium, Chrome, Edge or Firefox, or Safari 26.4 or newer.",
      { final: true },
    );
  }
  const fingerprint = await fetchFingerprint();
  // A certificate from an authority lives longer than browsers allow a pinned one to.
  const pins = fingerprint ? [{ fingerprint }, {}] : [{}];
  for (const host of hosts(location)) {
    for (const pin of pins) {
      try {
        return await Session.open(`https://${host}/`, pin);
      } catch {
        // The next may do.
      }
    }
  }
  throw new Problem(
    "The server answers, but not over WebTransport.",
    `Is UDP port ${location.port || 443} open? Has the server's certificate expired? One made ` +
      "with --tls-generate is good for 13 days; restarting the server makes another.",
  );
}

/** Where the server may be. For localhost browsers try IPv6 alone over UDP, servers use IPv4. */
function hosts({ hostname, host, port }) {
  return hostname === "localhost" ? [`127.0.0.1:${port || 443}`, host] : [host];
}

async function fetchFingerprint() {
  let response;
  try {
    response = await fetch("/certificate.sha256", {
      cache: "no-store",
      signal: AbortSignal.timeout(FINGERPRINT_TIMEOUT),
    });
  } catch {
    throw new Problem(
      "The server does not answer.",
      "Is it running? This page connects again by itself as soon as it is.",
    );
  }
  return response.ok ? response.text() : undefined;
}

/** Wait, but not when there is reason to try at once: the network or the person came back. */
function pause(seconds, signal) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = () => {
      clearTimeout(timer);
      over.abort();
      resolve();
    };
    const timer = setTimeout(end, seconds * 1000 * (0.75 + Math.random() / 2));
    const options = { signal: over.signal };
    window.addEventListener("online", end, options);
    document.addEventListener("visibilitychange", () => document.hidden || end(), options);
    signal.addEventListener("abort", end, options);
  });
}
