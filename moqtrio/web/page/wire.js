/**
 * The bytes of moq-lite-05 (draft-lcurley-moq-lite): what a subscriber writes and reads.
 *
 * Numbers are JavaScript's: a sequence or length above 2^53 - 1 is refused. Durations are seconds,
 * ranges half-open `[start, end)`, and `undefined` says that a field is absent.
 */

export const PROTOCOL = "moq-lite-05";

/** What a bidirectional stream is for: the varint it starts with. */
export const Request = Object.freeze({ ANNOUNCE: 1, SUBSCRIBE: 2, FETCH: 3, TRACK: 6 });

/** What a unidirectional stream is for. */
export const UniStream = Object.freeze({ GROUP: 0, SETUP: 1 });

/** What a publisher says on a subscribe stream, before the length of the message. */
export const Response = Object.freeze({ START: 0, END: 1, DROP: 2 });

const SETUP_ROLE = 3;
const ROLE_SUBSCRIBER = 2;
const ANNOUNCE_ENDED = 0;
const MAX_HOPS = 32;

/** As long as can be said here: 285,000 years. */
const LONGEST_MILLISECONDS = Number.MAX_SAFE_INTEGER;

const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes that are not what they should be. */
export class WireError extends Error {
  name = "WireError";
}

/** How many bytes a varint takes, from its first byte (RFC 9000 section 16). */
export function varintSize(firstByte) {
  return 1 << (firstByte >> 6);
}

/** The varint that `bytes`, all of them, are. */
export function decodeVarint(bytes) {
  let value = bytes[0] & 0x3f;
  for (let index = 1; index < bytes.length; index += 1) {
    value = value * 256 + bytes[index]; // not <<, which knows only 32 bits
  }
  return value;
}

function requireExact(value, what) {
  if (!Number.isSafeInteger(value)) {
    throw new WireError(`expected ${what} below 2^53, got about ${value}`);
  }
  return value;
}

/** The bytes of messages, one field after the other. */
export class Writer {
  #bytes = [];

