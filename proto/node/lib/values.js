// Documents, keys, points in time and results, as the API takes and gives them.

import { DriftError, errors } from "./errors.js";
import { parseJson, toJson } from "./json.js";

const KINDS = {
  CHANGE_KIND_INSERT: "insert",
  CHANGE_KIND_PATCH: "patch",
  CHANGE_KIND_SOFT_DELETE: "delete",
  CHANGE_KIND_SCHEMA: "schema",
};
const KEY_TYPES = { KEY_TYPE_INT: "INT", KEY_TYPE_COMPOSITE: "COMPOSITE" };
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

export function documentToWire(value) {
  if (!isObject(value)) throw new errors.DOCUMENT_INVALID("a document is an object");
  return { json: toJson(value) };
}

const documentOf = (message) => (message ? parseJson(message.json) : undefined);
export const resultOf = documentOf;

/** The text of a key: of an INT key its digits, of a composite key a JSON array or object. */
export function keyToWire(key) {
  if (typeof key === "string") return key;
  if (typeof key === "bigint" || Number.isSafeInteger(key)) return key.toString();
  if (key !== null && typeof key === "object") return toJson(key);
  throw new errors.KEY_INVALID(`a key is text, a whole number, or of a composite key an array or an object; got ${typeof key}`);
}

/** The same, where an empty text would mean every row. No row has an empty key. */
export function someKey(key) {
  const text = keyToWire(key);
  if (!text) throw new errors.KEY_INVALID("the key is empty; give none for all rows");
  return text;
}

/** A 64-bit number in a request. */
export function seqToWire(seq) {
  if (typeof seq === "bigint" ? seq >= 0n && seq < 1n << 64n : Number.isSafeInteger(seq) && seq >= 0) return seq.toString();
  throw new errors.ARGUMENT_INVALID(`a seq is a bigint from 0 to 2^64 - 1; got ${String(seq)}`);
}

/** A point in time: a seq, a Date, { ago: milliseconds }, or anything with a seq, such as a receipt or a row. */
export function asOfToWire(point) {
  if (point === undefined || point === null) return undefined;
  if (point instanceof Date) return { time: timeToWire(point) };
  if (typeof point === "bigint" || typeof point === "number") return { seq: seqToWire(point) };
  if (typeof point === "object" && point.seq !== undefined) return { seq: seqToWire(point.seq) };
  if (typeof point === "object" && point.ago !== undefined) return { ago: durationToWire(point.ago) };
  throw new errors.ARGUMENT_INVALID("a point in time is a seq, a Date, { ago: milliseconds } or a receipt");
}

export function timeToWire(date) {
  const millis = date.getTime();
  if (Number.isNaN(millis)) throw new errors.ARGUMENT_INVALID("not a valid Date");
  const seconds = Math.floor(millis / 1000);
  return { seconds, nanos: (millis - seconds * 1000) * 1e6 };
}

export function durationToWire(millis) {
  if (!(millis >= 0)) throw new errors.ARGUMENT_INVALID(`a time span must not be negative; got ${millis}`);
  const seconds = Math.floor(millis / 1000);
  return { seconds, nanos: Math.round((millis - seconds * 1000) * 1e6) };
}

const timeOf = (stamp) => (stamp ? new Date(Number(stamp.seconds) * 1000 + stamp.nanos / 1e6) : undefined);

export const tokenOf = ({ seq, time, epoch, incarnation }) => ({
  seq: BigInt(seq),
  time: timeOf(time),
  epoch: BigInt(epoch),
  incarnation: BigInt(incarnation),
});

export const headerOf = (header) => ({
  readSeq: BigInt(header.readSeq),
  readTime: timeOf(header.readTime),
  appliedSeq: BigInt(header.appliedSeq),
  floorSeq: BigInt(header.floorSeq),
  databaseId: header.databaseId,
  epoch: BigInt(header.epoch),
  incarnation: BigInt(header.incarnation),
  notes: header.notes,
});

export const rowOf = ({ key, seq, time, document }) => ({
  key,
  seq: BigInt(seq),
  time: timeOf(time),
  document: documentOf(document),
});

function changeOf(change, { seq, time, actor, reason, principal }) {
  const { table, key, kind, replaced, reverted } = change;
  const [payload, before, after] = [change.payload, change.before, change.after].map(documentOf);
  return { table, key, kind: KINDS[kind], payload, before, after, seq, time, actor, reason, principal, replaced, reverted };
}

export function commitOf(message) {
  const { actor, reason, principal } = message;
  const commit = { seq: BigInt(message.seq), time: timeOf(message.time), actor, reason, principal };
  return { ...commit, changes: message.changes.map((change) => changeOf(change, commit)) };
}

/** A row as it was when a watch with initial rows began, as a change. */
export function initialOf(table, row) {
  const { key, seq, time, document } = rowOf(row);
  const unset = { actor: "", reason: "", principal: "", replaced: false, reverted: false };
  return { table, key, kind: "initial", payload: document, before: undefined, after: document, seq, time, ...unset };
}

export const diffOf = ({ key, before, after, jsonPatch, jsonPatchOmitted }) => ({
  key,
  before: documentOf(before),
  after: documentOf(after),
  patch: jsonPatch ? parseJson(jsonPatch) : undefined,
  patchOmitted: jsonPatchOmitted,
});

export const tableOf = (info) => ({
  name: info.table,
  primaryKey: info.primaryKey,
  keyType: KEY_TYPES[info.keyType] ?? "STRING",
  indexes: [...info.indexes.map((path) => [path]), ...info.compositeIndexes.map(({ paths }) => paths)],
  rows: BigInt(info.rows),
  createdSeq: BigInt(info.createdSeq),
  lastSeq: BigInt(info.lastSeq),
  floorSeq: BigInt(info.floorSeq),
  autoKey: info.autoKey,
  problem: info.problem,
});

/** Puts the parts of large commits together. */
export class CommitJoiner {
  #parts;

  /** The whole commit; undefined if this was not its last part. */
  join(part) {
    if (this.#parts?.seq === part.seq) {
      this.#parts.changes.push(...part.changes);
      this.#parts.more = part.more;
    } else if (this.#parts) {
      throw internal(`the daemon sent commit ${part.seq} before the end of commit ${this.#parts.seq}; this is a defect of the daemon`);
    } else this.#parts = part;
    if (this.#parts.more) return undefined;
    const whole = this.#parts;
    this.#parts = undefined;
    return whole;
  }
}

export const internal = (message) => new DriftError(message, { code: "INTERNAL" });
