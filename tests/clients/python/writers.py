#!/usr/bin/env python3
"""DriftDB from Python: a list of writers. The active one is killed, another takes over, no write is lost or repeated.

Run by run.sh.
"""

import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from driftdb.v1 import reader_pb2, reader_pb2_grpc, types_pb2, writer_pb2, writer_pb2_grpc

from daemons import Daemons
from model import create, document

WRITES = 120


def details_of(error):
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            break
    return info


class Writers:
    """A client's list of writers. A call goes to the one that answered last, and to the next one if that fails."""

    def __init__(self, daemons):
        self.all = daemons
        self.stubs = {}
        self.current = 0
        self.reasons = set()

    def stub(self):
        address = self.all[self.current].address
        if address not in self.stubs:
            self.stubs[address] = writer_pb2_grpc.WriterServiceStub(grpc.insecure_channel(address))
        return self.stubs[address]

    def apply(self, request):
        """Makes a write exactly once, at any writer."""
        for _ in range(600):
            try:
                return self.stub().Apply(request, timeout=20)
            except grpc.RpcError as error:
                self.failed(error)
            self.current = (self.current + 1) % len(self.all)
            time.sleep(0.05)
        raise AssertionError("no writer takes it")

    def apply_all(self, requests, meanwhile):
        """Makes many concurrent writes, each exactly once. Calls `meanwhile` after the first attempts were sent."""
        answers = [(request, self.stub().Apply.future(request, timeout=20)) for request in requests]
        meanwhile()
        for request, answer in answers:
            try:
                yield answer.result()
            except grpc.RpcError as error:
                self.failed(error)
                # The write may have been made. A retry with the same request id is safe.
                yield self.apply(request)

    def failed(self, error):
        self.reasons.add(details_of(error).reason or "none")
        if error.code() not in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ):
            raise error


def insert(number):
    operation = writer_pb2.Operation(table="orders", insert=document({"id": f"o{number:03}"}))
    options = writer_pb2.CommitOptions(request_id=str(uuid.uuid4()))
    return writer_pb2.ApplyRequest(operations=[operation], options=options)


def main():
    started = time.monotonic()
    with Daemons("--standby") as daemons:
        holder = daemons.running[0]
        standby = daemons.start("writer", "--standby")
        waiting = writer_pb2_grpc.WriterServiceStub(grpc.insecure_channel(standby.address))
        deadline = time.monotonic() + 20
        while True:
            try:
                waiting.CreateTable(create())
                raise AssertionError("a standby writes")
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                info = details_of(error)
                assert info.reason == "STANDBY", info
                # The holder publishes its address when it serves. The standby reads it when it next tries the lock.
                if holder.address in info.metadata["writer"]:
                    print(f"  UNAVAILABLE STANDBY: {error.details()}")
                    break
                assert time.monotonic() < deadline, info

        writers, tokens, replayed = Writers([holder, standby]), [], 0
        writers.stub().CreateTable(create())

        def change_places():
            """Kills the active writer, and starts it again as a standby."""
            at = writers.current
            daemons.kill(writers.all[at])
            writers.all[at] = daemons.start("writer", "--standby")

        for first in range(0, WRITES, 40):
            answers = [writers.apply(insert(number)) for number in range(first, first + 20)]
            many = [insert(number) for number in range(first + 20, first + 40)]
            answers += writers.apply_all(many, change_places)
            tokens += [answer.token for answer in answers]
            replayed += sum(answer.replayed for answer in answers)
        seqs = [token.seq for token in tokens]
        assert len({token.epoch for token in tokens}) == 1, "a take-over keeps the epoch"

        reader = reader_pb2_grpc.ReaderServiceStub(grpc.insecure_channel(daemons.reader().address))
        fresh = types_pb2.Freshness(min_seq=max(seqs), epoch=tokens[-1].epoch)
        history = reader.History(reader_pb2.HistoryRequest(table="orders", freshness=fresh))
        written = [(commit.seq, change.key) for part in history for commit in part.commits for change in commit.changes]
        written = [(seq, key) for seq, key in written if key]
        assert written == sorted((seq, f"o{number:03}") for number, seq in enumerate(seqs)), written
    what = f"{WRITES} writes, each once, over {WRITES // 40} take-overs"
    print(f"  {what}; {replayed} had been done; refused meanwhile with {sorted(writers.reasons)}")
    print(f"python writers: ok ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    main()
