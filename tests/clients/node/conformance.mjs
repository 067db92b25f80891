// Runs the scenarios of conformance.json with the package driftdb: `conformance.mjs FILE [TEXT IN THE NAME]`.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DriftError, connect, errors, parseJson } from "driftdb";
import { Cluster } from "./cluster.mjs";

// How long a step may need some tries, and a scenario may take, in milliseconds.
const [EVENTUALLY, SCENARIO] = [20_000, 90_000];
// The names of conformance.json, as this client spells them.
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const camelFields = (options) => Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value]));
// Numbers in conformance.json are numbers, where the client has bigint for seqs and counts.
const plain = (value) => (typeof value === "bigint" && BigInt(Number(value)) === value && Number.isSafeInteger(Number(value)) ? Number(value) : value);
const documents = (rows) => rows.map((row) => row?.document ?? plain(row));

class Scenario {
  saved = {};
  clients = {};
  watches = {};

  constructor(cluster, steps) {
    this.cluster = cluster;
    this.steps = steps;
  }

  async run() {
    try {
      this.clients.main = connect(this.cluster.url(), { token: this.cluster.tokens.main });
      for (const step of this.steps) await this.step(step);
    } finally {
      for (const client of Object.values(this.clients)) client.close();
      await this.cluster.close();
    }
  }

  async step(raw) {
    if (raw.do === "repeat") {
      for (let i = 0; i < raw.times; i++) {
        Object.assign(this.saved, { i, i_text: `${i}` });
        for (const step of raw.steps) await this.step(step);
      }
      return;
    }
    for (let times = raw.times ?? 1; times > 0; times--) {
      try {
        await this.checked(this.filled(raw));
      } catch (error) {
        throw new Error(JSON.stringify(raw, (_, value) => (typeof value === "bigint" ? `${value}` : value)), { cause: error });
      }
    }
  }

  // A value with what was saved in place of its names.
  filled(value) {
    if (typeof value === "string" && value.startsWith("$") && Object.hasOwn(this.saved, value.slice(1))) return this.saved[value.slice(1)];
    if (Array.isArray(value)) return value.map((item) => this.filled(item));
    if (value === null || typeof value !== "object") return value;
    const names = Object.keys(value);
    if (names.length === 1 && names[0] === "$pad") return "x".repeat(value.$pad);
    if (names.length === 1 && names[0] === "$nest") return Array.from({ length: value.$nest }).reduce((inner) => [inner], []);
    const filled = {};
    for (const name of names) {
      Object.defineProperty(filled, name, { value: this.filled(value[name]), enumerable: true, writable: true, configurable: true });
    }
    return filled;
  }

  async checked({ do: name, error: expected, eventually = false, times, client = "main", ...step }) {
    const until = Date.now() + (eventually ? EVENTUALLY : 0);
    const call = this[camel(name)];
    for (;;) {
      try {
        await call.call(this, this.clients[client], name === "connect" ? { client, ...step } : step);
      } catch (error) {
        if (!(error instanceof DriftError) || error.reason !== expected) throw error;
        assert.ok(error instanceof errors[expected]);
        return;
      }
      if (expected === undefined) return;
      assert.ok(Date.now() < until, `it did not fail with ${expected}`);
      await sleep(50);
    }
  }

  save(name, seq) {
    if (name) this.saved[name] = plain(seq);
  }

  // Clients and daemons.

  connect(_, { client, token, ca, tls, ...options }) {
    this.clients[client] = connect(this.cluster.url({ ca, tls }), { token: this.cluster.tokens[token], ...options });
  }

  async unsafeToken(_, { url }) {
    await connect(url, { token: "secret" }).table("t").get("a");
  }

  setToken(client, { token }) {
    client.setToken(this.cluster.tokens[token]);
  }

  freezeWriter() {
    return this.cluster.writer.freeze();
  }

  thawWriter() {
    this.cluster.writer.thaw();
  }

  freezeReader(_, { reader }) {
    return this.cluster.readers[reader].freeze();
  }

