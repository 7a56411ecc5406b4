/**
 * A moq-lite subscriber over WebTransport, in one session.
 *
 *     const session = await Session.open("https://localhost:4443/", { fingerprint });
 *     const subscription = await session.subscribe("logs", "syslog", { start: 0 });
 *     for await (const group of subscription) {
 *       for await (const frame of group) { ... }   // frame.payload, frame.time in seconds
 *     }
 *
 * What is not read is not sent: at most `MAX_STREAMS` groups are under way, further ones wait with
 * the publisher. A subscription that is left unread therefore holds up the others of its session;
 * close it, and subscribe again from the next group.
 */

import { ByteReader, Places, Queue, ignore } from "./streams.js";
import * as wire from "./wire.js";

const MAX_STREAMS = 64;
const MAX_FRAME_BYTES = 16 * 1024 * 1024;
const CANCELLED = 1;

/** A connection that could not be made, or was refused. */
export class ConnectError extends Error {
  name = "ConnectError";
}

/** A request that the peer answered with an error; `code` says which. */
export class RequestError extends Error {
  name = "RequestError";

  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** One subscription: an async iterator of groups as they arrive, which is nearly their order. */
export class Subscription {
  #session;
  #request;
  #groups = new Queue();
  #reading = new Set();
  #accounted = 0;
  #wantedEnd;

  constructor(session, request, info, wishes) {
    this.#session = session;
    this.#request = request;
    this.#wantedEnd = wishes.end ?? Infinity;
    /** What the publisher fixed about the track. */
    this.info = info;
    /** The first group that comes. */
    this.start = undefined;
    /** The first sequence that will never exist, once the publisher has finished the track. */
    this.end = undefined;
    /** Called with `{start, end, code}` for groups that will not come. */
    this.ondrop = wishes.ondrop ?? ignore;
  }

  /** Wait until the publisher names the first group, and follow what it says after that. */
  async accept() {
    await this.#readResponse();
    this.#readResponses();
  }

  async #readResponses() {
    try {
      while (!(await this.#request.reader.atEnd())) {
        await this.#readResponse();
      }
    } catch (error) {
      this.#finish(requestError(error, "the subscription ended"));
    }
  }

  async #readResponse() {
    const type = await this.#request.reader.varint();
    const response = wire.decodeResponse(type, await this.#request.reader.message());
    if (response.type === "start") {
      this.start = response.start;
    } else if (response.type === "end") {
      this.end = response.end;
      this.start ??= response.end; // nothing comes
    } else {
      this.#accounted += response.end - response.start;
      this.ondrop(response);
    }
    this.#endWhenComplete();
  }

  /** Groups may still be on their way when the publisher says where the track ends. */
  #endWhenComplete() {
    const end = Math.min(this.end ?? Infinity, this.#wantedEnd);
    if (this.start !== undefined && this.start + this.#accounted >= end) {
      this.#finish();
    }
  }

  #finish(error) {
    this.#session.forget(this);
    this.#request.close();
    this.#groups.end(error);
  }

  [Symbol.asyncIterator]() {
    return this.#groups[Symbol.asyncIterator]();
  }

  /** For the session: a group's stream has begun. */
  addStream(sequence, reader, done) {
    const group = new Group(sequence, readFrames(reader, this.info.timescale), () => {
      reader.cancel(CANCELLED);
      this.#reading.delete(group);
      done();
    });
    this.#reading.add(group);
    this.#add(group);
  }

  /** For the session: a group has arrived as a datagram. It is lost where nobody reads. */
  addDatagram(sequence, payload, ticks) {
    if (this.#groups.length < MAX_STREAMS) {
      const frame = { payload, time: ticks / this.info.timescale };
      this.#add(new Group(sequence, [frame], ignore));
    }
  }

  #add(group) {
    if (!this.#groups.push(group)) {
      group.cancel();
    }
    this.#accounted += 1;
    this.#endWhenComplete();
  }

  /** Unsubscribe. Groups that are not read to their end are cancelled. */
  close(error) {
    this.#finish(error);
    this.#groups.drain();
    for (const group of [...this.#reading]) {
      group.cancel();
    }
  }
}

/** One group: an async iterator of `{payload, time}`, read once. */
export class Group {
  #frames;
  #end;

  /** For subscriptions. `end` is called once, when no more of it is wanted. */
  constructor(sequence, frames, end) {
    this.sequence = sequence;
    this.#frames = frames;
    this.#end = end;
  }

