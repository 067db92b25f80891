// DriftDB from Node: write, read back, read earlier states, and handle errors.
//
// Run by run.sh, which starts the daemons. Every step checks its answers.

import assert from "node:assert/strict";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";

const files = ["driftdb/v1/writer.proto", "driftdb/v1/reader.proto"];
const definition = loadSync(files, { includeDirs: ["proto"], longs: String, enums: String, arrays: true });
const { WriterService, ReaderService } = grpc.loadPackageDefinition(definition).driftdb.v1;
const plain = grpc.credentials.createInsecure();
const writer = new WriterService(process.env.DRIFTDB_WRITER, plain);
const reader = new ReaderService(process.env.DRIFTDB_READER, plain);

const call = (client, method, request) =>
  new Promise((resolve, reject) => client[method](request, (error, answer) => (error ? reject(error) : resolve(answer))));
const document = (value) => ({ json: JSON.stringify(value) });
const value = (document) => JSON.parse(document.json);
const fresh = ({ seq, epoch }) => ({ minSeq: seq, epoch });

// The reason of a failed call, from google.rpc.ErrorInfo in the status details.
const { root } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }`);

function reasonOf(error) {
  const [encoded] = error.metadata.get("grpc-status-details-bin");
  const { details } = root.lookupType("Status").decode(encoded);
  const info = details.find((detail) => detail.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  const { reason, domain } = root.lookupType("ErrorInfo").decode(info.value);
  assert.equal(domain, "driftdb.v1");
  return reason;
}

async function expectError(code, reason, failing) {
  const error = await failing().then(() => assert.fail(`expected ${reason}`), (error) => error);
  assert.equal(grpc.status[error.code], code, error);
  assert.equal(reasonOf(error), reason);
  console.log(`  ${code} ${reason}: ${error.details}`);
}

async function rowsOf(request) {
  const rows = [];
  for await (const message of reader.select(request)) rows.push(...message.rows);
  return rows;
}

async function write() {
  await call(writer, "createTable", { table: "parcels", primaryKey: "id", indexes: ["status"] });
  const parcels = [
    { id: "p1", status: "packed", grams: 100 },
    { id: "p2", status: "packed", grams: 20.5 },
  ];
  // All operations of one Apply are one commit: every reader sees both parcels, or none.
  const operations = parcels.map((parcel) => ({ table: "parcels", insert: document(parcel) }));
  const packed = (await call(writer, "apply", { operations, options: { reason: "packed" } })).token;
  // The precondition refuses the patch if another client was faster.
  const patch = { table: "parcels", key: "p1", patch: document({ status: "sent" }) };
  const preconditions = [{ table: "parcels", key: "p1", seqIs: packed.seq }];
  const sent = (await call(writer, "apply", { operations: [patch], preconditions })).token;
  assert.equal(Number(sent.seq), Number(packed.seq) + 1);
  return { packed, sent };
}

async function read({ packed, sent }) {
  const status = async (asOf) => {
    const request = { table: "parcels", keys: ["p1"], asOf, freshness: fresh(sent) };
    return value((await call(reader, "get", request)).rows[0].document).status;
  };
  assert.equal(await status(), "sent");
  assert.equal(await status({ seq: packed.seq }), "packed");
  const where = "status = $1 AND grams > 50";
  const params = [JSON.stringify("packed")];
  const keys = async (asOf) => (await rowsOf({ table: "parcels", where, params, asOf })).map((row) => row.key);
  assert.deepEqual(await keys(), []);
  assert.deepEqual(await keys({ seq: packed.seq }), ["p1"]);
  const commits = [];
  for await (const message of reader.history({ table: "parcels", key: "p1" })) commits.push(...message.commits);
  assert.deepEqual(commits.map((commit) => commit.seq), [packed.seq, sent.seq]);
  assert.equal(commits[1].changes[0].kind, "CHANGE_KIND_PATCH");
  console.log(`  p1 is sent now, and was packed as of commit ${packed.seq}`);
}

async function errors({ packed }) {
  await expectError("NOT_FOUND", "TABLE_NOT_FOUND", () => call(reader, "get", { table: "parcel", keys: ["p1"] }));
  const insert = { table: "parcels", insert: document({ id: "p1" }) };
  await expectError("ALREADY_EXISTS", "ROW_EXISTS", () => call(writer, "apply", { operations: [insert] }));
  const patch = { table: "parcels", key: "p1", patch: document({ grams: 1 }) };
  const preconditions = [{ table: "parcels", key: "p1", seqIs: packed.seq }];
  const stale = { operations: [patch], preconditions };
  await expectError("FAILED_PRECONDITION", "PRECONDITION_FAILED", () => call(writer, "apply", stale));
  // Streams fail when they are read.
  await expectError("INVALID_ARGUMENT", "QUERY_SYNTAX", () => rowsOf({ table: "parcels", where: "status =" }));
}

const tokens = await write();
await read(tokens);
await errors(tokens);
writer.close();
reader.close();
console.log("node client: ok");