  thawReader(_, { reader }) {
    this.cluster.readers[reader].thaw();
  }

  killReader(_, { reader }) {
    return this.cluster.readers[reader].kill();
  }

  startReader(_, { reader }) {
    return this.cluster.readers[reader].start();
  }

  killWriter() {
    return this.cluster.writer.kill();
  }

  startWriter(_, { after_ms: millis }) {
    this.cluster.startWriterAfter(millis);
  }

  loseAnswer() {
    this.cluster.proxy.armed = true;
  }

  // Tables and rows.

  async createTable(client, { table, save, ...options }) {
    await client.createTable(table, camelFields(options));
    this.save(save, (await client.table(table).describe()).createdSeq);
  }

  async dropTable(client, { table }) {
    await client.dropTable(table);
  }

  async describe(client, { table, expect }) {
    const info = await client.table(table).describe();
    this.compare([info], [expect]);
  }

  async tables(client, { expect }) {
    assert.deepEqual((await client.tables()).map(({ name }) => name), expect);
  }

  async insert(client, { table, document, save, ...options }) {
    this.save(save, (await client.table(table).insert(document, camelFields(options))).seq);
  }

  async put(client, { table, document, save, ...options }) {
    this.save(save, (await client.table(table).put(document, camelFields(options))).seq);
  }

  async patch(client, { table, key, document, save, ...options }) {
    this.save(save, (await client.table(table).patch(key, document, camelFields(options))).seq);
  }

  async delete(client, { table, key, save }) {
    this.save(save, (await client.table(table).delete(key)).seq);
  }

  async revert(client, { table, key, to }) {
    await client.table(table).revert(key, to);
  }

  async commit(client, { operations, conditions = [], save, replayed, keys, same_as: sameAs, ...options }) {
    const receipt = await client.commit((commit) => {
      for (const [name, ...rest] of operations) commit[name](...rest);
      for (const [name, ...rest] of conditions) {
        const [table, where, params, since] = rest;
        if (name === "if_no_change") commit.ifNoChange(table, where, since, params);
        else commit[camel(name)](...rest);
      }
    }, camelFields(options));
    this.save(save, receipt.seq);
    if (replayed !== undefined) assert.equal(receipt.replayed, replayed);
    if (keys !== undefined) assert.equal(new Set(receipt.keys).size, keys);
    if (sameAs !== undefined) assert.equal(plain(receipt.seq), sameAs);
  }

  async findCommit(client, { request_id: requestId, expect }) {
    assert.equal(plain((await client.findCommit(requestId))?.seq ?? null), expect);
  }

  async get(client, { table, key, expect, as_of: asOf, seq }) {
    const row = await client.table(table).get(key, { asOf });
    if (expect !== undefined) assert.deepEqual(row?.document ?? null, expect);
    if (seq !== undefined) assert.equal(plain(row.seq), seq);
  }

  async getMany(client, { table, keys, expect }) {
    assert.deepEqual(documents(await client.table(table).getMany(keys)), expect);
  }

  async select(client, { table, where, params, expect, ...options }) {
    assert.deepEqual(documents(await client.table(table).select(where, params, camelFields(options)).all()), expect);
  }

  async selectSizes(client, { table, rows, pad }) {
    const sizes = [];
    for await (const { document } of client.table(table).select()) sizes.push(document.pad.length);
    assert.deepEqual(sizes, Array(rows).fill(pad));
  }

  async count(client, { table, where, params, expect, ...options }) {
    assert.equal(plain(await client.table(table).count(where, params, camelFields(options))), expect);
  }

  async history(client, { table, key, expect, ...options }) {
    const commits = await client.table(table).history(key, camelFields(options)).all();
    this.compare(commits.flatMap(({ changes }) => changes), expect);
  }

  async diff(client, { table, start, end, expect }) {
    this.compare(await client.table(table).diff(start, end).all(), expect);
  }

  async query(client, { statement, params, expect, expect_length: length, ...options }) {
    const found = documents(await client.query(statement, params, camelFields(options)).all());
    if (expect !== undefined) assert.deepEqual(found, expect);
    if (length !== undefined) assert.equal(found.length, length);
  }