  /** Frames as they arrive. Throws where the group is cut short. Leaving the loop cancels it. */
  async *[Symbol.asyncIterator]() {
    try {
      yield* this.#frames;
      if (!this.#end) {
        throw new RequestError(`group ${this.sequence} was cancelled`);
      }
    } finally {
      this.cancel();
    }
  }

  /** Want no more of it. */
  cancel() {
    this.#end?.();
    this.#end = undefined;
  }
}

async function* readFrames(reader, timescale) {
  let ticks = 0;
  while (!(await reader.atEnd())) {
    ticks += wire.decodeZigzag(await reader.varint());
    if (!Number.isSafeInteger(ticks) || ticks < 0) {
      throw new wire.WireError(`expected a timestamp from 0 to 2^53 - 1, got about ${ticks}`);
    }
    const size = await reader.varint();
    if (size > MAX_FRAME_BYTES) {
      throw new wire.WireError(`expected a frame of at most ${MAX_FRAME_BYTES} bytes, got ${size}`);
    }
    yield { payload: await reader.bytes(size), time: ticks / timescale };
  }
}

export class Session {
  #transport;
  #subscriptions = new Map();
  #nextId = 0;
  #places = new Places(MAX_STREAMS);

  /**
   * Connect to the server at `url` (https:).
   *
   * `fingerprint` is the SHA-256 of the only certificate to accept, in hexadecimal; without it the
   * certificate must be one the browser trusts. Throws ConnectError.
   */
  static async open(url, { fingerprint } = {}) {
    if (typeof WebTransport === "undefined") {
      throw new ConnectError("this browser has no WebTransport here");
    }
    const options = { protocols: [wire.PROTOCOL], congestionControl: "low-latency" };
    if (fingerprint) {
      options.serverCertificateHashes = [{ algorithm: "sha-256", value: fromHex(fingerprint) }];
    }
    const transport = new WebTransport(url, options);
    transport.closed.catch(ignore);
    try {
      await transport.ready;
    } catch (error) {
      throw new ConnectError(`no WebTransport session with ${url}: ${error.message}`);
    }
    if (transport.protocol !== undefined && transport.protocol !== wire.PROTOCOL) {
      transport.close();
      throw new ConnectError(`the server does not speak ${wire.PROTOCOL}`);
    }
    return new Session(transport);
  }

  constructor(transport) {
    this.#transport = transport;
    /** Resolves with `{closeCode, reason}` when the session is over, however it ended. */
    this.closed = transport.closed.catch((error) => ({ closeCode: 0, reason: error.message }));
    this.closed.then(({ reason }) => this.#endSubscriptions(reason));
    this.#sendSetup().catch(ignore); // what is wrong with the transport, `closed` tells
    this.#acceptStreams().catch(ignore);
    this.#acceptDatagrams().catch(ignore);
    // This endpoint publishes nothing, and lets requests of the peer wait: some take a refusal
    // for the end of the session.
  }

  close() {
    try {
      this.#transport.close();
    } catch {
      // It was closed already.
    }
  }

  /** The broadcasts whose path begins with `prefix`, as they come and go: `{path, active}`. */
  async *announced(prefix = "") {
    const request = await this.#request(wire.encodeAnnounceRequest(prefix));
    try {
      wire.decodeAnnounceOk(await request.reader.message());
      while (!(await request.reader.atEnd())) {
        const { suffix, active } = wire.decodeAnnounce(await request.reader.message());
        yield { path: prefix + suffix, active };
      }
    } catch (error) {
      throw requestError(error, "announcements");
    } finally {
      request.close();
    }
  }

  /** What the publisher fixed about a track: `{priority, ordered, maxLatency, timescale}`. */
  async trackInfo(broadcast, track) {
    const request = await this.#request(wire.encodeTrackRequest(broadcast, track));
    try {
      return wire.decodeTrackInfo(await request.reader.message());
    } catch (error) {
      throw requestError(error, `track ${track} of ${broadcast}`);
    } finally {
      request.close();
    }
  }

  /**
   * Follow a track, from the group `start` (or, without one, from the latest) up to `end`, which is
   * not included. `maxLatency` is how many seconds a group may lag behind the latest one before it
   * is not worth sending; history that was asked for is exempt. `ondrop` is called with
   * `{start, end, code}` for groups that will not come. Throws RequestError.
   */
  async subscribe(broadcast, track, wishes = {}) {
    const info = await this.trackInfo(broadcast, track);
    const id = this.#nextId;
    this.#nextId += 1;
    const request = await this.#request(wire.encodeSubscribe(id, broadcast, track, wishes));
    const subscription = new Subscription(this, request, info, wishes);
    this.#subscriptions.set(id, subscription);
    try {
      await subscription.accept();
    } catch (error) {
      subscription.close();
      throw requestError(error, `subscription to ${track} of ${broadcast}`);
    }
    return subscription;
  }

  /** The frames of one group. Throws RequestError where the publisher does not have it. */
  async *fetch(broadcast, track, sequence) {
    const { timescale } = await this.trackInfo(broadcast, track);
    const request = await this.#request(wire.encodeFetch(broadcast, track, sequence));
    try {
      yield* readFrames(request.reader, timescale);
    } catch (error) {
      throw requestError(error, `group ${sequence} of ${track}`);
    } finally {
      request.close();
    }
  }

  /** For subscriptions: this one is over. */
  forget(subscription) {
    for (const [id, known] of this.#subscriptions) {
      if (known === subscription) {
        this.#subscriptions.delete(id);
      }
    }
  }

  async #request(bytes) {
    try {
      const { readable, writable } = await this.#transport.createBidirectionalStream();
      const writer = writable.getWriter();
      writer.closed.catch(ignore);
      await writer.write(bytes);
      return new OpenRequest(new ByteReader(readable), writer);
    } catch (error) {
      throw requestError(error, "the request");
    }
  }

