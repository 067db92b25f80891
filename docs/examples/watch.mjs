// DriftDB from Node: keeps a copy of a table up to date, and uses the next reader if one fails.

import { connect, errors } from "driftdb";

const { DRIFTDB_WRITER: writer = "127.0.0.1:7401", DRIFTDB_READER: readers = "127.0.0.1:7402" } = process.env;
const db = connect(`driftdb://${writer},${readers}`);

// Applies everything that happens to the copy.
async function follow(orders) {
  for await (const event of db.table("orders").watch({ initialRows: true }).events()) {
    for (const { kind, key, payload, after } of event.changes ?? []) {
      if (kind === "schema") {
        if (payload.action === "drop") orders.clear();
      } else if (after) orders.set(key, after);
      else orders.delete(key);
    }
    const seq = event.commit?.seq ?? (event.kind === "rowsDone" ? event.header.readSeq : undefined);
    if (seq) console.log(`as of commit ${seq}: ${orders.size} orders`);
  }
}

for (;;) {
  try {
    await follow(new Map());
  } catch (error) {
    // The commits that come next were compacted, or the database was restored: start over.
    if (!(error instanceof errors.BELOW_FLOOR || error instanceof errors.EPOCH_CHANGED)) throw error;
    db.forget();
  }
}
