/**
 * Plays one track: follows the live edge, or goes on from an older group, paced as it was recorded.
 *
 * It outlives sessions. In each it resumes at the next group; to pause is to unsubscribe, since the
 * publisher has the history.
 */

import { Beside } from "./beside.js";
import { Pacer, sleep } from "./pacer.js";

/** Groups that are read at the same time: one that stays open holds up nothing. */
const READERS = 8;
/** How far a live view may lag, seconds, before groups are left out. */
const LIVE_LATENCY = 10;
const RETRY_PAUSE = 2000;
const EDGE_INTERVAL = 2000;

export class Player {
  #broadcast;
  #track;
  #window;
  #listener;
  #next;
  #paceFrom = 0;
  #place;
  #wantsContext = false;
  #change = new AbortController();
  #pacer;
  #speed = 1;
  #beside;
  #epoch;
  #isFailing = false;

  /**
   * `window` is how many seconds before the place it begins at come as well, at once. `listener` has `clear()`,
   * `changed()`, `problem(text)`, `group(sequence)`, `frame(sequence, frame)`,
   * `groupEnd(sequence, complete)` and `gap({start, end, code})`.
   */
  constructor(broadcast, track, { window, listener }) {
    this.#broadcast = broadcast;
    this.#track = track;
    this.#window = window;
    this.#listener = listener;
    /** "live", "replay", "paused" or "ended". */
    this.mode = "live";
    /** The oldest group there is, and the latest known of. */
    this.oldest = undefined;
    this.edge = undefined;
  }

  /** The group that was begun last. */
  position = undefined;

  goLive() {
    this.#seek(undefined, "live");
  }

  goTo(sequence) {
    this.#seek(Math.max(sequence, this.oldest ?? 0), "replay");
  }

  /** Go to what was published so many seconds before what is shown now. */
  async goBack(seconds, shownTime) {
    const found = await this.#beside?.find(shownTime - seconds);
    if (found) {
      this.goTo(found.sequence);
    }
  }

  pause() {
    this.#enter("paused");
  }

  play() {
    if (this.mode === "paused") {
      this.#enter("replay");
    }
  }

  set speed(speed) {
    this.#speed = speed;
    if (this.#pacer) {
      this.#pacer.speed = speed;
    }
  }

