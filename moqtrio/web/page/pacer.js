/** Lets frames through at the speed they were recorded, or a multiple of it. */

const LONGEST_SLEEP = 500;

export class Pacer {
  #speed;
  #base;

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
    while (!signal.aborted) {
      const delay = this.#delay(time);
      if (delay <= 0) {
        return;
      }
      await sleep(Math.min(delay * 1000, LONGEST_SLEEP), signal);
    }
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
