// Programs that index.d.ts must accept, and mistakes that it must refuse. run.sh compiles this and does not run it.

import {
  connect,
  errors,
  parseJson,
  toJson,
  type Change,
  type Commit,
  type Database,
  DriftError,
  type Receipt,
  type Row,
  type RowDiff,
  type WatchEvent,
} from "driftdb";

export async function reads(db: Database): Promise<void> {
  const orders = await db.createTable("orders", {
    primaryKey: ["shop", ["number", "INT"]],
    indexes: ["status", ["status", "amount"]],
    ifNotExists: true,
    reason: "setup",
  });
  const placed: Receipt = await orders.put({ id: "o1", amount: 100n });
  const found: Row | undefined = await orders.get({ shop: "a", number: 1 }, { asOf: placed });
  const seq: bigint | undefined = found?.seq;
  const rows: Row[] = await orders.select("amount > $1", [10], { orderBy: "amount DESC", limit: 5 }).all();
  const count: bigint = await orders.count("status = $status", { status: "paid" });
  for await (const commit of orders.history("o1", { start: { ago: 1000 }, before: true })) {
    const made: Commit = commit;
    console.log(made.changes.length, seq, rows.length, count);
  }
  for await (const diff of orders.diff(1n, new Date())) {
    const of: RowDiff = diff;
    console.log(of.patch);
  }
  const query = db.query("SELECT status, COUNT(*) FROM orders GROUP BY status");
  console.log(await query.header(), query.columns, (await db.execute("SNAPSHOT orders")).messages);
}

export async function writes(db: Database): Promise<void> {
  const receipt = await db.commit(
    (commit) => {
      commit.insert("orders", { id: "o2" });
      commit.ifSeq("orders", "o1", 7n);
      commit.ifNoChange("orders", "amount > $1", 7, [10]);
    },
    { requestId: "r1", actor: "test", signal: AbortSignal.timeout(1000) },
  );
  db.include(receipt.token);
  const loaded = await db.table("orders").ingest([{ id: "o3" }], { producer: "p", batch: 10, atomic: true });
  console.log(loaded.refused.map((one) => one.reason), toJson(parseJson("1")));
}

export async function watches(db: Database, stored: Uint8Array | undefined): Promise<void> {
  const watch = db.table("orders").watch({ where: "amount >= $1", params: [50], token: stored });
  for await (const change of watch) {
    const one: Change = change;
    console.log(one.kind, watch.token);
  }
  for await (const event of db.watch(["orders"], { afterSeq: 0n }).events()) describe(event);
}

function describe(event: WatchEvent): string {
  switch (event.kind) {
    case "commit":
      return String(event.commit.seq);
    case "rows":
      return String(event.changes.length);
    case "interrupted":
      return event.error.message;
    default:
      return String(event.header.readSeq);
  }
}

export function failures(error: unknown): string {
  if (error instanceof errors.ROW_EXISTS && error instanceof DriftError) return error.metadata["key"] ?? error.reason;
  return "";
}

export async function mistakes(db: Database): Promise<void> {
  // @ts-expect-error An option that does not exist.
  connect("driftdb://localhost", { retries: 3 });
  // @ts-expect-error A reason that does not exist.
  console.log(errors.ROW_GONE);
  const orders = db.table("orders");
  // @ts-expect-error A promise that nobody waits for is no row.
  console.log(orders.get("o1").document);
  // @ts-expect-error A row can be missing.
  console.log((await orders.get("o1")).document);
  // @ts-expect-error A text is no document.
  await orders.put("o1");
  // @ts-expect-error A seq is a bigint.
  const seq: number = (await orders.put({ id: "o1" })).seq;
  // @ts-expect-error Events are told apart before their fields are read.
  for await (const event of orders.watch().events()) console.log(event.commit.seq, seq);
}
