// One atomic commit: its operations and conditions, collected and then sent together.

import { bind } from "./params.js";
import { asOfToWire, documentToWire, keyToWire, seqToWire } from "./values.js";

/** Collects operations on rows, which happen together or not at all, and conditions that must hold before. */
export class Operations {
  #operations = [];
  #conditions = [];

  insert(table, document) {
    this.#operations.push({ table, insert: documentToWire(document) });
  }

  put(table, document) {
    this.#operations.push({ table, put: documentToWire(document) });
  }

  patch(table, key, patch) {
    this.#operations.push({ table, key: keyToWire(key), patch: documentToWire(patch) });
  }

  delete(table, key) {
    this.#operations.push({ table, key: keyToWire(key), softDelete: {} });
  }

  revert(table, key, to) {
    this.#operations.push({ table, key: keyToWire(key), revert: { to: asOfToWire(to) } });
  }

  ifSeq(table, key, seq) {
    this.#conditions.push({ table, key: keyToWire(key), seqIs: seqToWire(seq) });
  }

  ifExists(table, key, exists = true) {
    this.#conditions.push({ table, key: keyToWire(key), exists });
  }

  ifUnchanged(table, key, since) {
    this.#conditions.push({ table, key: keyToWire(key), unchangedSince: seqToWire(since) });
  }

  ifNoChange(table, where, since, params) {
    const { text, params: values } = bind(where, params);
    this.#conditions.push({ table, where: text, params: values, unchangedSince: seqToWire(since) });
  }

  /** Sends the commit. */
  async send(session, { signal, timeout, ...options } = {}) {
    const limit = session.limit({ signal, timeout });
    const request = { operations: this.#operations, preconditions: this.#conditions, options: session.options(options) };
    const answer = await session.write((writer) => writer.unary("WriterService/Apply", request, limit, true), limit);
    const token = session.committed(answer.token);
    return { seq: token.seq, token, replayed: answer.replayed, keys: answer.madeKeys.map(({ key }) => key) };
  }
}
