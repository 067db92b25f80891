// The stubs that gRPC's own library makes of the proto files, as the programs here use them.

import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const files = ["driftdb/v1/writer.proto", "driftdb/v1/reader.proto"];
const definition = loadSync(files, { includeDirs: ["proto"], longs: String, enums: String, arrays: true });
export const { WriterService, ReaderService } = grpc.loadPackageDefinition(definition).driftdb.v1;
export const plain = grpc.credentials.createInsecure();

/** A call with one answer. */
export const call = (client, method, request) =>
  new Promise((resolve, reject) => client[method](request, (error, answer) => (error ? reject(error) : resolve(answer))));
