// What the package promises besides conformance.json.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer as createHttp2Server } from "node:http2";
import { createServer } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import * as driftdb from "driftdb";
import { Cluster } from "./cluster.mjs";

const { ClientClosed, ConnectionLost, DriftError, connect, errors, parseJson, toJson } = driftdb;
const [docs] = process.argv.slice(2);
const types = readFileSync(new URL("./node_modules/driftdb/index.d.ts", import.meta.url), "utf8");

function eachReasonHasAClass() {
  const rows = [...readFileSync(docs, "utf8").matchAll(/^\| `([A-Z_]+)` \| `([A-Z_]+)` \|.*\| (.+) \|$/gm)];
  const expected = rows.map(([, reason, code, retry]) => [reason, code, !retry.startsWith("no")]).sort();
  assert.deepEqual(Object.values(errors).map(({ reason, code, retryable }) => [reason, code, retryable]).sort(), expected);
  const union = /export type Reason =\n(.*?);/s.exec(types)[1];
  assert.deepEqual([...union.matchAll(/"([A-Z_]+)"/g)].map(([, reason]) => reason).sort(), expected.map(([reason]) => reason));
  assert.ok(new errors.ROW_EXISTS("x") instanceof DriftError && new ConnectionLost("x").retryable);
}

// The types name what there is, and nothing else.
function theTypesAreThoseOfTheCode() {
  const named = [...types.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(named.sort(), Object.keys(driftdb).sort());
  for (const [, name, parent, body] of types.matchAll(/^export class (\w+)(?:<T>)?(?: extends (\w+))?.*?\{\n(.*?)^\}/gms)) {
    if (parent === "Error") continue;
    const methods = [...body.matchAll(/^  (\w+)\(/gm)].map(([, method]) => method).filter((method) => method !== "constructor");
    const found = Object.getOwnPropertyNames(driftdb[name].prototype).filter((method) => typeof Object.getOwnPropertyDescriptor(driftdb[name].prototype, method).value === "function");
    const inner = new Set(["constructor", "receive", "nextMessage", "take", "send", "nextEvent"]);
    assert.deepEqual(methods.sort(), found.filter((method) => !inner.has(method)).sort(), name);
  }
}

function jsonIsExact() {
  for (const text of ['{"a":18446744073709551615,"b":[-9223372036854775808,1.5e300,"\\u0001 \\" 1234567890123456"],"__proto__":{"x":null}}', "[]", "9007199254740993", '{"":true,"f":false}']) {
    assert.equal(toJson(parseJson(text)), text.replace("1.5e300", "1.5e+300"));
  }
  assert.equal({}.x, undefined);
  assert.equal(parseJson("9007199254740993"), 9007199254740993n);
  assert.equal(parseJson("9007199254740991"), 9007199254740991);
  assert.equal(toJson({ a: undefined, b: new Date(0), c: [undefined] }), '{"b":"1970-01-01T00:00:00.000Z","c":[null]}');
  for (const wrong of [NaN, Infinity, undefined, new Map()]) assert.throws(() => toJson(wrong), errors.DOCUMENT_INVALID);
  for (const wrong of ["[9007199254740993", "[9007199254740993,]", '{"a" 9007199254740993}', "9007199254740993 1"]) assert.throws(() => parseJson(wrong), SyntaxError);
}

async function wrongValuesAreRefusedBeforeTheyAreSent() {
  const table = connect("driftdb://127.0.0.1:1").table("t");
  await assert.rejects(table.put({ id: "a", x: NaN }), errors.DOCUMENT_INVALID);
  await assert.rejects(table.put([1]), errors.DOCUMENT_INVALID);
  for (const key of [null, 1.5, true]) await assert.rejects(table.get(key), errors.KEY_INVALID);
  for (const asOf of [-1n, "now", new Date(NaN)]) await assert.rejects(table.get("a", { asOf }), errors.ARGUMENT_INVALID);
  await assert.rejects(table.get("a"), /names no reader/);
  assert.throws(() => connect("driftdb://w,r", { token: "a secret" }), (error) => error.reason === "ARGUMENT_INVALID" && !error.message.includes("secret"));
  for (const call of [() => table.history(""), () => table.watch({ keys: [""] }), () => table.diff(0n, undefined, { keys: [""] })]) {
    assert.throws(call, errors.KEY_INVALID);
  }
  // A text of a statement, and a document, may be long.
  const long = "x".repeat(8 << 20);
  assert.equal(parseJson(`["${long}",9007199254740993]`)[0].length, long.length);
  await assert.rejects(connect("driftdb://w").execute(`UPSERT INTO t {"id": "${long}"} $x`, { y: 1 }), errors.ARGUMENT_INVALID);
  assert.throws(() => connect("driftdb://w,r", { tokn: "x" }), errors.ARGUMENT_INVALID);
}

async function aSignalEndsWhatWaits(cluster) {
  const db = connect(cluster.url());
  const table = await db.createTable("aborted");
  const aborted = AbortSignal.abort(new Error("enough"));
  for (const call of [
    () => table.get("a", { signal: aborted }),
    () => table.put({ id: "a" }, { signal: aborted }),
    () => table.select("", [], { signal: aborted }).all(),
    () => table.watch({ signal: aborted }).next(),
  ]) {
    await assert.rejects(call, /enough/);
  }
  assert.equal(await table.get("a"), undefined);
  const controller = new AbortController();
  const watch = table.watch({ signal: controller.signal });
  const waiting = watch.next();
  setTimeout(() => controller.abort(new Error("enough")), 300);
  await assert.rejects(waiting, /enough/);
  // A write that no writer answers.
  const nobody = connect("driftdb://127.0.0.1:1");
  await assert.rejects(nobody.table("t").put({ id: "a" }, { signal: AbortSignal.timeout(200) }), { name: /AbortError|TimeoutError/ });
  db.close();
}

async function closingEndsAWatch(cluster) {
  const db = connect(cluster.url());
  const table = await db.createTable("closed");
  const watch = table.watch();
  const waiting = watch.next();
  setTimeout(() => watch.close(), 300);
  assert.deepEqual(await waiting, { done: true, value: undefined });
  db.close();
}

async function closingAClientEndsWhatItDoes(cluster) {
  const db = connect(cluster.url());
  const table = await db.createTable("left");
  const watch = table.watch();
  const waiting = watch.next();
  await sleep(300);
  db.close();
  assert.deepEqual(await waiting, { done: true, value: undefined });
  await assert.rejects(table.get("a"), ClientClosed);
  // A server that takes connections and never says anything.
  const sockets = [];
  const silent = createServer((socket) => sockets.push(socket.on("error", () => {}))).listen(0, "127.0.0.1");
  await once(silent, "listening");
  const other = connect(`driftdb://127.0.0.1:${silent.address().port},127.0.0.1:${silent.address().port}`);
  const writing = assert.rejects(other.table("t").put({ id: "a" }), errors.OUTCOME_UNKNOWN);
  await sleep(300);
  other.close();
  await writing;
  sockets.forEach((socket) => socket.destroy());
  silent.close();
}

async function aWatchThatIsClosedInAPauseOpensNoStream() {
  // Nobody listens there at first.
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  const watch = connect(`driftdb://127.0.0.1:1,127.0.0.1:${port}`).table("t").watch();
  assert.equal((await watch.nextEvent()).kind, "interrupted");
  const waiting = watch.nextEvent();
  watch.close();
  const reader = createHttp2Server().listen(port, "127.0.0.1");
  await once(reader, "listening");
  let streams = 0;
  reader.on("stream", () => streams++);
  const sessions = [];
  reader.on("session", (session) => sessions.push(session));
  assert.equal(await waiting, undefined);
  await sleep(1000);
  assert.equal(streams, 0);
  sessions.forEach((session) => session.destroy());
  reader.close();
}

async function aLoadThatReachesNoWriterWasNotBegun() {
  let closed = false;
  async function* rows() {
    try {
      for (let n = 0; ; n++) yield { id: `k${n}` };
    } finally {
      closed = true;
    }
  }
  const table = connect("driftdb://127.0.0.1:1", { retryTimeout: 0.2 }).table("t");
  await assert.rejects(table.ingest(rows()), errors.UNREACHABLE);
  assert.ok(closed, "the source of the rows is left open");
}

async function aLoadSaysWhatWasLoadedBefore(cluster) {
  const db = connect(cluster.url());
  const table = await db.createTable("loaded");
  const rows = Array.from({ length: 10 }, (_, n) => ({ id: `k${n}` }));
  assert.equal((await table.ingest(rows, { producer: "of monday", batch: 3 })).skipped, 0);
  const repeated = await table.ingest(rows, { producer: "of monday", batch: 3 });
  assert.deepEqual([repeated.operations, repeated.skipped], [10, 10]);
  db.close();
}

async function noProxyIsBetweenAClientAndItsDaemons(cluster) {
  process.env.http_proxy = process.env.grpc_proxy = "http://127.0.0.1:9";
  const db = connect(cluster.url().replaceAll("127.0.0.1", "localhost"), { retryTimeout: 5 });
  assert.equal(await (await db.createTable("direct")).get("a"), undefined);
  db.close();
  delete process.env.http_proxy;
  delete process.env.grpc_proxy;
}

async function aTokenCountsACommitOnlyWhenItsChangesAreTaken(cluster) {
  const db = connect(cluster.url());
  const table = await db.createTable("tokens");
  const { lastSeq } = await table.describe();
  await db.commit((commit) => ["a", "b"].forEach((id) => commit.put("tokens", { id })));
  const watch = table.watch({ afterSeq: lastSeq });
  const next = async (from) => (await from.next()).value.key;
  assert.equal(await next(watch), "a");
  assert.equal(await next(table.watch({ token: watch.token })), "a", "half of a commit must come again");
  assert.equal(await next(watch), "b");
  await table.put({ id: "c" });
  assert.equal(await next(watch), "c");
  assert.equal(await next(table.watch({ token: watch.token })), "c");
  db.close();
}

async function errorsSayWhereAStatementIsWrong(cluster) {
  const db = connect(cluster.url());
  await assert.rejects(db.query("SELECT * FRM t").all(), ({ reason, query }) => reason === "QUERY_SYNTAX" && query.line === 1 && query.column > 8);
  db.close();
}

async function isLate(call, error) {
  const began = Date.now();
  await assert.rejects(call, error);
  const took = Date.now() - began;
  assert.ok(took > 400 && took < 3_000, `it took ${took} ms`);
}

async function aWriteThatNoOneAnswersEndsWithItsTimeLimit() {
  const frozen = await Cluster.start({ readers: 1 });
  const [db, unlimited] = [connect(`${frozen.url()}?timeout=0.5`), connect(frozen.url())];
  const table = await db.createTable("t");
  await unlimited.table("t").put({ id: "a" });
  await frozen.writer.freeze();
  await isLate(table.put({ id: "b" }, { requestId: "mine" }), errors.OUTCOME_UNKNOWN);
  await isLate(db.execute('INSERT INTO t {"id": "c"}'), errors.OUTCOME_UNKNOWN);
  await isLate(table.ingest([{ id: "d" }]), errors.OUTCOME_UNKNOWN);
  await isLate(unlimited.commit((commit) => commit.put("t", { id: "e" }), { timeout: 0.5 }), errors.OUTCOME_UNKNOWN);
  await isLate(unlimited.createTable("u", { timeout: 0.5 }), errors.OUTCOME_UNKNOWN);
  await isLate(unlimited.findCommit("mine", { timeout: 0.5 }), errors.STATEMENT_TIMEOUT);
  frozen.writer.thaw();
  // The writer continues, and the same request id shows what it did.
  assert.ok((await table.put({ id: "b" }, { requestId: "mine", timeout: 20 })).seq > 0n);
  db.close();
  unlimited.close();
  await frozen.close();
}

async function aReadThatNoOneAnswersEndsWithItsTimeLimit() {
  const frozen = await Cluster.start({ readers: 1 });
  const [db, unlimited] = [connect(frozen.url(), { timeout: 0.5 }), connect(frozen.url())];
  const table = await db.createTable("t");
  unlimited.include((await table.put({ id: "a" })).token);
  assert.ok(await unlimited.table("t").get("a", { timeout: 20 }));
  const watch = table.watch({ afterSeq: 0n, heartbeat: 60_000 });
  assert.equal((await watch.next()).value.kind, "schema");
  const [reader] = frozen.readers;
  await reader.freeze();
  await isLate(table.get("a"), errors.STATEMENT_TIMEOUT);
  await isLate(table.select().all(), errors.STATEMENT_TIMEOUT);
  await isLate(db.status(), errors.STATEMENT_TIMEOUT);
  await isLate(unlimited.table("t").count("", [], { timeout: 0.5 }), errors.STATEMENT_TIMEOUT);
  await isLate(unlimited.query("SELECT * FROM t", [], { timeout: 0.5 }).all(), errors.STATEMENT_TIMEOUT);
  reader.thaw();
  // A watch has no limit: it waits for changes.
  assert.equal((await watch.next()).value.key, "a");
  assert.ok(await table.get("a", { timeout: Infinity }));
  db.close();
  unlimited.close();
  await frozen.close();
}

async function aWatchOpensWhenItIsAskedTo(cluster) {
  const db = connect(cluster.url());
  const table = await db.createTable("opened");
  await table.put({ id: "before" });
  const watch = table.watch();
  const start = await watch.open();
  const after = await table.put({ id: "after" });
  const { value } = await watch.next();
  assert.deepEqual([value.key, value.seq], ["after", after.seq]);
  assert.ok(after.seq > start.readSeq);
  watch.close();
  const closed = table.watch();
  closed.close();
  await assert.rejects(closed.open(), ClientClosed);
  db.close();
}

function anOptionComesBeforeTheAddress() {
  connect("driftdb://127.0.0.1:1?token_file=/does/not/exist", { token: "mine" }).close();
  assert.throws(() => connect("driftdb://127.0.0.1:1?token_file=/does/not/exist"), errors.ARGUMENT_INVALID);
}

async function aTimeLimitIsATime() {
  for (const timeout of [0, -1, NaN, "5"]) {
    assert.throws(() => connect("driftdb://w,r", { timeout }), errors.ARGUMENT_INVALID);
    assert.throws(() => connect("driftdb://w,r").table("t").select("", [], { timeout }), errors.ARGUMENT_INVALID);
    await assert.rejects(connect("driftdb://w,r").table("t").ingest([], { timeout }), errors.ARGUMENT_INVALID);
  }
}

eachReasonHasAClass();
theTypesAreThoseOfTheCode();
jsonIsExact();
await wrongValuesAreRefusedBeforeTheyAreSent();
const cluster = await Cluster.start();
await aSignalEndsWhatWaits(cluster);
await closingEndsAWatch(cluster);
await closingAClientEndsWhatItDoes(cluster);
await aWatchThatIsClosedInAPauseOpensNoStream();
await aLoadThatReachesNoWriterWasNotBegun();
await aLoadSaysWhatWasLoadedBefore(cluster);
await noProxyIsBetweenAClientAndItsDaemons(cluster);
await aTokenCountsACommitOnlyWhenItsChangesAreTaken(cluster);
await errorsSayWhereAStatementIsWrong(cluster);
await aWriteThatNoOneAnswersEndsWithItsTimeLimit();
await aReadThatNoOneAnswersEndsWithItsTimeLimit();
await aTimeLimitIsATime();
await aWatchOpensWhenItIsAskedTo(cluster);
anOptionComesBeforeTheAddress();
await cluster.close();
// Nothing that was closed keeps the program: it ends by itself.
console.log("node package: ok");
