// DriftDB from Node: a list of writers. The active one is killed, another takes over, no write is lost or repeated.
//
// Run by run.sh.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { withDaemons } from "./daemons.mjs";
import { document } from "./model.mjs";
import { reasonOf } from "./raw_watch.mjs";
import { call, plain, ReaderService, WriterService } from "./stubs.mjs";

const WRITES = 120;

// A client's list of writers. A call goes to the one that answered last, and to the next one if that fails.
class Writers {
  current = 0;
  reasons = new Set();
  #clients = new Map();

  constructor(daemons) {
    this.all = daemons;
  }

  client() {
    const { address } = this.all[this.current];
    if (!this.#clients.has(address)) this.#clients.set(address, new WriterService(address, plain));
    return this.#clients.get(address);
  }

  // Makes a write exactly once, at any writer. Calls `meanwhile` after the first attempt was sent.
  async apply(request, meanwhile = async () => {}) {
    request = { ...request, options: { requestId: randomUUID() } };
    for (let attempt = 0; attempt < 600; attempt++) {
      const answer = call(this.client(), "apply", request).catch((error) => error);
      if (attempt === 0) await meanwhile();
      const said = await answer;
      if (!(said instanceof Error)) return said.token;
      this.reasons.add(reasonOf(said) ?? "none");
      if (![grpc.status.UNAVAILABLE, grpc.status.UNKNOWN].includes(said.code)) throw said;
      this.current = (this.current + 1) % this.all.length;
      await sleep(50);
    }
    assert.fail("no writer accepted the write");
  }

  close() {
    for (const client of this.#clients.values()) client.close();
  }
}

const started = performance.now();
const run = async (daemons) => {
  const standby = await daemons.start("writer", "--standby");
  const writers = new Writers([daemons.holder, standby]);
  const waiting = new WriterService(standby.address, plain);
  const refusal = await call(waiting, "createTable", { table: "parcels", primaryKey: "id" }).catch((error) => error);
  assert.deepEqual([refusal.code, reasonOf(refusal)], [grpc.status.UNAVAILABLE, "STANDBY"]);
  console.log(`  UNAVAILABLE STANDBY: ${refusal.details}`);
  waiting.close();
  // The holder listens before it has the lock, and refuses calls until it does.
  for (let created; !created; ) {
    created = await call(writers.client(), "createTable", { table: "parcels", primaryKey: "id" }).catch(async (error) => {
      if (reasonOf(error) !== "STANDBY") throw error;
      await sleep(50);
    });
  }

  // Kills the active writer, and starts it again as a standby.
  const changePlaces = async () => {
    const at = writers.current;
    await writers.all[at].kill();
    writers.all[at] = await daemons.start("writer", "--standby");
  };
  const tokens = [];
  for (let number = 0; number < WRITES; number++) {
    const operations = [{ table: "parcels", insert: document({ id: `p${number}` }) }];
    tokens.push(await writers.apply({ operations }, number % 50 === 25 ? changePlaces : undefined));
  }
  writers.close();
  assert.equal(new Set(tokens.map((token) => token.epoch)).size, 1, "a take-over keeps the epoch");

  const reader = new ReaderService((await daemons.reader()).address, plain);
  const { seq, epoch } = tokens.at(-1);
  const written = [];
  for await (const { commits } of reader.history({ table: "parcels", freshness: { minSeq: seq, epoch } })) {
    for (const commit of commits) for (const { key } of commit.changes) if (key) written.push([commit.seq, key]);
  }
  reader.close();
  assert.deepEqual(written, tokens.map((token, number) => [token.seq, `p${number}`]));
  console.log(`  ${WRITES} writes, each once, over two take-overs; refused meanwhile with ${[...writers.reasons].sort()}`);
};
await withDaemons(run, "--standby");
console.log(`node writers: ok (${((performance.now() - started) / 1000).toFixed(1)} s)`);
