"""DriftDB from Python: places an order, pays it, and reads it as it is now and as it was."""

import json
import os

import driftdb

writer = os.environ.get("DRIFTDB_WRITER", "127.0.0.1:7401")
reader = os.environ.get("DRIFTDB_READER", "127.0.0.1:7402")
db = driftdb.connect(f"driftdb://{writer},{reader}")

orders = db.create_table("orders", if_not_exists=True)
placed = orders.put({"id": "o1", "status": "pending", "amount": 100})
orders.patch("o1", {"status": "paid"})


def text(row):
    return json.dumps(row.document, separators=(",", ":"))


# The reader waits until it has this client's writes.
print("now:", text(orders.get("o1")))
print("then:", text(orders.get("o1", as_of=placed)))
for row in orders.select("status = $status AND amount >= 100", status="paid"):
    print("paid:", row.key)
