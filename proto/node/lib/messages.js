// The messages of the API, from the descriptor set in this package.

import { readFileSync } from "node:fs";
import { loadFileDescriptorSetFromObject } from "@grpc/proto-loader";
import protobuf from "protobufjs";
import descriptor from "protobufjs/ext/descriptor/index.js";

const set = descriptor.FileDescriptorSet.decode(readFileSync(new URL("../driftdb.v1.bin", import.meta.url)));
// The loader spells the fields of .proto files in camelCase, but not those of a descriptor set.
function rename(message) {
  for (const field of message.field) field.name = field.name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
  message.nestedType.forEach(rename);
}
for (const file of set.file) file.messageType.forEach(rename);
const loaded = loadFileDescriptorSetFromObject(set, { longs: String, enums: String, defaults: true, arrays: true, oneofs: true });

/** The calls, such as "ReaderService/Get": path, requestSerialize, responseDeserialize. */
export const methods = Object.fromEntries(
  ["WriterService", "ReaderService"].flatMap((service) =>
    Object.entries(loaded[`driftdb.v1.${service}`]).map(([name, method]) => [`${service}/${name}`, method]),
  ),
);

/** Decodes details of driftdb.v1 in errors. */
export const decodeQueryError = (bytes) => loaded["driftdb.v1.QueryError"].deserialize(bytes);

/** The error details of gRPC that daemons send. */
export const status = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message Violation { string type = 1; string subject = 2; string description = 3; }
  message PreconditionFailure { repeated Violation violations = 1; }`).root;
