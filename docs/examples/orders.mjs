// DriftDB from Node: places an order, pays it, and reads it as it is now and as it was.

import { connect } from "driftdb";

const { DRIFTDB_WRITER: writer = "127.0.0.1:7401", DRIFTDB_READER: reader = "127.0.0.1:7402" } = process.env;
const db = connect(`driftdb://${writer},${reader}`);

const orders = await db.createTable("orders", { ifNotExists: true });
const placed = await orders.put({ id: "o1", status: "pending", amount: 100 });
await orders.patch("o1", { status: "paid" });

// The reader waits until it has this client's writes.
const [now, then] = [await orders.get("o1"), await orders.get("o1", { asOf: placed })];
console.log("now:", JSON.stringify(now.document));
console.log("then:", JSON.stringify(then.document));
for await (const row of orders.select("status = $status AND amount >= 100", { status: "paid" })) {
  console.log("paid:", row.key);
}
db.close();
