"""DriftDB from Python: places an order, pays it, and reads it as it is now and as it was."""

import json
import os
import uuid

import grpc
from driftdb.v1 import reader_pb2, reader_pb2_grpc, types_pb2, writer_pb2, writer_pb2_grpc

writer = writer_pb2_grpc.WriterServiceStub(
    grpc.insecure_channel(os.environ.get("DRIFTDB_WRITER", "127.0.0.1:7401"))
)
reader = reader_pb2_grpc.ReaderServiceStub(
    grpc.insecure_channel(os.environ.get("DRIFTDB_READER", "127.0.0.1:7402"))
)


def apply(*operations):
    """Writes one atomic commit. The request id makes it safe to send the same request again."""
    options = writer_pb2.CommitOptions(request_id=str(uuid.uuid4()))
    return writer.Apply(writer_pb2.ApplyRequest(operations=operations, options=options)).token


def document(value):
    return types_pb2.Document(json=json.dumps(value))


writer.CreateTable(writer_pb2.CreateTableRequest(table="orders", primary_key="id", if_not_exists=True))
order = {"id": "o1", "status": "pending", "amount": 100}
placed = apply(writer_pb2.Operation(table="orders", put=document(order)))
paid = apply(writer_pb2.Operation(table="orders", key="o1", patch=document({"status": "paid"})))

# The reader waits until it has the write.
fresh = types_pb2.Freshness(min_seq=paid.seq, epoch=paid.epoch, incarnation=paid.incarnation)
now = reader.Get(reader_pb2.GetRequest(table="orders", keys=["o1"], freshness=fresh))
print("now:", now.rows[0].document.json)
then = reader.Get(reader_pb2.GetRequest(table="orders", keys=["o1"], as_of=types_pb2.AsOf(seq=placed.seq)))
print("then:", then.rows[0].document.json)

where = "status = $1 AND amount >= 100"
request = reader_pb2.SelectRequest(table="orders", where=where, params=[json.dumps("paid")], freshness=fresh)
for message in reader.Select(request):
    for row in message.rows:
        print("paid:", row.key)
