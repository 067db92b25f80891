// DriftDB for Node: an append-only document database with time travel. index.d.ts is the reference.

export { connect, Database, Table } from "./lib/database.js";
export { Operations } from "./lib/commit.js";
export { ClientClosed, ConnectionLost, DriftError, errors } from "./lib/errors.js";
export { parseJson, toJson } from "./lib/json.js";
export { Query, Results, Rows } from "./lib/results.js";
export { Watch } from "./lib/watch.js";
