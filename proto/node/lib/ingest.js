// Loads: many commits over one stream, with several batches on their way at a time.

import { DriftError, errors } from "./errors.js";
import { Pauses, wait } from "./pauses.js";
import { documentToWire, tokenOf } from "./values.js";

// The batches on their way, and the most operations of one.
const [WINDOW, BATCH_MAX] = [8, 10_000];
const RETRIED = ["UNAVAILABLE", "UNKNOWN", "RESOURCE_EXHAUSTED"];

/** Batches of operations that write rows, which can be an iterable or an asynchronous one. */
export async function* batchesOf(table, rows, action, size) {
  if (action !== "insert" && action !== "put") throw new errors.ARGUMENT_INVALID(`an ingest inserts or puts rows; got ${action}`);
  if (!Number.isInteger(size) || size < 1 || size > BATCH_MAX) throw new errors.ARGUMENT_INVALID(`a batch has 1 to ${BATCH_MAX} rows; got ${size}`);
  let batch = [];
  for await (const row of rows) {
    batch.push({ table, [action]: documentToWire(row) });
    if (batch.length === size) {
      yield batch;
      batch = [];
    }
  }
  if (batch.length) yield batch;
}

/** A stream of batches. With a producer it resumes by itself if a connection breaks, and a batch is never applied twice. */
export class Ingest {
  #session;
  #batches;
  #options;
  #waiting = []; // sent, or to be sent again, and not acknowledged
  #next = 1;
  #operations = 0;
  #skipped = 0;
  #token;
  #refused = new Map();
  #keys = [];

  constructor(session, batches, options) {
    this.#session = session;
    this.#batches = batches;
    this.#options = options;
  }

  /** Sends everything, and waits until it is on disk. The source of the rows is closed in any case. */
  async run() {
    try {
      return await this.#load();
    } finally {
      await this.#batches.return();
    }
  }

  async #load() {
    const { producer, signal, timeout: each } = this.#options;
    const timeout = this.#session.address.retryTimeout * 1000;
    let pauses = new Pauses(timeout);
    for (let done = false; !done; ) {
      const { index, backend } = this.#session.writers.inTurn();
      const before = this.#next - this.#waiting.length;
      const answers = backend.stream("WriterService/Ingest", undefined, this.#session.limit({ timeout: each, signal }), true);
      try {
        await this.#sendAll(answers);
        done = true;
      } catch (error) {
        if (!(error instanceof DriftError) || !RETRIED.includes(error.code)) throw error;
        if (!producer && error instanceof errors.TLS_FAILED) throw error;
        // If no writer was there, nothing was done.
        const isUnsure = !(error instanceof errors.UNREACHABLE || error instanceof errors.STANDBY);
        if (!producer && this.#waiting.length && isUnsure) {
          throw new errors.OUTCOME_UNKNOWN(`the load was cut off, and cannot be resumed without a producer: ${error.message}`);
        }
        if (this.#next - this.#waiting.length > before) pauses = new Pauses(timeout);
        const pause = pauses.next(error.retryAfter);
        if (pause === undefined) throw error;
        this.#session.writers.passOver(index);
        await wait(pause, signal);
      } finally {
        answers.cancel();
      }
    }
    if (this.#token) this.#session.include(this.#token);
    const refused = [...this.#refused.values()].sort((one, other) => one.position - other.position);
    return { operations: this.#operations, token: this.#token, refused, keys: this.#keys, skipped: this.#skipped };
  }

  async #sendAll(answers) {
    const { producer } = this.#options;
    if (producer) {
      answers.send({ producerId: producer });
      await this.#acknowledge(answers);
    }
    for (const waiting of this.#waiting) this.#send(answers, waiting);
    for (let batch; (batch = await this.#nextBatch()); ) {
      this.#waiting.push({ number: this.#next - 1, batch });
      this.#send(answers, this.#waiting.at(-1));
      while (this.#waiting.length >= WINDOW) await this.#acknowledge(answers);
    }
    while (this.#waiting.length) await this.#acknowledge(answers);
    answers.end();
  }

  async #nextBatch() {
    const { done, value } = await this.#batches.next();
    if (done) return undefined;
    this.#next++;
    this.#operations += value.length;
    return value;
  }

  #send(answers, { number, batch }) {
    answers.send({ batchId: number, operations: batch, atomic: this.#options.atomic });
  }

  /** Waits for what is on disk. A producer that was used before has batches that are passed over: they are on disk already. */
  async #acknowledge(answers) {
    const answer = await answers.read();
    if (!answer) throw new errors.OUTCOME_UNKNOWN("the writer ended the stream before it acknowledged every batch");
    const durable = Number(answer.durableBatchId);
    while (this.#waiting.length && this.#waiting[0].number <= durable) this.#waiting.shift();
    for (let batch; this.#next <= durable && (batch = await this.#nextBatch()); ) this.#skipped += batch.length;
    if (answer.token) this.#token = tokenOf(answer.token);
    for (const { batchId, index, code, reason, message } of answer.errors) {
      const position = (Number(batchId) - 1) * this.#options.batch + index;
      this.#refused.set(`${batchId}/${index}`, { position, code, reason, message });
    }
    this.#keys.push(...answer.madeKeys.map(({ key }) => key));
  }
}
