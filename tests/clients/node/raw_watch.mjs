// A watch with stubs, as a program in another language would have one: it uses the next reader if one fails.

import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import protobuf from "protobufjs";
import { plain, ReaderService } from "./stubs.mjs";

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
    const reader = new ReaderService(readers[attempt % readers.length], plain, options);
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