  varint(value) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new RangeError(`expected a whole number from 0 to 2^53 - 1, got ${value}`);
    }
    const size = value < 0x40 ? 1 : value < 0x4000 ? 2 : value < 0x4000_0000 ? 4 : 8;
    const bytes = new Array(size);
    for (let index = size - 1; index >= 0; index -= 1) {
      bytes[index] = value % 256;
      value = Math.floor(value / 256);
    }
    bytes[0] |= Math.log2(size) << 6;
    this.#bytes.push(...bytes);
    return this;
  }

  byte(value) {
    this.#bytes.push(value & 0xff);
    return this;
  }

  string(text) {
    const encoded = utf8.encode(text);
    this.varint(encoded.length);
    this.#bytes.push(...encoded);
    return this;
  }

  milliseconds(seconds) {
    return this.varint(Math.min(Math.round(seconds * 1000), LONGEST_MILLISECONDS));
  }

  /** A message: the length of what `write` writes, and that. */
  message(write) {
    const body = new Writer();
    write(body);
    this.varint(body.#bytes.length);
    this.#bytes.push(...body.#bytes);
    return this;
  }

  finish() {
    return Uint8Array.from(this.#bytes);
  }
}

/** The fields of one message's body. */
class Reader {
  #bytes;
  #offset = 0;

  constructor(bytes) {
    this.#bytes = bytes;
  }

  take(size, what) {
    const end = this.#offset + size;
    if (end > this.#bytes.length) {
      throw new WireError(`expected ${what}, got the end of the message`);
    }
    const taken = this.#bytes.subarray(this.#offset, end);
    this.#offset = end;
    return taken;
  }

  /** A number of which no more is needed than how large it is about. */
  magnitude(what) {
    const first = this.take(1, what);
    this.#offset -= 1;
    return decodeVarint(this.take(varintSize(first[0]), what));
  }

  varint(what) {
    return requireExact(this.magnitude(what), what);
  }

  byte(what) {
    return this.take(1, what)[0];
  }

  string(what) {
    const bytes = this.take(this.varint(what), what);
    try {
      return strictUtf8.decode(bytes);
    } catch {
      throw new WireError(`expected ${what} in UTF-8`);
    }
  }

  /** All that is left. */
  rest() {
    return this.take(this.#bytes.length - this.#offset);
  }

  finish() {
    const left = this.#bytes.length - this.#offset;
    if (left) {
      throw new WireError(`expected the end of the message, got ${left} more bytes`);
    }
  }
}

function decode(body, read) {
  const reader = new Reader(body);
  const message = read(reader);
  reader.finish();
  return message;
}

/** The whole setup stream of an endpoint that only subscribes. */
export function encodeSetup() {
  const role = new Writer().varint(ROLE_SUBSCRIBER).finish();
  return new Writer()
    .varint(UniStream.SETUP)
    .message((body) => body.varint(1).varint(SETUP_ROLE).varint(role.length).byte(role[0]))
    .finish();
}

export function encodeAnnounceRequest(prefix) {
  const noHopExcluded = 0;
  return new Writer()
    .varint(Request.ANNOUNCE)
    .message((body) => body.string(prefix).varint(noHopExcluded))
    .finish();
}

/** How many broadcasts are announced at once, before the announcements that follow as they come. */
export function decodeAnnounceOk(body) {
  return decode(body, (reader) => {
    reader.magnitude("the hop id");
    return { activeCount: reader.varint("the number of active broadcasts") };
  });
}

export function decodeAnnounce(body) {
  return decode(body, (reader) => {
    const status = reader.byte("the announce status");
    if (status > 2) {
      throw new WireError(`expected an announce status of 0, 1 or 2, got ${status}`);
    }
    const suffix = reader.string("the broadcast path suffix");
    const hops = reader.varint("the number of hops");
    if (hops > MAX_HOPS) {
      throw new WireError(`expected at most ${MAX_HOPS} hops, got ${hops}`);
    }
    for (let hop = 0; hop < hops; hop += 1) {
      reader.magnitude("a hop id");
    }
    return { suffix, active: status !== ANNOUNCE_ENDED };
  });
}

export function encodeTrackRequest(broadcast, track) {
  return new Writer()
    .varint(Request.TRACK)
    .message((body) => body.string(broadcast).string(track))
    .finish();
}

/** What a publisher has fixed about a track; `timescale` is units of timestamps per second. */
export function decodeTrackInfo(body) {
  return decode(body, (reader) => {
    const priority = reader.byte("the publisher priority");
    const ordered = reader.byte("publisher ordered") !== 0;
    const maxLatency = reader.magnitude("the publisher max latency") / 1000;
    const timescale = reader.varint("the timescale");
    if (timescale === 0) {
      throw new WireError("expected a timescale of at least 1, got 0");
    }
    return { priority, ordered, maxLatency, timescale };
  });
}

/** `start` undefined is the latest group there is, `end` undefined no end. */
export function encodeSubscribe(id, broadcast, track, wishes) {
  const { priority = 128, ordered = true, maxLatency = Infinity, start, end } = wishes;
  return new Writer()
    .varint(Request.SUBSCRIBE)
    .message((body) =>
      body
        .varint(id)
        .string(broadcast)
        .string(track)
        .byte(priority)
        .byte(ordered ? 1 : 0)
        .milliseconds(maxLatency)
        .varint(start === undefined ? 0 : start + 1)
        .varint(end ?? 0), // the last group plus one, which is the half-open end itself
    )
    .finish();
}

/** `{type: "start", start}`, `{type: "end", end}` or `{type: "drop", start, end, code}`. */
export function decodeResponse(type, body) {
  return decode(body, (reader) => {
    switch (type) {
      case Response.START:
        return { type: "start", start: reader.varint("the first group") };
      case Response.END:
        return { type: "end", end: reader.varint("the end of the track") };
      case Response.DROP: {
        const start = reader.varint("the first dropped group");
        const last = reader.varint("the last dropped group");
        if (last < start) {
          throw new WireError(`expected a last dropped group >= ${start}, got ${last}`);
        }
        return { type: "drop", start, end: last + 1, code: reader.varint("the error code") };
      }
      default:
        throw new WireError(`expected a response of type 0, 1 or 2, got ${type}`);
    }
  });
}

export function encodeFetch(broadcast, track, sequence, priority = 128) {
  return new Writer()
    .varint(Request.FETCH)
    .message((body) => body.string(broadcast).string(track).byte(priority).varint(sequence))
    .finish();
}

export function decodeGroupHeader(body) {
  return decode(body, (reader) => ({
    subscription: reader.varint("the subscribe id"),
    sequence: reader.varint("the group sequence"),
  }));
}

/** A group of one frame, in a datagram; `ticks` is its timestamp in units of the track's timescale. */
export function decodeDatagram(bytes) {
  return decode(bytes, (reader) => ({
    subscription: reader.varint("the subscribe id"),
    sequence: reader.varint("the group sequence"),
    ticks: reader.varint("the timestamp"),
    payload: reader.rest(),
  }));
}

/** The signed number that a frame's timestamp is written as: its distance from the one before. */
export function decodeZigzag(value) {
  return value % 2 ? -(value + 1) / 2 : value / 2;
}
