// Answers of many messages as asynchronous iterators.

import { internal, headerOf, rowOf, commitOf, diffOf, resultOf, tableOf } from "./values.js";
import { Pauses, wait } from "./pauses.js";

// How often rows are requested again without receiving a message.
const TRIES = 5;

/** The results of a read, all of one point in time. Nothing is sent before the first is asked for; none is kept. */
export class Results {
  notes = [];
  truncated = false;
  #convert;
  #header;
  #ready = [];

  constructor(session, name, request, convert, options) {
    // A wrong limit is refused here.
    session.limit(options);
    Object.defineProperties(this, {
      session: { value: session },
      name: { value: name },
      request: { value: request, writable: true },
      options: { value: options },
      answers: { writable: true, value: undefined },
      complete: { writable: true, value: false },
    });
    this.#convert = convert;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    while (!this.#ready.length) {
      if (this.complete) return { done: true, value: undefined };
      await this.receive();
    }
    return { done: false, value: this.#ready.pop() };
  }

  /** Leaving a loop early ends the read. */
  async return() {
    this.close();
    return { done: true, value: undefined };
  }

  async header() {
    while (!this.#header && !this.complete) await this.receive();
    if (!this.#header) throw internal("the answer has no header");
    return this.#header;
  }

  async all() {
    const found = [];
    for await (const item of this) found.push(item);
    return found;
  }

  close() {
    this.complete = true;
    this.#ready = [];
    this.answers?.cancel();
  }

  async receive() {
    const message = await this.nextMessage();
    if (message) this.take(message);
    else this.complete = true;
  }

  async nextMessage() {
    if (this.answers) return this.answers.read();
    const request = { ...this.request, freshness: this.session.freshness(this.#header) };
    const { first, answers } = await this.session.open(this.name, request, this.session.limit(this.options));
    this.answers = answers;
    return first;
  }

  take(message) {
    if (!this.#header && message.header) this.#header = headerOf(message.header);
    if (message.notes?.length) this.notes = message.notes;
    this.truncated ||= message.truncated ?? false;
    // The last first, so that taking one is cheap.
    this.#ready = [...this.#convert(message)].reverse();
  }
}

/** The rows of a select, in order. If a connection breaks, they continue after the last one at the next reader. */
export class Rows extends Results {
  #count = 0n;

  constructor(session, request, options) {
    super(session, "ReaderService/Select", request, ({ rows }) => rows.map(rowOf), options);
  }

  /** How many rows match; the remaining rows are read to the end. */
  async count() {
    while (!this.complete) await this.receive();
    return this.#count;
  }

  async receive() {
    const pauses = new Pauses(Infinity);
    let message;
    for (let tries = 0; ; tries++) {
      try {
        message = await this.nextMessage();
        break;
      } catch (error) {
        // Without an answer, the session has tried all readers already.
        if (error.code !== "UNAVAILABLE" || !this.answers || tries === TRIES) throw error;
        this.answers.backend.setAside();
        this.answers = undefined;
        await wait(pauses.next(), this.options?.signal);
      }
    }
    if (!message) {
      this.complete = true;
      return;
    }
    this.take(message);
    // Only the last message has no token.
    if (message.resumeToken.length) this.request = { ...this.request, resumeToken: message.resumeToken };
    else {
      this.complete = true;
      this.#count = BigInt(message.count);
    }
  }
}

/** The results of a statement, by its kind. */
export class Query extends Results {
  columns = [];

  constructor(session, request, options) {
    super(session, "ReaderService/Execute", request, (message) => this.#resultsOf(message), options);
  }

  #resultsOf(message) {
    const { result: kind } = message;
    if (kind === "rows") return message.rows.rows.map(rowOf);
    if (kind === "commit") return [commitOf(message.commit)];
    if (kind === "diff") return [diffOf(message.diff)];
    if (kind === "table") return [tableOf(message.table)];
    if (kind === "count") return [BigInt(message.count)];
    if (kind === "message") return [message.message];
    if (kind !== "results") return [];
    if (message.results.columns.length) this.columns = message.results.columns;
    return message.results.results.map(resultOf);
  }
}
