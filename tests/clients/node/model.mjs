// Random commits on a table of parcels, and the expected rows and changes, to compare streams with.

const STATUSES = ["packed", "sent", "there"];
const KINDS = { CHANGE_KIND_INSERT: "insert", CHANGE_KIND_PATCH: "patch", CHANGE_KIND_SOFT_DELETE: "softDelete" };

export const document = (value) => ({ json: JSON.stringify(value) });
export const value = (document) => (document ? JSON.parse(document.json) : null);

export class Model {
  rows = new Map();
  // Every commit: [[seq, [{ key, kind, before, after }, …]], …].
  commits = [];
  pending = [];

  // The same numbers each time, so that a failure can be repeated.
  constructor(seed) {
    this.state = seed;
  }

  random(below) {
    this.state = (Math.imul(this.state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.state / 2 ** 32) * below);
  }

  // The next commit: many new rows.
  fill(rows, padding) {
    const keys = Array.from({ length: rows }, (_, number) => `x${String(number).padStart(5, "0")}`);
    const parcels = keys.map((id) => ({ id, status: "packed", padding: "x".repeat(padding) }));
    this.pending = parcels.map((after) => ({ key: after.id, kind: "insert", before: null, after }));
    return { operations: parcels.map((parcel) => ({ table: "parcels", insert: document(parcel) })) };
  }

  // The next commit: one to three changes.
  next() {
    const keys = new Set(Array.from({ length: 1 + this.random(3) }, () => `p${String(this.random(50)).padStart(3, "0")}`));
    const made = [...keys].map((key) => this.change(key));
    this.pending = made.map(([, change]) => change);
    return { operations: made.map(([operation]) => operation) };
  }

  change(key) {
    const before = this.rows.get(key) ?? null;
    const fields = { status: STATUSES[this.random(3)], number: this.commits.length };
    const kind = before ? ["insert", "patch", "softDelete"][this.random(3)] : "insert";
    if (kind === "softDelete") return [{ table: "parcels", key, softDelete: {} }, { key, kind, before, after: null }];
    if (kind === "patch") {
      const after = { ...before, ...fields };
      return [{ table: "parcels", key, patch: document(fields) }, { key, kind, before, after }];
    }
    const after = { id: key, ...fields };
    return [{ table: "parcels", put: document(after) }, { key, kind, before, after }];
  }

  // Records that the last commit was acknowledged.
  applied({ seq }) {
    this.commits.push([Number(seq), this.pending]);
    materialise(this.rows, this.pending);
  }

  last() {
    return this.commits.at(-1)[0];
  }

  // The commits with their matching changes. Leaves out commits without any.
  matching(passes, afterSeq = 0) {
    const filtered = this.commits.map(([seq, changes]) => [seq, changes.filter(passes)]);
    return filtered.filter(([seq, changes]) => changes.length > 0 && seq > afterSeq);
  }
}

export function materialise(rows, changes) {
  for (const { key, after } of changes) {
    if (after) rows.set(key, after);
    else rows.delete(key);
  }
}

// The commit of a message in the form of the model, if it changes rows.
export function commitsOf({ commit }) {
  const rows = (commit?.changes ?? []).filter((change) => change.kind !== "CHANGE_KIND_SCHEMA");
  const changes = rows.map(({ key, kind, before, after }) => {
    return { key, kind: KINDS[kind], before: value(before), after: value(after) };
  });
  return changes.length > 0 ? [[Number(commit.seq), changes]] : [];
}
