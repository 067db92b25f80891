// DriftDB from Node: places an order, pays it, and reads it as it is now and as it was.

import { randomUUID } from "node:crypto";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const files = ["driftdb/v1/writer.proto", "driftdb/v1/reader.proto"];
const definition = loadSync(files, { includeDirs: ["proto"], longs: String, enums: String, arrays: true });
const { WriterService, ReaderService } = grpc.loadPackageDefinition(definition).driftdb.v1;
const plain = grpc.credentials.createInsecure();
const writer = new WriterService(process.env.DRIFTDB_WRITER ?? "127.0.0.1:7401", plain);
const reader = new ReaderService(process.env.DRIFTDB_READER ?? "127.0.0.1:7402", plain);

const call = (client, method, request) =>
  new Promise((resolve, reject) => client[method](request, (error, answer) => (error ? reject(error) : resolve(answer))));
// Writes one atomic commit. The request id makes it safe to send the same request again.
const apply = async (...operations) =>
  (await call(writer, "apply", { operations, options: { requestId: randomUUID() } })).token;
const document = (value) => ({ json: JSON.stringify(value) });

await call(writer, "createTable", { table: "orders", primaryKey: "id", ifNotExists: true });
const order = { id: "o1", status: "pending", amount: 100 };
const placed = await apply({ table: "orders", put: document(order) });
const paid = await apply({ table: "orders", key: "o1", patch: document({ status: "paid" }) });

// The reader waits until it has the write.
const freshness = { minSeq: paid.seq, epoch: paid.epoch, incarnation: paid.incarnation };
const now = await call(reader, "get", { table: "orders", keys: ["o1"], freshness });
console.log("now:", now.rows[0].document.json);
const then = await call(reader, "get", { table: "orders", keys: ["o1"], asOf: { seq: placed.seq } });
console.log("then:", then.rows[0].document.json);

const where = "status = $1 AND amount >= 100";
const select = { table: "orders", where, params: [JSON.stringify("paid")], freshness };
for await (const message of reader.select(select)) {
  for (const row of message.rows) console.log("paid:", row.key);
}
writer.close();
reader.close();
