// DriftDB from Node: streams of changes while readers are killed, with filters, and to copy a table.
//
// Run by run.sh. Readers are killed while commits are made; the streams are compared with a model of the writes.

import assert from "node:assert/strict";
import { once } from "node:events";
import grpc from "@grpc/grpc-js";
import { withDaemons } from "./daemons.mjs";
import { Model, commitsOf, document, materialise, value } from "./model.mjs";
import { reasonOf, watch } from "./raw_watch.mjs";
import { call, plain, ReaderService, WriterService } from "./stubs.mjs";

const COMMITS = 240;
// The most commits ahead of a stream, so that readers are killed between commits and not after the last one.
const AHEAD = 30;
const heartbeat = { nanos: 100_000_000 };
const images = { withBefore: true, withAfter: true };

const apply = async (writer, request) => (await call(writer, "apply", request)).token;
const request = (fields) => ({ tables: ["parcels"], ...fields });

// Makes commits while a stream is read, and stays close to it.
class Load {
  room = AHEAD;
  done = false;
  #wake = () => {};

  constructor(writer, model) {
    this.model = model;
    this.run = this.#run(writer).then(() => (this.done = true));
    this.run.catch(() => {}); // whoever reads the stream is told by finished()
  }

  async #run(writer) {
    for (let number = 0; number < COMMITS; number++) {
      while (this.room === 0) await new Promise((resolve) => (this.#wake = resolve));
      this.room--;
      this.model.applied(await apply(writer, this.model.next()));
    }
  }

  seen(commits = 1) {
    this.room += commits;
    this.#wake();
  }

  // Whether all commits have been made. Throws if one failed.
  async finished() {
    await Promise.race([this.run, Promise.resolve()]);
    return this.done;
  }
}

// The commit up to which, by this message, everything has been sent.
const reachedBy = ({ progress, caughtUp }) => Number((progress ?? caughtUp)?.readSeq ?? 0);
const upTo = (last, commits) => commits.map(([seq]) => seq).filter((seq) => seq <= last);

// Yields the number of commits that have arrived, up to the last one of the load. Checks all of them at the end.
async function* follow(load, addresses, afterSeq) {
  const seen = [];
  for await (const message of watch(addresses, request({ afterSeq, heartbeat, ...images }))) {
    for (const commit of commitsOf(message)) {
      load.seen();
      yield seen.push(commit);
    }
    const done = await load.finished();
    // A progress message is true: the stream sends nothing more up to there.
    const reached = reachedBy(message);
    const expected = load.model.matching(() => true, afterSeq);
    const last = expected.at(-1)?.[0] ?? 0;
    assert.deepEqual(upTo(Math.min(reached, last), seen), upTo(reached, expected));
    if (done && reached >= last) {
      assert.deepEqual(seen, expected);
      return;
    }
  }
}

// A stream from the first commit: `opened`, the table's creation, every commit, and the requested end.
async function wholeStream({ daemons, writer, model }) {
  for (let number = 0; number < 20; number++) model.applied(await apply(writer, model.next()));
  const messages = [];
  const reader = new ReaderService((await daemons.reader()).address, plain);
  const everything = request({ afterSeq: 0, untilSeq: model.last(), ...images });
  for await (const message of reader.watchDrift(everything)) messages.push(message);
  reader.close();
  assert.ok(messages[0].opened);
  assert.ok(messages.every((message) => message.resumeToken?.length > 0));
  const schema = messages.find((message) => message.commit).commit.changes[0];
  assert.equal(schema.kind, "CHANGE_KIND_SCHEMA");
  assert.equal(value(schema.payload).action, "create");
  assert.deepEqual(messages.flatMap(commitsOf), model.commits);
  console.log(`  ${model.commits.length} commits from the first on, with rows before and after`);
}

// One reader, repeatedly killed or stopped, and started again: every commit once, in order.
async function restartedReader({ daemons, writer, model }) {
  const began = model.last();
  let [reader, kills, seen] = [await daemons.reader(), 0, 0];
  const addresses = [reader.address];
  for await (seen of follow(new Load(writer, model), addresses, began)) {
    if (seen % 60 !== 30) continue;
    await (kills % 2 === 1 ? reader.stop() : reader.kill());
    reader = await daemons.reader();
    addresses[0] = reader.address;
    kills++;
  }
  assert.deepEqual([seen, kills], [COMMITS, 4]);
  console.log(`  ${seen} commits, each once and in order, over ${kills} restarts of the reader`);
}

// A list of two readers: when one is killed, the client resumes at the other.
async function failOver({ daemons, writer, model }) {
  const began = model.last();
  const readers = [await daemons.reader(), await daemons.reader()];
  const addresses = readers.map((reader) => reader.address);
  let seen = 0;
  for await (seen of follow(new Load(writer, model), addresses, began)) {
    if (seen === COMMITS / 3) await readers[0].kill();
    if (seen === COMMITS / 2) {
      addresses[0] = (await daemons.reader()).address;
      await readers[1].kill();
    }
  }
  assert.equal(seen, COMMITS);
  console.log("  from one reader to the other and back, with nothing missing");
}

// Filters by condition, keys and prefix. A filtered stream resumes at another reader.
async function filtered({ daemons, writer, model }) {
  const began = model.last();
  for (let number = 0; number < COMMITS; number++) model.applied(await apply(writer, model.next()));
  const sent = ({ before, after }) => before?.status === "sent" || after?.status === "sent";
  for (const [what, passes, filter] of [
    ["where", sent, { where: "status = $1", params: [JSON.stringify("sent")] }],
    ["keys", ({ key }) => key === "p007" || key === "p011", { keys: ["p007", "p011"] }],
    ["keyPrefix", ({ key }) => key.startsWith("p00"), { keyPrefix: "p00" }],
  ]) {
    const reader = await daemons.reader();
    const [addresses, seen] = [[reader.address], []];
    for await (const message of watch(addresses, request({ afterSeq: began, untilSeq: model.last(), ...images, ...filter }))) {
      seen.push(...commitsOf(message));
      if (seen.length === 5 && addresses[0] === reader.address) {
        await reader.kill();
        addresses[0] = (await daemons.reader()).address;
      }
    }
    const expected = model.matching(passes, began);
    assert.deepEqual(seen, expected, what);
    assert.ok(expected.length > 5 && expected.length < COMMITS, what);
    console.log(`  ${what}: ${seen.length} of ${COMMITS} commits pass`);
  }
}

// Initial rows, then changes, without a gap: the copy equals a Select at the same commit, across restarts.
async function copy({ daemons, writer, model }) {
  model.applied(await apply(writer, model.fill(3000, 400)));
  const began = model.last();
  let [reader, batches, kills, changed, reached] = [await daemons.reader(), 0, 0, 0, 0];
  const [addresses, rows, load] = [[reader.address], new Map(), new Load(writer, model)];
  for await (const message of watch(addresses, request({ initialRows: true, heartbeat, withAfter: true }))) {
    if (message.rows) batches++;
    for (const row of message.rows?.rows ?? []) rows.set(row.key, value(row.document));
    if (message.commit) {
      materialise(rows, commitsOf(message).flatMap(([, changes]) => changes));
      changed++;
      load.seen();
    }
    // Earlier writes arrive as rows, not as commits.
    if (message.rowsDone) load.seen(upTo(Number(message.rowsDone.readSeq), model.matching(() => true, began)).length);
    if ((batches === 2 && kills === 0) || (changed === 50 && kills === 1)) {
      await reader.kill();
      reader = await daemons.reader();
      addresses[0] = reader.address;
      kills++;
    }
    reached = reachedBy(message);
    if ((await load.finished()) && reached >= model.last()) break;
  }
  assert.ok(batches > 2 && kills === 2);
  const selected = new Map();
  const client = new ReaderService(reader.address, plain);
  for await (const message of client.select({ table: "parcels", asOf: { seq: reached } })) {
    for (const row of message.rows) selected.set(row.key, value(row.document));
  }
  client.close();
  const sorted = (map) => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
  assert.deepEqual(sorted(rows), sorted(selected));
  assert.deepEqual(sorted(rows), sorted(model.rows));
  console.log(`  a copy of ${rows.size} rows in ${batches} messages and ${changed} commits is the table at commit ${reached}`);
}

// A large commit arrives in parts without tokens. A client drops the parts of a broken connection.
async function commitInParts({ daemons, writer }) {
  await call(writer, "createTable", { table: "blobs", primaryKey: "id" });
  const before = (await apply(writer, {})).seq;
  const keys = Array.from({ length: 24 }, (_, number) => `b${number}`);
  const operations = keys.map((id) => ({ table: "blobs", insert: document({ id, blob: "x".repeat(1_000_000) }) }));
  const large = (await apply(writer, { operations })).seq;
  const everything = { tables: ["blobs"], afterSeq: before, untilSeq: large };

  const reader = await daemons.reader();
  const [client, parts] = [new ReaderService(reader.address, plain), []];
  let token;
  const failure = await (async () => {
    for await (const message of client.watchDrift(everything)) {
      token = message.resumeToken ?? token;
      if (!message.commit) continue;
      // The rest cannot be in transit: it is larger than all buffers.
      if (parts.push(message) === 1) await reader.kill();
    }
  })().catch((error) => error);
  client.close();
  assert.equal(failure?.code, grpc.status.UNAVAILABLE, failure);
  assert.ok(parts.length > 0 && parts.every(({ commit, resumeToken }) => commit.more && resumeToken === undefined));

  const another = await daemons.reader();
  const resumed = { tables: ["blobs"], untilSeq: large, resumeToken: token };
  const commits = [];
  for await (const { commit } of watch([another.address], resumed)) {
    if (commit) commits.push(commit.changes.map((change) => change.key));
  }
  assert.deepEqual(commits, [keys]);
  console.log(`  a commit of ${keys.length} MiB, begun anew where the reader was killed after ${parts.length} of its parts`);
}

// Refused streams, and how to start a copy again.
async function refused({ daemons, writer, model }) {
  const { address } = await daemons.reader();
  const reader = new ReaderService(address, plain);

  async function expectError(code, reason, fields) {
    const failing = async () => {
      for await (const message of reader.watchDrift(request(fields))) assert.ok(message.opened);
    };
    const error = await failing().then(() => assert.fail(`expected ${reason}`), (error) => error);
    assert.deepEqual([grpc.status[error.code], reasonOf(error)], [code, reason], error);
    console.log(`  ${code} ${reason}: ${error.details}`);
  }

  const stream = reader.watchDrift(request({ where: 'status = "sent"' }));
  const [{ opened, resumeToken }] = await once(stream, "data");
  stream.on("error", (error) => assert.equal(error.code, grpc.status.CANCELLED));
  stream.cancel();
  await expectError("INVALID_ARGUMENT", "FILTER_MISMATCH", { resumeToken, where: 'status = "packed"' });
  await expectError("INVALID_ARGUMENT", "QUERY_SYNTAX", { where: "status =" });
  const epoch = String(BigInt(opened.epoch) ^ 1n);
  await expectError("FAILED_PRECONDITION", "EPOCH_CHANGED", { afterSeq: 1, epoch });
  model.applied(await apply(writer, model.next()));
  for await (const _ of writer.compact({ table: "parcels", before: { seq: model.last() } }));
  await call(reader, "get", { table: "parcels", keys: ["p001"], freshness: { minSeq: model.last() } });
  await expectError("OUT_OF_RANGE", "BELOW_FLOOR", { afterSeq: 1 });
  reader.close();
  const rows = new Map();
  let copies = 0;
  for await (const message of watch([address], request({ afterSeq: 1, epoch }))) {
    if (message.opened) copies++;
    for (const row of message.rows?.rows ?? []) rows.set(row.key, value(row.document));
    if (message.rowsDone) break;
  }
  assert.equal(copies, 1);
  assert.equal(rows.size, model.rows.size);
  console.log("  started over with the rows that there are, where the start was of another epoch");
}

const started = performance.now();
await withDaemons(async (daemons) => {
  const writer = new WriterService(daemons.writer, plain);
  const model = new Model(7);
  await call(writer, "createTable", { table: "parcels", primaryKey: "id" });
  for (const step of [wholeStream, restartedReader, failOver, filtered, copy, commitInParts, refused]) await step({ daemons, writer, model });
  writer.close();
});
console.log(`node watching: ok (${((performance.now() - started) / 1000).toFixed(1)} s)`);
