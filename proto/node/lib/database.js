// The handles that programs use: a database and its tables.

import { parseAddress } from "./address.js";
import { Operations } from "./commit.js";
import { errors } from "./errors.js";
import { Ingest, batchesOf } from "./ingest.js";
import { bind } from "./params.js";
import { Query, Results, Rows } from "./results.js";
import { Session } from "./session.js";
import { CommitJoiner, asOfToWire, commitOf, diffOf, durationToWire, keyToWire, rowOf, someKey, tableOf } from "./values.js";
import { Watch, watchRequest } from "./watch.js";

// The maximum number of keys in one Get.
const KEYS = 1_000;
const KEY_TYPES = { STRING: "KEY_TYPE_STRING", INT: "KEY_TYPE_INT" };

export const connect = (url, options) => new Database(url, options);

export class Database {
  #session;

  constructor(url, options) {
    this.#session = new Session(parseAddress(url, options));
  }

  close() {
    this.#session.close();
  }

  [Symbol.dispose ?? Symbol.for("Symbol.dispose")]() {
    this.close();
  }

  setToken(token) {
    this.#session.setToken(token);
  }

  include(token) {
    this.#session.include(token);
  }

  forget() {
    this.#session.forget();
  }

  table(name) {
    return new Table(this.#session, name);
  }

  async createTable(name, options = {}) {
    const { primaryKey = "id", keyType = "STRING", indexes = [], autoKey = false, retain, ifNotExists = false, signal, timeout, ...commit } = options;
    const isComposite = Array.isArray(primaryKey);
    const request = {
      table: name,
      ...(isComposite ? { keyColumns: primaryKey.map(keyColumn) } : { primaryKey, keyType: keyTypeToWire(keyType) }),
      indexes: indexes.filter((index) => typeof index === "string"),
      compositeIndexes: indexes.filter(Array.isArray).map((paths) => ({ paths })),
      autoKey,
      retain: retain === undefined ? undefined : durationToWire(retain),
      ifNotExists,
      options: this.#session.options(commit),
    };
    const answer = await this.#write("CreateTable", request, { signal, timeout });
    this.#session.committed(answer.token);
    return this.table(name);
  }

  async dropTable(name, { signal, timeout, ...commit } = {}) {
    const answer = await this.#write("DropTable", { table: name, options: this.#session.options(commit) }, { signal, timeout });
    return this.#session.committed(answer.token);
  }

  async tables({ asOf, ...options } = {}) {
    const limit = this.#session.limit(options);
    let request = { freshness: this.#session.freshness(), asOf: asOfToWire(asOf) };
    const found = [];
    for (let pageToken = ""; ; ) {
      const asked = { ...request, pageToken };
      const answer = await this.#session.read((reader) => reader.unary("ReaderService/ListTables", asked, limit), limit);
      found.push(...answer.tables.map(tableOf));
      const header = this.#session.readAt(answer.header);
      // The rest at the point in time of the first page.
      request = { asOf: asOfToWire(header.readSeq), freshness: this.#session.freshness(header) };
      pageToken = answer.nextPageToken;
      if (!pageToken) return found;
    }
  }

  async commit(build, options = {}) {
    const operations = new Operations();
    await build(operations);
    return operations.send(this.#session, options);
  }

  async findCommit(requestId, options) {
    const limit = this.#session.limit(options);
    const call = (writer) => writer.unary("WriterService/FindCommit", { requestId }, limit);
    const { token } = await this.#session.write(call, limit);
    return token ? this.#session.committed(token) : undefined;
  }

  query(statement, params, { asOf, ...options } = {}) {
    const bound = bind(statement, params);
    const { timeZone } = this.#session.address;
    return new Query(this.#session, { statement: bound.text, params: bound.params, asOf: asOfToWire(asOf), timeZone }, options);
  }

  async execute(statement, params, { signal, timeout, ...commit } = {}) {
    const bound = bind(statement, params);
    const { timeZone } = this.#session.address;
    const request = { statement: bound.text, params: bound.params, options: this.#session.options(commit), timeZone };
    const limit = this.#session.limit({ signal, timeout });
    let isMaintenance = false;
    const call = async (writer) => {
      const executed = { token: undefined, keys: [], messages: [], rows: undefined };
      const answers = writer.stream("WriterService/Execute", request, limit, true);
      for (let answer; (answer = await answers.read()); ) {
        executed.keys.push(...answer.madeKeys.map(({ key }) => key));
        if (answer.token) executed.token = this.#session.committed(answer.token);
        if (answer.bulk) executed.rows = BigInt(answer.bulk.rows);
        if (answer.event === "message") executed.messages.push(answer.message);
        // Maintenance and IN BATCHES OF ignore request ids: a retry would run the job again.
        isMaintenance ||= answer.event === "progress" || answer.event === "message";
      }
      return executed;
    };
    return this.#session.write(call, limit, () => !isMaintenance);
  }

  watch(tables, options = {}) {
    const names = typeof tables === "string" ? [tables] : (tables ?? []);
    return new Watch(this.#session, watchRequest(names, options, this.#session.address.timeZone), options);
  }

  async status(options) {
    const limit = this.#session.limit(options);
    const answer = await this.#session.read((reader) => reader.unary("ReaderService/Status", {}, limit), limit);
    return this.#session.readAt(answer.header);
  }

  #write(name, request, options) {
    const limit = this.#session.limit(options);
    return this.#session.write((writer) => writer.unary(`WriterService/${name}`, request, limit, true), limit);
  }
}

export class Table {
  #session;

  constructor(session, name) {
    this.#session = session;
    this.name = name;
  }

  insert(document, options) {
    return this.#one((one) => one.insert(this.name, document), options);
  }

  put(document, options) {
    return this.#one((one) => one.put(this.name, document), options);
  }

  patch(key, patch, options) {
    return this.#one((one) => one.patch(this.name, key, patch), options, key);
  }

  delete(key, options) {
    return this.#one((one) => one.delete(this.name, key), options, key);
  }

  revert(key, to, options) {
    return this.#one((one) => one.revert(this.name, key, to), options, key);
  }

  async get(key, options) {
    const [row] = await this.getMany([key], options);
    return row;
  }

  async getMany(keys, { asOf, ...options } = {}) {
    const limit = this.#session.limit(options);
    let remaining = [...keys].map(keyToWire);
    let request = { table: this.name, asOf: asOfToWire(asOf), freshness: this.#session.freshness() };
    const rows = [];
    while (remaining.length) {
      const asked = { ...request, keys: remaining.slice(0, KEYS) };
      const answer = await this.#session.read((reader) => reader.unary("ReaderService/Get", asked, limit), limit);
      rows.push(...answer.rows.map(rowOf));
      remaining = [...answer.remaining, ...remaining.slice(KEYS)];
      const header = this.#session.readAt(answer.header);
      // The rest at the point in time of the first answer.
      request = { ...request, asOf: asOfToWire(header.readSeq), freshness: this.#session.freshness(header) };
    }
    return rows;
  }

  select(where = "", params = [], options = {}) {
    const { limit = 0, offset = 0, orderBy = "", fields = [], deleted = false } = options;
    return new Rows(this.#session, { ...this.#select(where, params, options), limit, offset, orderBy, fields, deleted }, options);
  }

  count(where = "", params = [], options = {}) {
    return new Rows(this.#session, { ...this.#select(where, params, options), countOnly: true }, options).count();
  }

  history(key, options = {}) {
    const { start, end, where = "", params, actor = "", before = false, after = false, newestFirst = false, limit = 0 } = options;
    const bound = bind(where, params);
    const request = {
      table: this.name,
      key: key === undefined || key === null ? "" : someKey(key),
      start: asOfToWire(start),
      end: asOfToWire(end),
      where: bound.text,
      params: bound.params,
      actor,
      withBefore: before,
      withAfter: after,
      newestFirst,
      limit,
      timeZone: this.#session.address.timeZone,
    };
    const joiner = new CommitJoiner();
    const commits = (message) => message.commits.map((part) => joiner.join(part)).filter(Boolean).map(commitOf);
    return new Results(this.#session, "ReaderService/History", request, commits, options);
  }

  diff(start, end, { keys = [], addedIfMissing = false, ...options } = {}) {
    const points = { start: asOfToWire(start), end: asOfToWire(end) };
    const request = { table: this.name, ...points, keys: keys.map(someKey), addedIfMissing };
    return new Results(this.#session, "ReaderService/Diff", request, ({ rows }) => rows.map(diffOf), options);
  }

  async describe({ asOf, ...options } = {}) {
    const limit = this.#session.limit(options);
    const request = { table: this.name, asOf: asOfToWire(asOf), freshness: this.#session.freshness() };
    const answer = await this.#session.read((reader) => reader.unary("ReaderService/DescribeTable", request, limit), limit);
    this.#session.readAt(answer.header);
    return tableOf(answer.table);
  }

  watch(options = {}) {
    return new Watch(this.#session, watchRequest([this.name], options, this.#session.address.timeZone), options);
  }

  async ingest(rows, { action = "insert", producer = "", batch = 500, atomic = false, ...limit } = {}) {
    this.#session.limit(limit);
    const batches = batchesOf(this.name, rows, action, batch);
    return new Ingest(this.#session, batches, { producer, batch, atomic, ...limit }).run();
  }

  async #one(build, { ifSeq, ...options } = {}, key = undefined) {
    const operations = new Operations();
    build(operations);
    if (ifSeq !== undefined) operations.ifSeq(this.name, key, ifSeq);
    return operations.send(this.#session, options);
  }

  #select(where, params, { asOf }) {
    const bound = bind(where, params);
    const { timeZone } = this.#session.address;
    return { table: this.name, where: bound.text, params: bound.params, asOf: asOfToWire(asOf), timeZone };
  }
}

function keyTypeToWire(name) {
  if (!(name in KEY_TYPES)) throw new errors.ARGUMENT_INVALID(`the type of a key is STRING or INT; got ${name}`);
  return KEY_TYPES[name];
}

function keyColumn(column) {
  const [field, type = "STRING"] = typeof column === "string" ? [column] : column;
  return { field, type: keyTypeToWire(type) };
}
