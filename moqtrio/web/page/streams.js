/** What sessions need of the browser's streams: exact reads, bounded queues, a count of places. */

import { WireError, decodeVarint, varintSize } from "./wire.js";

const LARGEST_MESSAGE = 64 * 1024;

/** Reads exactly as many bytes as asked for, however they are cut. */
export class ByteReader {
  #reader;
  #chunk = new Uint8Array(0);
  #offset = 0;

  constructor(readable) {
    this.#reader = readable.getReader();
  }

  /** Whether nothing is left. Waits for the next byte or the end. */
  async atEnd() {
    while (this.#offset === this.#chunk.length) {
      const { value, done } = await this.#reader.read();
      if (done) {
        return true;
      }
      this.#chunk = value;
      this.#offset = 0;
    }
    return false;
  }

  /** The next `size` bytes, as an array of their own. Allocates no more than has arrived, doubled. */
  async bytes(size) {
    let bytes = new Uint8Array(Math.min(size, this.#chunk.length - this.#offset));
    let filled = 0;
    while (filled < size) {
      if (await this.atEnd()) {
        throw new WireError(`expected ${size - filled} more bytes, got the end of the stream`);
      }
      const taken = Math.min(size - filled, this.#chunk.length - this.#offset);
      if (filled + taken > bytes.length) {
        const larger = new Uint8Array(Math.min(size, 2 * (filled + taken)));
        larger.set(bytes.subarray(0, filled));
        bytes = larger;
      }
      bytes.set(this.#chunk.subarray(this.#offset, this.#offset + taken), filled);
      filled += taken;
      this.#offset += taken;
    }
    return bytes;
  }

  async varint() {
    if (await this.atEnd()) {
      throw new WireError("expected a number, got the end of the stream");
    }
    const size = varintSize(this.#chunk[this.#offset]);
    const end = this.#offset + size;
    let value;
    if (end <= this.#chunk.length) {
      value = decodeVarint(this.#chunk.subarray(this.#offset, end));
      this.#offset = end;
    } else {
      value = decodeVarint(await this.bytes(size));
    }
    if (!Number.isSafeInteger(value)) {
      throw new WireError(`expected a number below 2^53, got about ${value}`);
    }
    return value;
  }

  /** The body of the next message: as many bytes as the length before it says. */
  async message() {
    const size = await this.varint();
    if (size > LARGEST_MESSAGE) {
      throw new WireError(`expected a message of at most ${LARGEST_MESSAGE} bytes, got ${size}`);
    }
    return this.bytes(size);
  }

  /** Ask the peer to send no more. Never throws. */
  cancel(code = 0) {
    this.#reader.cancel(streamError(code)).catch(ignore);
  }
}

/** What a stream is ended with, so that the peer gets `code`. */
function streamError(code) {
  const message = "not wanted any more";
  try {
    return new WebTransportError(message, { source: "stream", streamErrorCode: code });
  } catch {
    // Browsers have an earlier draft's constructor as well.
    return new WebTransportError({ message, streamErrorCode: code });
  }
}

/** For promises that only fail where there is nothing left to do. */
export function ignore() {}

/** A fixed number of places. Taking one waits until one is free. */
export class Places {
  #free;
  #waiting = [];

  constructor(count) {
    this.#free = count;
  }

  async take() {
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    await new Promise((resolve) => this.#waiting.push(resolve));
  }

  give() {
    const next = this.#waiting.shift();
    if (next) {
      next(); // its place is this one
    } else {
      this.#free += 1;
    }
  }
}

/** Items in order, for any number of readers; each item goes to one of them. */
export class Queue {
  #items = [];
  #waiting = [];
  #ended = false;
  #error;

  push(item) {
    if (this.#ended) {
      return false;
    }
    const reader = this.#waiting.shift();
    if (reader) {
      reader.resolve({ value: item, done: false });
    } else {
      this.#items.push(item);
    }
    return true;
  }

  /** No more items; readers get those there are, then `error` if there is one. Once. */
  end(error) {
    if (this.#ended) {
      return;
    }
    this.#ended = true;
    this.#error = error;
    for (const reader of this.#waiting.splice(0)) {
      this.#tellEnd(reader);
    }
  }

  /** How many items nobody has read. */
  get length() {
    return this.#items.length;
  }

  /** Take out what nobody has read. */
  drain() {
    return this.#items.splice(0);
  }

  next() {
    return new Promise((resolve, reject) => {
      if (this.#items.length) {
        resolve({ value: this.#items.shift(), done: false });
      } else if (this.#ended) {
        this.#tellEnd({ resolve, reject });
      } else {
        this.#waiting.push({ resolve, reject });
      }
    });
  }

  [Symbol.asyncIterator]() {
    return { next: () => this.next() };
  }

  #tellEnd({ resolve, reject }) {
    if (this.#error) {
      reject(this.#error);
    } else {
      resolve({ value: undefined, done: true });
    }
  }
}
