/** Curves out of frames: how much a stream carries, and what `serve --input telemetry` measures. */

const LARGEST_SAMPLE = 64 * 1024;
/** Counters are compared with those of so many seconds before. */
const SPAN = 1;
/** Nothing for so many seconds is not a low rate, but none. */
const PAUSE = 2;
const MOST_PROCESSORS = 4;
/** Seconds between two points, at least. */
const RESOLUTION = 0.05;

/** Values by time, in order of time, of the last `keep` seconds only. */
export class Curve {
  times = [];
  values = [];
  #keep;

  constructor(keep) {
    this.#keep = keep;
  }

  /** Add a point; `combine(old, new)` decides where there is one in the same moment already. */
  add(time, value, combine = (_, latest) => latest) {
    const moment = Math.round(time / RESOLUTION) * RESOLUTION;
    let index = this.times.length;
    while (index > 0 && this.times[index - 1] > moment) {
      index -= 1;
    }
    if (index > 0 && this.times[index - 1] === moment) {
      this.values[index - 1] = combine(this.values[index - 1], value);
      return;
    }
    this.times.splice(index, 0, moment);
    this.values.splice(index, 0, value);
    this.#expire();
  }

  clear() {
    this.times.length = 0;
    this.values.length = 0;
  }

  #expire() {
    const oldest = this.times.at(-1) - this.#keep;
    // Not at every point: to move thousands of numbers for one is a waste.
    if (this.times[0] < oldest - this.#keep / 10) {
      const count = this.times.findIndex((time) => time >= oldest);
      this.times.splice(0, count);
      this.values.splice(0, count);
    }
  }
}

/** All curves of one track, in panels: `{title, format, top, curves: [{label, points()}]}`. */
export class Telemetry {
  #bytes;
  #samples;
  #decoder = new TextDecoder();

  constructor(keep) {
    this.#bytes = new Curve(keep);
    this.#samples = new Curve(keep);
  }

  clear() {
    this.#bytes.clear();
    this.#samples.clear();
  }

  /** The time of the last frame, in the order of time. */
  get latest() {
    return this.#bytes.times.at(-1);
  }

  add({ payload, time }) {
    this.#bytes.add(time, payload.length, (sum, more) => sum + more);
    const sample = this.#readSample(payload);
    if (sample) {
      this.#samples.add(time, sample);
    }
  }

  #readSample(payload) {
    if (payload.length > LARGEST_SAMPLE || payload[0] !== 0x7b /* { */) {
      return undefined;
    }
    try {
      return summarise(JSON.parse(this.#decoder.decode(payload)));
    } catch {
      return undefined; // some other JSON, or none: the panel of the stream shows it
    }
  }

  panels() {
    const stream = {
      title: "Stream",
      unit: "bytes",
      curves: [{ label: "Payload", points: () => perSecond(this.#bytes) }],
    };
    const sample = this.#samples.values.at(-1);
    return sample ? [stream, ...this.#samplePanels(sample)] : [stream];
  }

  #samplePanels(sample) {
    const processors = sample.processors.slice(0, MOST_PROCESSORS).map((_, index) => ({
      label: `CPU ${index}`,
      points: () => this.#changes((older, newer) => usage(older, newer, index)),
    }));
    const counter = (label, read) => ({
      label,
      points: () => this.#changes((older, newer, seconds) => (read(newer) - read(older)) / seconds),
    });
    return [
      { title: "Processor", unit: "percent", top: 100, curves: processors },
      {
        title: "Memory in use",
        unit: "bytes",
        top: sample.memoryTotal,
        curves: [{ label: "Memory", points: () => this.#plain((each) => each.memoryUsed) }],
      },
      {
        title: "Network",
        unit: "bytes",
        curves: [
          counter("Received", (each) => each.received),
          counter("Sent", (each) => each.sent),
        ],
      },
      {
        title: "Disk",
        unit: "bytes",
        curves: [counter("Read", (each) => each.read), counter("Written", (each) => each.written)],
      },
    ];
  }

  #plain(read) {
    return { times: this.#samples.times, values: this.#samples.values.map(read) };
  }

  /** What changed between each sample and the one `SPAN` before it. */
  #changes(compare) {
    const { times, values } = this.#samples;
    const points = { times: [], values: [] };
    let older = 0;
    for (let newer = 0; newer < times.length; newer += 1) {
      while (older + 1 < newer && times[older + 1] <= times[newer] - SPAN) {
        older += 1;
      }
      const seconds = times[newer] - times[older];
      if (seconds >= SPAN / 2) {
        points.times.push(times[newer]);
        points.values.push(compare(values[older], values[newer], seconds));
      }
    }
    return points;
  }
}

/** Bytes per second, of the second before each point. */
function perSecond({ times, values }) {
  const points = { times: [], values: [] };
  let sum = 0;
  let oldest = 0;
  let began = times[0]; // before this there was a pause, of which there is no rate
  for (let index = 0; index < times.length; index += 1) {
    sum += values[index];
    while (times[oldest] <= times[index] - SPAN) {
      sum -= values[oldest];
      oldest += 1;
    }
    if (times[index] - times[index - 1] > PAUSE) {
      began = times[index];
    }
    if (times[index] - began >= SPAN / 2) {
      points.times.push(times[index]);
      points.values.push(sum / Math.min(SPAN, times[index] - began));
    }
  }
  return points;
}

/** The little that is drawn of a sample; throws where it is not one. */
function summarise(sample) {
  const networks = Object.entries(sample.network).filter(([name]) => name !== "lo");
  const total = (field) => networks.reduce((sum, [, counters]) => sum + counters[field], 0);
  return {
    processors: sample.cpu_seconds.map((seconds) => ({
      idle: seconds.idle + (seconds.iowait ?? 0),
      all: Object.values(seconds).reduce((sum, each) => sum + each, 0),
    })),
    memoryUsed: sample.memory.total - sample.memory.available,
    memoryTotal: sample.memory.total,
    received: total("bytes_recv"),
    sent: total("bytes_sent"),
    read: sample.disk?.read_bytes ?? 0,
    written: sample.disk?.write_bytes ?? 0,
  };
}

function usage(older, newer, index) {
  const [from, to] = [older.processors[index], newer.processors[index]];
  const all = to && from ? to.all - from.all : 0;
  return all > 0 ? Math.max(0, 100 * (1 - (to.idle - from.idle) / all)) : 0;
}
