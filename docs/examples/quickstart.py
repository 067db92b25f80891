import driftdb

db = driftdb.connect("driftdb://127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403")
orders = db.create_table("orders", if_not_exists=True)
placed = orders.put({"id": "o1", "status": "pending", "amount": 100})
orders.patch("o1", {"status": "paid"})
print(orders.get("o1")["status"], "now,", orders.get("o1", as_of=placed)["status"], "before")

for change in orders.watch("amount >= $1", 50, after_seq=1):  # kill a reader: it continues at the other
    print(change.seq, change.kind, change.key, change.after)
