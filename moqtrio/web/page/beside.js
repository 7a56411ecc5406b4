/**
 * What moqtrio tells about a track on tracks beside it, one frame of JSON in each group:
 *
 * - `NAME.timeline`, whose group `N` is for the Unix time `N`: `{"sequence": …, "now": …}`;
 * - `NAME.epoch`, whose groups are all the same: `{"epoch": …}`.
 *
 * Other publishers do not have them; then the answers are undefined.
 */

import { RequestError } from "./session.js";

const FAR_AHEAD = 10 * 365 * 86400;

export class Beside {
  #session;
  #broadcast;
  #track;
  #decoder = new TextDecoder();

  constructor(session, broadcast, track) {
    this.#session = session;
    this.#broadcast = broadcast;
    this.#track = track;
  }

  /** The first group of what was published since the Unix time `when`, and the publisher's time. */
  async find(when) {
    const text = await this.#ask("timeline", Math.max(0, Math.floor(when)));
    try {
      const { sequence, now } = JSON.parse(text);
      return Number.isSafeInteger(sequence) && Number.isFinite(now) ? { sequence, now } : undefined;
    } catch {
      return undefined;
    }
  }

  /** The oldest group there is, and the publisher's time. */
  findOldest() {
    return this.find(0);
  }

  /** The group that is being written, or the next one. */
  findEdge() {
    return this.find(Date.now() / 1000 + FAR_AHEAD);
  }

  /** Something that is another where sequences mean other groups than they did. */
  epoch() {
    // A group that nobody asked for before is not in the cache of a relay.
    return this.#ask("epoch", Math.floor(Math.random() * Number.MAX_SAFE_INTEGER));
  }

  /** When a group of the track itself begins, by its first frame. */
  async timeOf(sequence) {
    return (await this.#firstFrame(this.#track, sequence))?.time;
  }

  async #ask(about, group) {
    const frame = await this.#firstFrame(`${this.#track}.${about}`, group);
    return frame && this.#decoder.decode(frame.payload);
  }

  async #firstFrame(track, sequence) {
    try {
      for await (const frame of this.#session.fetch(this.#broadcast, track, sequence)) {
        return frame;
      }
      return undefined;
    } catch (error) {
      if (error instanceof RequestError) {
        return undefined;
      }
      throw error;
    }
  }
}
