import { connect } from "driftdb";

const db = connect("driftdb://127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403");
const orders = await db.createTable("orders", { ifNotExists: true });
const placed = await orders.put({ id: "o1", status: "pending", amount: 100 });
await orders.patch("o1", { status: "paid" });
console.log((await orders.get("o1")).document, "was", (await orders.get("o1", { asOf: placed })).document);

for await (const change of orders.watch({ where: "amount >= $1", params: [50], afterSeq: 1n })) {
  console.log(`${change.seq} ${change.kind} ${change.key}`, change.after); // kill a reader: it continues at the other
}
