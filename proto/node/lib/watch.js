// Watches: changes as they happen, each once and in order, across broken connections and readers.

import { ClientClosed, ConnectionLost, DriftError, errors } from "./errors.js";
import { bind } from "./params.js";
import { CallLimit, Pauses, wait } from "./pauses.js";
import { CommitJoiner, commitOf, durationToWire, headerOf, initialOf, internal, seqToWire, someKey, timeToWire } from "./values.js";

// After this many missing heartbeats the connection is considered broken.
const SILENT_BEATS = 3;
// The shortest silence after which it is, and how long a reader may take to open a stream, in milliseconds.
const [SILENCE_MIN, OPEN] = [2_000, 30_000];
const KINDS = {
  opened: "opened",
  rowsDone: "rowsDone",
  progress: "progress",
  caughtUp: "caughtUp",
  fellBehind: "fellBehind",
};

/** The request of a watch. */
export function watchRequest(tables, options, timeZone) {
  const { where = "", params, keys = [], keyPrefix = "", initialRows = false, before = true, after = true } = options;
  const { untilSeq = 0n, heartbeat = 10_000, token, afterSeq, afterTime } = options;
  const bound = bind(where, params);
  const filter = { tables, keys: keys.map(someKey), keyPrefix, where: bound.text, params: bound.params, timeZone };
  const rows = { initialRows, withBefore: before, withAfter: after };
  const request = { ...filter, ...rows, untilSeq: seqToWire(untilSeq), heartbeat: durationToWire(heartbeat) };
  if (token !== undefined) return { ...request, resumeToken: token };
  if (afterSeq !== undefined) return { ...request, afterSeq: seqToWire(afterSeq) };
  return afterTime === undefined ? request : { ...request, afterTime: timeToWire(afterTime) };
}

/** Changes as they happen. Iterate over it, over commits() or over events(); over one of them only. */
export class Watch {
  #session;
  #request;
  #signal;
  #silence;
  #untilSeq;
  #answers;
  #isOpen = false; // the first message of this stream has come
  #wasOpen = false; // the first message of any stream has come
  #start; // the header of the first message
  #early = []; // what came while the watch was opened
  #header; // of the newest message that has one
  #joiner = new CommitJoiner();
  #pauses;
  #pause;
  #isReported = false;
  #rowsPending;
  #delivered = 0n;
  #lastCommit = 0n;
  #ended = false;
  #pending = [];
  #nextToken; // the token after the changes that are pending
  #token;

  constructor(session, request, { heartbeat = 10_000, signal } = {}) {
    this.#session = session;
    this.#request = request;
    this.#signal = signal;
    this.#silence = Math.max(heartbeat * SILENT_BEATS, SILENCE_MIN);
    this.#untilSeq = BigInt(request.untilSeq);
    this.#rowsPending = request.initialRows;
    this.#token = this.#nextToken = request.resumeToken;
  }

  get token() {
    return this.#token;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    while (!this.#pending.length) {
      this.#token = this.#nextToken;
      const event = await this.nextEvent();
      if (!event) return { done: true, value: undefined };
      this.#pending = [...(event.changes ?? [])].reverse();
    }
    return { done: false, value: this.#pending.pop() };
  }

  /** Leaving a loop ends the watch. */
  async return() {
    this.close();
    return { done: true, value: undefined };
  }

  async *commits() {
    for await (const { commit } of this.events()) if (commit) yield commit;
  }

  async *events() {
    try {
      for (let event; (event = await this.nextEvent()); ) {
        this.#token = this.#nextToken;
        yield event;
      }
    } finally {
      this.close();
    }
  }

  close() {
    this.#ended = true;
    this.#answers?.cancel();
    this.#answers = undefined;
  }

  /** Opens the watch now, and returns where it starts. */
  async open() {
    while (!this.#start) {
      const event = await this.#receive();
      if (!event) throw new ClientClosed("the watch has ended");
      this.#early.push(event);
    }
    return this.#start;
  }

