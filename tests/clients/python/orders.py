#!/usr/bin/env python3
"""DriftDB from Python: write, read back, read earlier states, and handle errors.

Run by run.sh, which starts the daemons and generates the stubs from proto/. Every step checks what it got.
"""

import argparse
import json

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from driftdb.v1 import reader_pb2, reader_pb2_grpc, types_pb2, writer_pb2, writer_pb2_grpc


def document(value):
    return types_pb2.Document(json=json.dumps(value))


def value(document):
    return json.loads(document.json)


def freshness(token):
    """Makes a reader wait until it has applied a write: read your writes."""
    return types_pb2.Freshness(min_seq=token.seq, epoch=token.epoch)


def reason_of(error):
    """The reason of a failed call, from google.rpc.ErrorInfo in the status details."""
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "driftdb.v1", info
            return info.reason
    return None


def expect_error(code, reason, call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        assert reason_of(error) == reason, (reason_of(error), error.details())
        print(f"  {code.name} {reason}: {error.details()}")
    else:
        raise AssertionError(f"expected {reason}")


def write(writer):
    """Creates a table and makes three commits; returns the token of each."""
    writer.CreateTable(
        writer_pb2.CreateTableRequest(table="orders", primary_key="id", indexes=["status", "customer_id"])
    )
    orders = [
        {"id": "o1", "customer_id": "c1", "status": "pending", "amount": 100},
        {"id": "o2", "customer_id": "c2", "status": "pending", "amount": 20.5},
        {"id": "o3", "customer_id": "c1", "status": "shipped", "amount": 7},
    ]
    # All operations of one Apply are one commit: every reader sees all three orders, or none.
    inserted = writer.Apply(
        writer_pb2.ApplyRequest(
            operations=[writer_pb2.Operation(table="orders", insert=document(order)) for order in orders],
            options=writer_pb2.CommitOptions(reason="first orders"),
        )
    ).token
    # A patch contains only the changed fields. The precondition refuses it if another client was faster.
    paid = writer.Apply(
        writer_pb2.ApplyRequest(
            operations=[writer_pb2.Operation(table="orders", key="o1", patch=document({"status": "paid"}))],
            preconditions=[writer_pb2.Precondition(table="orders", key="o1", seq_is=inserted.seq)],
            options=writer_pb2.CommitOptions(reason="payment received"),
        )
    ).token
    deleted = writer.Apply(
        writer_pb2.ApplyRequest(
            operations=[
                writer_pb2.Operation(table="orders", key="o3", soft_delete=writer_pb2.Operation.SoftDelete())
            ]
        )
    ).token
    assert inserted.seq + 1 == paid.seq and paid.seq + 1 == deleted.seq
    return inserted, paid, deleted


def read(reader, inserted, paid, deleted):
    def order(**as_of):
        answer = reader.Get(
            reader_pb2.GetRequest(
                table="orders", keys=["o1"], as_of=types_pb2.AsOf(**as_of), freshness=freshness(deleted)
            )
        )
        assert answer.header.read_seq <= answer.header.applied_seq
        return value(answer.rows[0].document)

    assert order()["status"] == "paid"
    assert order(seq=inserted.seq)["status"] == "pending"
    assert order(seq=paid.seq)["status"] == "paid"
    # A time means the last commit at or before it. Several commits may share a millisecond.
    by_time = reader.Get(
        reader_pb2.GetRequest(table="orders", keys=["o1"], as_of=types_pb2.AsOf(time=inserted.time))
    )
    assert inserted.seq <= by_time.header.read_seq <= deleted.seq
    assert value(by_time.rows[0].document) == order(seq=by_time.header.read_seq)
    print(f"  o1 is paid now, and was pending as of commit {inserted.seq}")


def select(reader, inserted, deleted):
    def keys(where, params=(), **as_of):
        # A stream of batches: each message has about 256 KiB of rows.
        answer = reader.Select(
            reader_pb2.SelectRequest(
                table="orders",
                where=where,
                params=[json.dumps(param) for param in params],
                as_of=types_pb2.AsOf(**as_of),
                freshness=freshness(deleted),
            )
        )
        return [row.key for message in answer for row in message.rows]

    assert keys("") == ["o1", "o2"]
    assert keys("", seq=inserted.seq) == ["o1", "o2", "o3"]
    assert keys('status = "pending"') == ["o2"]
    assert keys("status = $1 AND amount > $2", ["pending", 50], seq=inserted.seq) == ["o1"]
    print("  selects, now and then")


def history(reader, inserted, paid, deleted):
    answer = reader.History(
        reader_pb2.HistoryRequest(table="orders", key="o1", with_after=True, freshness=freshness(deleted))
    )
    commits = [commit for message in answer for commit in message.commits]
    assert [commit.seq for commit in commits] == [inserted.seq, paid.seq]
    assert [commit.reason for commit in commits] == ["first orders", "payment received"]
    last = commits[-1].changes[0]
    assert last.kind == types_pb2.CHANGE_KIND_PATCH
    assert value(last.payload) == {"status": "paid"}
    assert value(last.after)["amount"] == 100
    print("  the history of o1: " + ", ".join(f"{c.seq} {c.reason}" for c in commits))


def errors(writer, reader, inserted):
    expect_error(
        grpc.StatusCode.NOT_FOUND,
        "TABLE_NOT_FOUND",
        lambda: reader.Get(reader_pb2.GetRequest(table="ordes", keys=["o1"])),
    )
    insert = writer_pb2.Operation(table="orders", insert=document({"id": "o1"}))
    expect_error(
        grpc.StatusCode.ALREADY_EXISTS,
        "ROW_EXISTS",
        lambda: writer.Apply(writer_pb2.ApplyRequest(operations=[insert])),
    )
    patch = writer_pb2.Operation(table="orders", key="o1", patch=document({"amount": 1}))
    stale = writer_pb2.Precondition(table="orders", key="o1", seq_is=inserted.seq)
    expect_error(
        grpc.StatusCode.FAILED_PRECONDITION,
        "PRECONDITION_FAILED",
        lambda: writer.Apply(writer_pb2.ApplyRequest(operations=[patch], preconditions=[stale])),
    )
    # Streams fail when they are read.
    expect_error(
        grpc.StatusCode.INVALID_ARGUMENT,
        "QUERY_SYNTAX",
        lambda: list(reader.Select(reader_pb2.SelectRequest(table="orders", where="status ="))),
    )


def services(writer_channel, reader_channel):
    for channel, name in [
        (writer_channel, "driftdb.v1.WriterService"),
        (reader_channel, "driftdb.v1.ReaderService"),
    ]:
        listed = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert name in listed, listed
        health = health_pb2_grpc.HealthStub(channel)
        for service in ["", name]:
            status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING, (service, status)
        print(f"  {name} is listed by reflection, and healthy")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--writer", default="127.0.0.1:7401")
    arguments.add_argument("--reader", default="127.0.0.1:7402")
    at = arguments.parse_args()
    with grpc.insecure_channel(at.writer) as writer_channel, grpc.insecure_channel(at.reader) as reader_channel:
        writer = writer_pb2_grpc.WriterServiceStub(writer_channel)
        reader = reader_pb2_grpc.ReaderServiceStub(reader_channel)
        tokens = write(writer)
        read(reader, *tokens)
        select(reader, tokens[0], tokens[2])
        history(reader, *tokens)
        errors(writer, reader, tokens[0])
        services(writer_channel, reader_channel)
    print("python client: ok")


if __name__ == "__main__":
    main()
