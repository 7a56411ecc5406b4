/** What has been received lately: bounded, whatever comes and however long the page is open. */

const MOST_GROUPS = 200;
const MOST_GAPS = 20;
const BUCKET = 0.25;
const RATE_SECONDS = 4;

/** The latest groups, and the gaps among them. */
export class GroupHistory {
  #groups = new Map();
  #gaps = [];

  clear() {
    this.#groups.clear();
    this.#gaps = [];
  }

  begin(sequence) {
    this.#groups.set(sequence, { sequence, frames: 0, bytes: 0, state: "open" });
    if (this.#groups.size > MOST_GROUPS) {
      this.#groups.delete(Math.min(...this.#groups.keys()));
    }
  }

  addFrame(sequence, { payload, time }) {
    const group = this.#groups.get(sequence);
    if (group) {
      group.time ??= time;
      group.frames += 1;
      group.bytes += payload.length;
    }
  }

  end(sequence, complete) {
    const group = this.#groups.get(sequence);
    if (group) {
      group.state = complete ? "complete" : "cut short";
    }
  }

  addGap(gap) {
    for (const group of this.#groups.values()) {
      if (group.state === "open" && group.sequence >= gap.start && group.sequence < gap.end) {
        group.state = "cut short";
      }
    }
    this.#gaps.push(gap);
    this.#gaps.splice(0, this.#gaps.length - MOST_GAPS);
  }

  /** Newest first: groups with their `rate` in bytes per second, and gaps `{start, end, code}`. */
  rows() {
    const groups = [...this.#groups.values()].sort((one, other) => one.sequence - other.sequence);
    const oldest = groups.length ? groups[0].sequence : 0;
    for (const [index, group] of groups.entries()) {
      const duration = group.time - groups[index - 1]?.time;
      group.rate = duration > 0 ? group.bytes / duration : undefined;
    }
    const gaps = this.#gaps.filter((gap) => gap.end > oldest);
    return [...groups, ...gaps].sort((one, other) => startOf(other) - startOf(one));
  }
}

function startOf(row) {
  return row.sequence ?? row.start;
}

/** How much arrives per second, by this machine's clock. */
export class Rates {
  #buckets = [];
  #began;

  add(kind, amount) {
    const now = performance.now() / 1000;
    this.#began ??= now;
    const at = Math.floor(now / BUCKET);
    let bucket = this.#buckets.at(-1);
    if (bucket?.at !== at) {
      bucket = { at, groups: 0, frames: 0, bytes: 0 };
      this.#buckets.push(bucket);
      this.#expire(at);
    }
    bucket[kind] += amount;
  }

  /** `{groups, frames, bytes}` per second. */
  perSecond() {
    const now = performance.now() / 1000;
    this.#expire(Math.floor(now / BUCKET));
    const seconds = Math.min(RATE_SECONDS, Math.max(now - (this.#began ?? now), 1));
    const total = { groups: 0, frames: 0, bytes: 0 };
    for (const bucket of this.#buckets) {
      for (const kind of Object.keys(total)) {
        total[kind] += bucket[kind] / seconds;
      }
    }
    return total;
  }

  #expire(at) {
    const oldest = at - RATE_SECONDS / BUCKET;
    while (this.#buckets.length && this.#buckets[0].at < oldest) {
      this.#buckets.shift();
    }
  }
}