  /** The next event; undefined at the end. */
  async nextEvent() {
    if (this.#early.length && !this.#ended) return this.#early.shift();
    return this.#receive();
  }

  async #receive() {
    while (!this.#ended) {
      let message;
      try {
        if (!this.#answers) await this.#open();
        message = await this.#answers.read(this.#isOpen ? this.#silence : OPEN);
        // A reader that shuts down may end its streams without an error.
        if (!message && !this.#isComplete()) throw new ConnectionLost("the reader ended the stream");
      } catch (error) {
        // close() ends a watch that waits, and so does the end of its client.
        if (this.#ended || error instanceof ClientClosed) {
          this.#ended = true;
          return undefined;
        }
        const interrupted = this.#handleBreak(error);
        if (interrupted) return interrupted;
        continue;
      }
      if (!message) break;
      const event = this.#accept(message);
      if (event) return event;
    }
    this.#ended = true;
    return undefined;
  }

  async #open() {
    if (this.#pause) await wait(this.#pause, this.#signal);
    this.#pause = undefined;
    if (this.#ended) throw new ClientClosed("the watch was closed");
    const [reader] = this.#session.readers.round();
    this.#answers = reader.stream("ReaderService/WatchDrift", this.#request, new CallLimit(Infinity, this.#signal));
    this.#isOpen = false;
  }

  #handleBreak(error) {
    const retryable = isRetryable(error);
    if (this.#answers) {
      if (retryable) this.#answers.backend.setAside();
      this.#answers.cancel();
      this.#answers = undefined;
    }
    this.#joiner = new CommitJoiner();
    // Before the first opening it is a mistake of the user; after it, a certificate that is being renewed.
    const isMistake = !this.#wasOpen && error instanceof errors.TLS_FAILED;
    if (isMistake || !retryable) {
      this.#ended = true;
      throw error;
    }
    this.#pauses ??= new Pauses(Infinity);
    const othersLeft = error instanceof errors.UNREACHABLE && !this.#session.readers.all.every(({ isAside }) => isAside);
    this.#pause = othersLeft ? 0 : this.#pauses.next(error.retryAfter);
    const reported = this.#isReported;
    this.#isReported = true;
    return reported ? undefined : { kind: "interrupted", error };
  }

  #accept(message) {
    const { event: kind } = message;
    const event = this.#event(kind, message);
    if (kind === "commit" && message.commit.more && !event) return undefined;
    if (kind !== "opened") {
      this.#pauses = undefined;
      this.#isReported = false;
    }
    if (!message.resumeToken.length) throw this.#violation("sent an event without a resume token");
    const { afterSeq, afterTime, ...filter } = this.#request;
    this.#request = { ...filter, resumeToken: message.resumeToken };
    this.#nextToken = message.resumeToken;
    return event;
  }

  #event(kind, message) {
    if (kind === "commit") {
      const whole = this.#joiner.join(message.commit);
      return whole && this.#commit(commitOf(whole));
    }
    if (kind === "rows") {
      // A batch without rows is a heartbeat.
      const { table, rows } = message.rows;
      return rows.length ? { kind, changes: rows.map((row) => initialOf(table, row)) } : undefined;
    }
    // An event of an unknown kind, from a newer reader.
    if (!(kind in KINDS)) return undefined;
    const header = (this.#header = headerOf(message[kind]));
    this.#session.saw(header);
    if (kind === "opened") return this.#opened(header);
    if (kind === "rowsDone") this.#rowsPending = false;
    if (kind === "progress") {
      this.#reach(header.readSeq);
      this.#ended = this.#isComplete();
    }
    return { kind, header };
  }

  #opened(header) {
    this.#answers.backend.setHealthy();
    this.#start ??= header;
    const kind = this.#wasOpen ? "resumed" : "opened";
    this.#isOpen = this.#wasOpen = true;
    this.#isReported = false;
    if (!this.#rowsPending) this.#reach(header.readSeq);
    return { kind, header };
  }

  #commit(commit) {
    if (commit.seq <= this.#lastCommit) throw this.#violation("sent a commit twice or out of order");
    this.#lastCommit = commit.seq;
    this.#rowsPending = false;
    this.#reach(commit.seq);
    // Whoever reads after a change must not get the state before it from another reader.
    if (this.#header) this.#session.saw({ ...this.#header, readSeq: commit.seq });
    return { kind: "commit", commit, changes: commit.changes };
  }

  #reach(seq) {
    if (seq > this.#delivered) this.#delivered = seq;
  }

  #isComplete() {
    return this.#untilSeq > 0n && this.#delivered >= this.#untilSeq;
  }

  #violation(what) {
    const address = this.#answers?.backend.address;
    this.close();
    return internal(`the reader at ${address} ${what}`);
  }
}

const isRetryable = (error) => error instanceof DriftError && (error.code === "UNAVAILABLE" || error instanceof errors.OVERLOADED);