  async #sendSetup() {
    const stream = await this.#transport.createUnidirectionalStream();
    const writer = stream.getWriter();
    await writer.write(wire.encodeSetup());
    await writer.close();
  }

  async #acceptStreams() {
    const streams = this.#transport.incomingUnidirectionalStreams.getReader();
    for (;;) {
      await this.#places.take();
      const { value, done } = await streams.read();
      if (done) {
        return;
      }
      this.#readStream(new ByteReader(value));
    }
  }

  /** Hand a stream to its subscription; its place is free again when the group has been read. */
  async #readStream(reader) {
    const done = () => this.#places.give();
    try {
      const type = await reader.varint();
      if (type === wire.UniStream.GROUP) {
        const { subscription, sequence } = wire.decodeGroupHeader(await reader.message());
        const subscriber = this.#subscriptions.get(subscription);
        if (subscriber) {
          subscriber.addStream(sequence, reader, done);
          return;
        }
      } else if (type === wire.UniStream.SETUP) {
        await reader.message(); // nothing in it matters to who only subscribes
      }
    } catch {
      // It was reset before it said what it is, or is malformed: nothing else is wrong.
    }
    reader.cancel(CANCELLED);
    done();
  }

  async #acceptDatagrams() {
    const datagrams = this.#transport.datagrams.readable.getReader();
    for (;;) {
      const { value, done } = await datagrams.read();
      if (done) {
        return;
      }
      try {
        const { subscription, sequence, ticks, payload } = wire.decodeDatagram(value);
        this.#subscriptions.get(subscription)?.addDatagram(sequence, payload, ticks);
      } catch {
        // It is malformed, and may as well have been lost.
      }
    }
  }

  #endSubscriptions(reason) {
    for (const subscription of [...this.#subscriptions.values()]) {
      subscription.close(new ConnectError(`the session has ended: ${reason || "no reason given"}`));
    }
  }
}

/** A bidirectional stream with a request on it. */
class OpenRequest {
  #writer;

  constructor(reader, writer) {
    this.reader = reader;
    this.#writer = writer;
  }

  /** Nothing more to say, nothing more to hear. */
  close() {
    this.#writer.close().catch(ignore);
    this.reader.cancel();
  }
}

function requestError(error, what) {
  const code = error.streamErrorCode ?? undefined;
  const detail = code === undefined ? error.message : `refused with code 0x${code.toString(16)}`;
  return new RequestError(`${what}: ${detail}`, code);
}

function fromHex(text) {
  const digits = text.trim().replaceAll(":", "");
  if (!/^([0-9a-f]{2}){32}$/i.test(digits)) {
    throw new ConnectError(`expected a SHA-256 fingerprint in hexadecimal, got ${text.slice(0, 80)}`);
  }
  return Uint8Array.from(digits.match(/../g), (pair) => Number.parseInt(pair, 16));
}
