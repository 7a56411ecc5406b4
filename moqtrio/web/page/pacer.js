/** Lets frames through at the speed they were recorded, or a multiple of it. */

const LONGEST_SLEEP = 500;
/** A hole in the track that is longer, in seconds, is skipped: nobody wants to wait for a night. */
const LONGEST_HOLE = 10;

export class Pacer {
  #speed;
  #base;
  #waiting = new Set();
  #passed;

  /** A `speed` of Infinity holds nothing back. */
  constructor(speed) {
    this.#speed = speed;
  }

  set speed(speed) {
    this.#speed = speed;
    this.#base = undefined; // from here on
  }

  /** Wait until a frame of this time is due, or `signal` aborts. */
  async wait(time, signal) {
    const waiter = { time };
    this.#waiting.add(waiter);
    for (let delay = this.#delay(time); delay > 0 && !signal.aborted; delay = this.#delay(time)) {
      await sleep(Math.min(delay * 1000, LONGEST_SLEEP), signal);
      if (this.#isAfterHole(time)) {
        this.#base = undefined;
      }
    }
    this.#waiting.delete(waiter);
    this.#passed = Math.max(time, this.#passed ?? time);
  }

  /** Whether nothing comes between what has passed and this, for long. */
  #isAfterHole(time) {
    const next = Math.min(...Array.from(this.#waiting, (waiter) => waiter.time));
    return time === next && time - this.#passed > LONGEST_HOLE;
  }

  #delay(time) {
    if (this.#speed === Infinity) {
      return 0;
    }
    const now = performance.now() / 1000;
    this.#base ??= { time, now };
    return (time - this.#base.time) / this.#speed - (now - this.#base.now);
  }
}

/** Wait so many milliseconds, or until `signal` aborts. */
export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
  });
}
