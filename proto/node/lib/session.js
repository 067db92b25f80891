// The rules that all calls follow: where they go, what state reads include, and when a call is made again.
//
// They are those of the Rust client: a write has a request id, so it can be sent again without being done twice; a read waits for
// this client's own writes and, with several readers, for the newest state that it has seen.

import { randomUUID } from "node:crypto";
import { checkedToken } from "./address.js";
import { ClientClosed, ConnectionLost, DriftError, errors } from "./errors.js";
import { CallLimit, wait } from "./pauses.js";
import { Backend, Lifetime, Pool } from "./pool.js";
import { headerOf, tokenOf } from "./values.js";

const isA = (error, ...reasons) => reasons.some((reason) => error instanceof errors[reason]);

/** A database: its writers, its readers, and what this client knows of its history. */
export class Session {
  #secrets;
  #lifetime = new Lifetime();
  #written;
  #seen;

  constructor(address) {
    this.address = address;
    this.#secrets = { token: address.token };
    const backend = (what, each) => new Backend(what, each, address, this.#secrets, this.#lifetime);
    const pool = (what, addresses) => new Pool(what, addresses.map((each) => backend(what, each)));
    this.writers = pool("writer", address.writers);
    this.readers = pool("reader", address.readers);
  }

  setToken(token) {
    this.#secrets.token = token ? checkedToken(token) : "";
  }

  /** Closes all connections, and ends what uses them. */
  close() {
    this.#lifetime.end();
    for (const backend of [...this.writers.all, ...this.readers.all]) backend.close();
  }

  /** How long a call waits that begins now, and what ends it. */
  limit({ timeout = this.address.timeout, signal } = {}) {
    return new CallLimit(timeout, signal);
  }

  // What reads include.

  /** The state of an answer, which is noted. */
  readAt(message) {
    const header = headerOf(message);
    this.saw(header);
    return header;
  }

  /** Makes reads include a commit, which may have been made elsewhere. */
  include({ seq, epoch, incarnation }) {
    // After a restore, seqs start again: a token with another epoch is always newer.
    if (!this.#written || this.#written.epoch !== epoch || this.#written.seq < seq) this.#written = { seq, epoch, incarnation };
  }

  forget() {
    this.#written = this.#seen = undefined;
  }

  /** Notes a state that was read, so that no other reader returns an older one. A single reader never goes back. */
  saw({ readSeq: seq, epoch, incarnation }) {
    if (this.readers.all.length < 2) return;
    if (!this.#seen || this.#seen.epoch !== epoch || this.#seen.seq < seq) this.#seen = { seq, epoch, incarnation };
  }

  /** How fresh a read must be, also after an answer that it continues; undefined if any state will do. */
  freshness(atLeast) {
    let state;
    if (!this.address.stale) {
      const [written, seen] = [this.#written, this.#seen];
      const isSeenNewer = written && seen && written.epoch === seen.epoch && seen.seq > written.seq;
      state = isSeenNewer || !written ? seen : written;
    }
    if (atLeast && this.readers.all.length > 1 && (!state || state.seq <= atLeast.readSeq)) {
      state = { seq: atLeast.readSeq, epoch: atLeast.epoch, incarnation: atLeast.incarnation };
    }
    return state && { minSeq: `${state.seq}`, epoch: `${state.epoch}`, incarnation: `${state.incarnation}` };
  }

  #historyChanged() {
    this.#seen = undefined;
    // Keep the last write, unless its incarnation proves that it is lost: else only the writer can tell.
    if (this.#written?.incarnation) this.#written = undefined;
  }

  // Reads.

  /** Asks the readers in turn until one answers that is reachable and fresh enough, or the time is over. */
  async read(call, limit) {
    let failed;
    // A broken connection may be an old one, to a reader that was restarted since: try again once.
    for (let round = 0; round < 2; round++) {
      // What the second round finds counts more, unless a reader was only behind.
      if (failed && !isA(failed, "REPLICA_BEHIND")) failed = undefined;
      let broken = false;
      for (const backend of this.readers.round()) {
        try {
          const answer = await call(backend);
          backend.setHealthy();
          return answer;
        } catch (error) {
          if (isA(error, "EPOCH_CHANGED")) this.#historyChanged();
          const isUnavailable = error instanceof DriftError && error.code === "UNAVAILABLE";
          if (isUnavailable || limit.isOver) backend.setAside();
          if (!isUnavailable || limit.isOver) throw error;
          broken ||= error instanceof ConnectionLost;
          // That a reader is behind says more than that one cannot be reached.
          if (!failed || isA(error, "REPLICA_BEHIND")) failed = error;
        }
      }
      if (!broken) break;
    }
    throw failed;
  }

  /** The first message of an answer of many, and the rest. If a reader fails before it, the next one is asked. */
  async open(name, request, limit) {
    const opened = await this.read(async (backend) => {
      const answers = backend.stream(name, request, limit);
      return { first: await answers.read(), answers };
    }, limit);
    if (opened.first?.header) this.saw(headerOf(opened.first.header));
    return opened;
  }

  // Writes.

  /** The options of a commit, with a request id in any case. */
  options({ reason = "", actor = "", requestId = randomUUID() } = {}) {
    return { requestId, reason, actor };
  }

  /** The token of an answer, which reads from now on include. */
  committed(message) {
    const token = tokenOf(message);
    this.include(token);
    return token;
  }

  /** Sends a write until it succeeds, is refused, or its time or the retry timeout is over. `isSafe`: whether it has a request id that
   * counts, so that it can be sent again if its answer is lost. */
  async write(call, limit, isSafe = () => true) {
    const pauses = limit.pauses(this.address.retryTimeout * 1000);
    let unknown;
    for (let tries = 1; ; tries++) {
      const { index, backend } = this.writers.inTurn();
      let failed;
      try {
        return await call(backend);
      } catch (error) {
        failed = error;
      }
      if (failed instanceof ClientClosed) throw unknown ?? failed;
      const writers = this.writers.all.length;
      const roundDone = tries % writers === 0;
      let pause;
      if (isA(failed, "UNREACHABLE", "STANDBY")) {
        // Nothing was done. Try the other writers at once; wait only after all of them.
        this.writers.passOver(index);
        pause = roundDone ? pauses.next() : 0;
      } else if (isA(failed, "TLS_FAILED")) {
        this.writers.passOver(index);
        pause = roundDone ? undefined : 0;
      } else if (isA(failed, "OVERLOADED")) {
        pause = pauses.next(failed.retryAfter);
      } else if (isLost(failed) && isSafe()) {
        this.writers.passOver(index);
        unknown = failed;
        pause = pauses.next();
      } else {
        // Also the result of earlier tries: the request id makes them one write.
        throw failed;
      }
      // That a try may have been executed matters more than the last error.
      if (pause === undefined || !pauses.allows(pause)) throw unknown ?? failed;
      await wait(pause, limit.signal);
    }
  }
}

/** Whether a write may have been done, or would be done by another try. */
function isLost(error) {
  // A full disk stays full for longer than a call lasts, and a clock is not set right by itself.
  if (!(error instanceof DriftError) || isA(error, "DISK_FULL", "CLOCK_JUMPED")) return false;
  return isA(error, "OUTCOME_UNKNOWN") || ["UNAVAILABLE", "UNKNOWN"].includes(error.code);
}
