// How long a call waits: for an answer, and between retries.

import { setTimeout as sleep } from "node:timers/promises";
import { errors } from "./errors.js";

const [SHORTEST, LONGEST] = [10, 1_000];
// A longer time limit is none: 12 days, in seconds.
const LIMIT_MAX = 1e6;

/**
 * How long a call waits: up to a deadline for its first answer, retries included, and then as long for each further one. Also the signal
 * that ends it. `timeout` is in seconds; Infinity for no limit.
 */
export class CallLimit {
  #deadline;

  constructor(timeout, signal) {
    /** The time for each further answer, in milliseconds; undefined for no limit. */
    this.each = checkedTimeout(timeout) > LIMIT_MAX ? undefined : timeout * 1000;
    this.signal = signal;
    this.#deadline = this.each === undefined ? undefined : Date.now() + this.each;
  }

  /** The deadline as gRPC takes it; undefined for no limit. */
  get deadline() {
    return this.#deadline;
  }

  /** The milliseconds up to the deadline; undefined for no limit. */
  get remaining() {
    return this.#deadline === undefined ? undefined : Math.max(this.#deadline - Date.now(), 0);
  }

  get isOver() {
    return this.remaining === 0;
  }

  /** Pauses that end with the deadline. */
  pauses(retryTimeout) {
    return new Pauses(Math.min(retryTimeout, this.remaining ?? Infinity));
  }
}

/** A time limit in seconds. ARGUMENT_INVALID if no call could keep it. */
export function checkedTimeout(timeout) {
  if (typeof timeout !== "number" || !(timeout > 0)) throw new errors.ARGUMENT_INVALID(`timeout must be a number of seconds above 0; got ${timeout}`);
  return timeout;
}

/**
 * The pauses of one call in milliseconds, up to its retry timeout; Infinity for no limit. They grow exponentially with jitter, so that
 * clients that failed together do not retry together.
 */
export class Pauses {
  #end;
  #next = SHORTEST;

  constructor(timeout) {
    this.#end = Date.now() + timeout;
  }

  /** The next pause, at least as long as the daemon asked for; undefined if it would exceed the timeout. */
  next(asked = 0) {
    const pause = Math.max(this.#next * (1 + Math.random()), asked);
    this.#next = Math.min(this.#next * 2, LONGEST);
    return this.allows(pause) ? pause : undefined;
  }

  /** Whether a pause ends within the timeout. */
  allows(pause) {
    return Date.now() + pause <= this.#end;
  }
}

/** Waits; rejects with the reason of the signal if that is aborted. */
export async function wait(millis, signal) {
  try {
    await sleep(millis, undefined, { signal });
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  }
}