  async execute(client, { statement, params, save, rows }) {
    const executed = await client.execute(statement, params);
    this.save(save, executed.token?.seq);
    if (rows !== undefined) assert.equal(plain(executed.rows), rows);
  }

  async ingest(client, { table, count, expect, kill_writer_at: killAt, ...options }) {
    const { cluster } = this;
    async function* rows() {
      for (let number = 0; number < count; number++) {
        if (number === killAt) {
          await cluster.writer.kill();
          await cluster.writer.start();
        }
        yield { id: `${number}`, n: number };
      }
    }
    const done = await client.table(table).ingest(rows(), options);
    const refused = done.refused.map(({ position, reason }) => ({ position, reason }));
    assert.deepEqual({ operations: done.operations, refused }, expect);
  }

  // Watches.

  async watch(client, { watch, table, open = false, ...options }) {
    const opened = client.table(table).watch({ heartbeat: 1_000, ...camelFields(options) });
    if (open) await opened.open();
    this.watches[watch] = { opened, commits: opened.commits() };
  }

  async expectChanges(_, { watch, expect }) {
    const changes = [];
    while (changes.length < expect.length) changes.push((await this.watches[watch].opened.next()).value);
    this.compare(changes, expect);
  }

  async expectCommits(_, { watch, expect }) {
    for (const each of expect) {
      const { value } = await this.watches[watch].commits.next();
      assert.deepEqual({ seq: plain(value.seq), changes: value.changes.length }, each);
    }
  }

  async expectNumbers(_, { watch, field, from, to }) {
    for (let number = from; number < to; number++) {
      assert.equal((await this.watches[watch].opened.next()).value.after[field], number);
    }
  }

  async expectEnd(_, { watch }) {
    assert.ok((await this.watches[watch].opened.next()).done);
  }

  saveToken(_, { watch, save }) {
    this.saved[save] = this.watches[watch].opened.token;
  }

  closeWatch(_, { watch }) {
    this.watches[watch].opened.close();
  }

  compare(items, expected) {
    const fields = (item, wanted) => Object.fromEntries(Object.keys(wanted).map((name) => [name, plain(item[camel(name)] ?? null)]));
    assert.deepEqual(items.map((item, at) => fields(item, expected[at] ?? {})), expected);
  }
}

async function checkAddresses(cases) {
  const { parseAddress } = await import("./node_modules/driftdb/lib/address.js");
  for (const { url, ...expected } of cases) {
    let found;
    try {
      const { writers, readers, tls } = parseAddress(url);
      found = { writers, readers, tls };
    } catch (error) {
      found = { error: error.reason };
    }
    assert.deepEqual(found, expected, url);
  }
}

async function checkParameters(cases) {
  const { bind } = await import("./node_modules/driftdb/lib/params.js");
  for (const { text, named, ...expected } of cases) {
    let found;
    try {
      const { text: bound, params: values } = bind(text, named);
      found = { bound, values };
    } catch (error) {
      found = { error: error.reason };
    }
    assert.deepEqual(found, expected, text);
  }
}

const [file, only = ""] = process.argv.slice(2);
const conformance = parseJson(readFileSync(file, "utf8"));
await checkAddresses(conformance.addresses);
await checkParameters(conformance.parameters);
const began = Date.now();
const chosen = conformance.scenarios.filter(({ name }) => name.includes(only));
for (const { name, cluster, steps } of chosen) {
  const limit = setTimeout(() => {
    console.error(`${name}: not done after ${SCENARIO} ms`);
    process.exit(1);
  }, SCENARIO);
  try {
    await new Scenario(await Cluster.start(cluster), steps).run();
  } catch (error) {
    console.error(name);
    throw error;
  }
  clearTimeout(limit);
  console.log(`  ${name}`);
}
console.log(`node: ${chosen.length} scenarios conform (${((Date.now() - began) / 1000).toFixed(1)} s)`);