  #seek(next, mode) {
    this.#listener.clear();
    this.#next = next;
    this.#paceFrom = next ?? 0;
    this.#wantsContext = true;
    this.#place = undefined;
    this.position = undefined;
    this.#enter(mode);
  }

  #enter(mode) {
    this.mode = mode;
    this.#change.abort();
    this.#change = new AbortController();
    this.#listener.changed();
  }

  /** Play in this session until it is over, or `signal` aborts. */
  async run(session, signal) {
    this.#beside = new Beside(session, this.#broadcast, this.#track);
    if (this.mode === "ended") {
      this.mode = "live";
    }
    const over = new AbortController();
    const end = () => over.abort();
    session.closed.then(end);
    signal.addEventListener("abort", end);
    await this.#findRange();
    await this.#checkEpoch();
    const watching = this.#watchRange(over.signal);
    while (!over.signal.aborted) {
      await this.#playOnce(session, AbortSignal.any([over.signal, this.#change.signal]));
    }
    await watching;
    signal.removeEventListener("abort", end);
  }

  /** Where sequences mean other groups than before, what was shown is of another track. */
  async #checkEpoch() {
    const epoch = await this.#beside.epoch();
    const isOther = epoch !== undefined && this.#epoch !== undefined && epoch !== this.#epoch;
    this.#epoch = epoch ?? this.#epoch;
    if (isOther || this.#next > this.edge + 1) {
      this.goLive();
      this.#listener.problem("The track has begun again: its publisher does not have what was.");
    }
  }

  async #playOnce(session, signal) {
    if (this.mode === "paused" || this.mode === "ended") {
      await aborted(signal);
      return;
    }
    const place = new Place(this.#next);
    this.#place = place;
    try {
      const subscription = await this.#subscribe(session);
      const close = () => subscription.close();
      signal.addEventListener("abort", close);
      if (signal.aborted) {
        close();
      }
      this.#tellFailure(undefined);
      await this.#readAll(subscription, place, signal);
      signal.removeEventListener("abort", close);
      if (!signal.aborted) {
        this.#enter("ended");
      }
    } catch (error) {
      if (!signal.aborted) {
        this.#tellFailure(error);
        await sleep(RETRY_PAUSE, signal);
      }
    } finally {
      if (this.#place === place) {
        this.#next = place.next; // unless the person chose another in the meantime
      }
    }
  }

  #tellFailure(error) {
    if (error) {
      this.#listener.problem(`The track cannot be followed now: ${error.message}. Trying again.`);
    } else if (this.#isFailing) {
      this.#listener.problem("");
    }
    this.#isFailing = Boolean(error);
  }

  async #subscribe(session) {
    const place = this.#place;
    const wishes = { start: this.#next };
    wishes.ondrop = (gap) => {
      place.pass(gap.end);
      this.#listener.gap(gap);
    };
    if (this.mode === "live") {
      this.#pacer = undefined;
      wishes.start = await this.#findLiveStart();
      wishes.maxLatency = LIVE_LATENCY;
    } else {
      this.#pacer = new Pacer(this.#speed);
      wishes.start = await this.#findReplayStart();
    }
    return session.subscribe(this.#broadcast, this.#track, wishes);
  }

  async #readAll(subscription, place, signal) {
    const readers = Array.from({ length: READERS }, async () => {
      for await (const group of subscription) {
        await this.#readGroup(group, place, signal);
      }
    });
    await Promise.all(readers);
  }

  async #readGroup(group, place, signal) {
    const { sequence } = group;
    place.open.add(sequence);
    let begun = false;
    let complete = true;
    try {
      for await (const frame of group) {
        if (sequence >= this.#paceFrom) {
          await this.#pacer?.wait(frame.time, signal);
        }
        if (signal.aborted) {
          return;
        }
        if (!begun) {
          begun = true;
          this.#begin(sequence);
        }
        this.#listener.frame(sequence, frame);
      }
    } catch (error) {
      if (signal.aborted || error.source === "session") {
        return; // it is asked for again
      }
      complete = false;
    }
    place.open.delete(sequence);
    place.pass(sequence + 1);
    if (!begun) {
      this.#begin(sequence);
    }
    this.#listener.groupEnd(sequence, complete);
  }

  #begin(sequence) {
    this.position = Math.max(sequence, this.position ?? 0);
    this.oldest ??= sequence;
    const caughtUp = this.mode === "replay" && sequence >= (this.edge ?? Infinity);
    this.edge = Math.max(sequence, this.edge ?? 0);
    this.#listener.group(sequence);
    if (caughtUp) {
      this.mode = "live";
      this.#pacer = undefined;
      this.#listener.changed();
    }
  }

  /** The last `window` seconds, but nothing twice, and the latest group if there is no other. */
  async #findLiveStart() {
    const oldest = await this.#beside.findOldest();
    const recent = oldest && (await this.#beside.find(oldest.now - this.#window));
    if (!recent) {
      return this.#next;
    }
    return Math.max(Math.min(recent.sequence, this.edge ?? Infinity), this.#next ?? 0);
  }

  /** Where a replay begins: after a jump, so long before its target that the window is full. */
  async #findReplayStart() {
    const time = this.#wantsContext ? await this.#beside.timeOf(this.#next) : undefined;
    this.#wantsContext = false;
    const found = time && (await this.#beside.find(time - this.#window));
    return Math.min(found?.sequence ?? this.#next, this.#next);
  }

  async #findRange() {
    const [oldest, edge] = await Promise.all([
      this.#beside.findOldest(),
      this.#beside.findEdge(),
    ]);
    this.oldest = oldest?.sequence ?? this.oldest;
    this.edge = edge ? Math.max(edge.sequence - 1, 0) : this.edge;
  }

  /** History expires, and what is live moves on while something older is played. */
  async #watchRange(signal) {
    while (!signal.aborted) {
      await sleep(EDGE_INTERVAL, signal);
      if (!signal.aborted && !document.hidden) {
        await this.#findRange();
      }
    }
  }
}

/** How far one subscription has come. */
class Place {
  open = new Set();
  #passed;

  constructor(next) {
    this.#passed = next;
  }

  pass(end) {
    this.#passed = Math.max(end, this.#passed ?? 0);
  }

  /** Where to resume: after all that has ended, but not after what was being read. */
  get next() {
    return this.open.size ? Math.min(this.#passed ?? Infinity, ...this.open) : this.#passed;
  }
}

function aborted(signal) {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    }
    signal.addEventListener("abort", resolve, { once: true });
  });
}
