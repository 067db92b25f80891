"""Random commits on a table of orders, and the expected rows and changes, to compare streams with."""

import collections
import json
import random

from driftdb.v1 import types_pb2, writer_pb2

STATUSES = ["pending", "paid", "shipped"]
KINDS = {
    types_pb2.CHANGE_KIND_INSERT: "insert",
    types_pb2.CHANGE_KIND_PATCH: "patch",
    types_pb2.CHANGE_KIND_SOFT_DELETE: "soft_delete",
}

# One change of a row: the documents before and after it; None means no row.
Change = collections.namedtuple("Change", "key kind before after")


def document(value):
    return types_pb2.Document(json=json.dumps(value))


def value(document):
    return json.loads(document.json)


def create():
    return writer_pb2.CreateTableRequest(table="orders", primary_key="id")


class Model:
    """The rows, and every commit: [(seq, [Change, …]), …]."""

    def __init__(self, seed, keys=50):
        self.random = random.Random(seed)
        self.keys = [f"o{number:03}" for number in range(keys)]
        self.rows = {}
        self.commits = []
        self.pending = []

    def fill(self, rows, padding):
        """The next commit: many new rows."""
        self.pending, operations = [], []
        for number in range(rows):
            order = {"id": f"x{number:05}", "status": "pending", "padding": "x" * padding}
            operations.append(writer_pb2.Operation(table="orders", insert=document(order)))
            self.pending.append(Change(order["id"], "insert", None, order))
        return writer_pb2.ApplyRequest(operations=operations)

    def next(self):
        """The next commit: one to three changes."""
        self.pending, operations = [], []
        for key in self.random.sample(self.keys, self.random.randint(1, 3)):
            operation, change = self.change(key)
            operations.append(operation)
            self.pending.append(change)
        return writer_pb2.ApplyRequest(operations=operations)

    def change(self, key):
        before = self.rows.get(key)
        status, number = self.random.choice(STATUSES), len(self.commits)
        did = self.random.choice(["put", "patch", "soft_delete"]) if before else "put"
        if did == "put":
            after = {"id": key, "status": status, "number": number}
            return (
                writer_pb2.Operation(table="orders", put=document(after)),
                Change(key, "insert", before, after),
            )
        if did == "patch":
            patch = {"status": status, "number": number}
            return (
                writer_pb2.Operation(table="orders", key=key, patch=document(patch)),
                Change(key, "patch", before, before | patch),
            )
        delete = writer_pb2.Operation.SoftDelete()
        return (
            writer_pb2.Operation(table="orders", key=key, soft_delete=delete),
            Change(key, "soft_delete", before, None),
        )

    def applied(self, token):
        """Records that the last commit was acknowledged."""
        self.commits.append((token.seq, self.pending))
        materialise(self.rows, self.pending)

    def matching(self, passes, after_seq=0):
        """The commits with their matching changes. Leaves out commits without any."""
        filtered = ((seq, [change for change in changes if passes(change)]) for seq, changes in self.commits)
        return [(seq, changes) for seq, changes in filtered if changes and seq > after_seq]


def materialise(rows, changes):
    for change in changes:
        if change.after is None:
            rows.pop(change.key, None)
        else:
            rows[change.key] = change.after


def changes_of(commit):
    """The changes of a commit from a stream, in the form of the model."""
    image = lambda change, name: value(getattr(change, name)) if change.HasField(name) else None
    return [
        Change(change.key, KINDS[change.kind], image(change, "before"), image(change, "after"))
        for change in commit.changes
        if change.kind != types_pb2.CHANGE_KIND_SCHEMA
    ]
