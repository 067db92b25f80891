// DriftDB from Node: keeps a copy of a table up to date, and uses the next reader if one fails.

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";

const load = { includeDirs: ["proto"], longs: String, enums: String, arrays: true };
const { ReaderService } = grpc.loadPackageDefinition(loadSync("driftdb/v1/reader.proto", load)).driftdb.v1;
// A stream can be silent for a long time. Pings detect a connection that broke without an error.
const options = { "grpc.keepalive_time_ms": 20_000, "grpc.keepalive_timeout_ms": 20_000 };

const { root } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; }`);

export function reasonOf(error) {
  const [encoded] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = encoded ? root.lookupType("Status").decode(encoded).details : [];
  const info = details.find((detail) => detail.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  return info && root.lookupType("ErrorInfo").decode(info.value).reason;
}

// Yields each message once and in order, and each commit whole. If a reader fails, continues at the next one.
// Yields `opened` at the start, and again if everything received so far is no longer valid.
export async function* watch(readers, request) {
  for (let attempt = 0; ; attempt++) {
    const reader = new ReaderService(readers[attempt % readers.length], grpc.credentials.createInsecure(), options);
    const stream = reader.watchDrift(request);
    const resumed = Boolean(request.resumeToken);
    try {
      let changes = []; // a large commit comes in parts; all but the last have `more`
      for await (const message of stream) {
        if (message.commit) message.commit.changes = changes = [...changes, ...message.commit.changes];
        if (message.commit?.more) continue;
        changes = [];
        const { afterSeq, afterTime, ...filter } = request;
        request = { ...filter, resumeToken: message.resumeToken };
        if (!(resumed && message.opened)) yield message;
      }
      return; // untilSeq was reached
    } catch (error) {
      if (["EPOCH_CHANGED", "BELOW_FLOOR"].includes(reasonOf(error))) {
        const { afterSeq, afterTime, resumeToken, epoch, incarnation, ...filter } = request;
        request = { ...filter, initialRows: true };
      } else if (error.code !== grpc.status.UNAVAILABLE) throw error;
    } finally {
      stream.cancel();
      reader.close();
    }
    await sleep(200);
  }
}

async function main() {
  const readers = (process.env.DRIFTDB_READER ?? "127.0.0.1:7402").split(",");
  const orders = new Map();
  for await (const message of watch(readers, { tables: ["orders"], initialRows: true, withAfter: true })) {
    if (message.opened) orders.clear();
    for (const row of message.rows?.rows ?? []) orders.set(row.key, JSON.parse(row.document.json));
    for (const change of message.commit?.changes ?? []) {
      if (change.kind === "CHANGE_KIND_SCHEMA") {
        if (JSON.parse(change.payload.json).action === "drop") orders.clear();
      } else if (change.after) orders.set(change.key, JSON.parse(change.after.json));
      else orders.delete(change.key);
    }
    const seq = message.commit?.seq ?? message.rowsDone?.readSeq;
    if (seq) console.log(`as of commit ${seq}: ${orders.size} orders`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
