// The pauses between retries: exponential with jitter, so that clients that failed together do not retry together.

import { setTimeout as sleep } from "node:timers/promises";

const [SHORTEST, LONGEST] = [10, 1_000];

/** The pauses of one call in milliseconds, up to its retry timeout; Infinity for no limit. */
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
