"""DriftDB from Python: keeps a copy of a table up to date, and uses the next reader if one fails."""

import os

import driftdb

writer = os.environ.get("DRIFTDB_WRITER", "127.0.0.1:7401")
readers = os.environ.get("DRIFTDB_READER", "127.0.0.1:7402")
db = driftdb.connect(f"driftdb://{writer},{readers}")


def follow(orders):
    """Applies everything that happens to the copy."""
    for event in db.table("orders").watch(initial_rows=True).events():
        for change in event.changes:
            if change.kind is driftdb.Kind.SCHEMA:
                if change.payload["action"] == "drop":
                    orders.clear()
            elif change.after is not None:
                orders[change.key] = change.after
            else:
                orders.pop(change.key, None)
        if event.kind in ("commit", "rows_done"):
            seq = event.commit.seq if event.commit else event.header.read_seq
            print(f"as of commit {seq}: {len(orders)} orders", flush=True)


while True:
    try:
        follow({})
    except (driftdb.BelowFloor, driftdb.EpochChanged):
        # The commits that come next were compacted, or the database was restored: start over.
        db.forget()
