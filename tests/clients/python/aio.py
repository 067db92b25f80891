#!/usr/bin/env python3
"""DriftDB from Python with asyncio: write, read, read earlier states, errors, and streams while readers are killed.

Run by run.sh. Writing and watching share one event loop, as in a server.
"""

import asyncio
import json
import time
import uuid

import grpc
from driftdb.v1 import reader_pb2, reader_pb2_grpc, types_pb2, writer_pb2, writer_pb2_grpc

from daemons import Daemons
from model import Model, changes_of, create, document, materialise, value
from raw_watch import OPTIONS, reason_of

COMMITS = 240
HEARTBEAT = {"nanos": 100_000_000}


async def watch(readers, request):
    """docs/examples/watch.py with asyncio: every message once and whole, from any of the readers."""
    attempt = 0
    while True:
        async with grpc.aio.insecure_channel(readers[attempt % len(readers)], OPTIONS) as channel:
            try:
                whole = reader_pb2.WatchDriftResponse()
                async for message in reader_pb2_grpc.ReaderServiceStub(channel).WatchDrift(request):
                    whole.MergeFrom(message)
                    if message.commit.more:
                        continue
                    request.resume_token = message.resume_token
                    yield whole
                    whole = reader_pb2.WatchDriftResponse()
                return
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
        attempt += 1
        await asyncio.sleep(0.05)


async def apply(writers, request):
    """Sends a write to each writer until one accepts it. The request id makes the retry safe."""
    request.options.request_id = str(uuid.uuid4())
    for attempt in range(20):
        try:
            return (await writers[attempt % len(writers)].Apply(request)).token
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
    raise AssertionError("no writer takes it")


async def expect_error(code, reason, failing):
    try:
        answer = await failing
        raise AssertionError(f"expected {reason} instead of {answer}")
    except grpc.aio.AioRpcError as error:
        assert (error.code(), reason_of(error)) == (code, reason), error
        print(f"  {code.name} {reason}: {error.details()}")


async def write_and_read(writer, reader):
    """Reads a row now, as of a commit and as of a time; several concurrent reads that all see the write."""
    letters = writer_pb2.CreateTableRequest(table="letters", primary_key="id")
    await writer.CreateTable(letters)
    put = lambda status: writer_pb2.ApplyRequest(
        operations=[writer_pb2.Operation(table="letters", put=document({"id": "l1", "status": status}))]
    )
    written = (await writer.Apply(put("written"))).token
    sent = (await writer.Apply(put("sent"))).token
    fresh = types_pb2.Freshness(min_seq=sent.seq, epoch=sent.epoch)

    async def status(**moment):
        asked = reader_pb2.GetRequest(table="letters", keys=["l1"], as_of=types_pb2.AsOf(**moment), freshness=fresh)
        answer = await reader.Get(asked)
        return answer.header.read_seq, value(answer.rows[0].document)["status"]

    now, then = await asyncio.gather(status(), status(seq=written.seq))
    assert now == (sent.seq, "sent") and then == (written.seq, "written"), (now, then)
    # Several commits may share a millisecond. The time then means the last of them.
    seq, named = await status(time=written.time)
    assert (seq, named) == await status(seq=seq) and seq >= written.seq
    select = reader_pb2.SelectRequest(
        table="letters", where="status = $1", params=[json.dumps("sent")], freshness=fresh
    )
    assert [row.key async for message in reader.Select(select) for row in message.rows] == ["l1"]
    select.as_of.seq = written.seq
    assert [row.key async for message in reader.Select(select) for row in message.rows] == []
    print(f"  l1 is sent now, and was written as of commit {written.seq}")


async def errors(writer, reader):
    get = reader_pb2.GetRequest(table="leters", keys=["l1"])
    await expect_error(grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", reader.Get(get))
    insert = writer_pb2.Operation(table="letters", insert=document({"id": "l1"}))
    again = writer_pb2.ApplyRequest(operations=[insert])
    await expect_error(grpc.StatusCode.ALREADY_EXISTS, "ROW_EXISTS", writer.Apply(again))
    # A stream fails when it is read.
    wrong = reader_pb2.WatchDriftRequest(tables=["orders"], where="status =")
    await expect_error(grpc.StatusCode.INVALID_ARGUMENT, "QUERY_SYNTAX", reader.WatchDrift(wrong).read())
    behind = reader_pb2.GetRequest(table="letters", keys=["l1"], freshness=types_pb2.Freshness(min_seq=10**9))
    behind.freshness.wait.nanos = 1_000_000
    await expect_error(grpc.StatusCode.UNAVAILABLE, "REPLICA_BEHIND", reader.Get(behind))


class Subscriber:
    """Follows a table from a commit on, while readers are killed and started."""

    def __init__(self, name, daemons, **fields):
        self.name, self.daemons, self.fields = name, daemons, fields
        self.readers = [daemons.reader(), daemons.reader()]
        self.addresses = [reader.address for reader in self.readers]
        self.commits, self.rows, self.kills = [], {}, 0
        self.reached, self.until = 0, None

    async def run(self, progress):
        asked = reader_pb2.WatchDriftRequest(
            tables=["orders"], heartbeat=HEARTBEAT, with_before=True, with_after=True, **self.fields
        )
        async for message in watch(self.addresses, asked):
            self.rows.update((row.key, value(row.document)) for row in message.rows.rows)
            if message.HasField("commit"):
                changes = changes_of(message.commit)
                self.commits.append((message.commit.seq, changes))
                materialise(self.rows, changes)
                if len(self.commits) % 40 == 20:
                    self.replace()
            # A commit, or a progress message, says how far the stream has come.
            told = (message.rows_done, message.progress, message.caught_up)
            self.reached = max(self.reached, message.commit.seq, *(header.read_seq for header in told))
            progress.set()
            if message.HasField("progress") and self.until is not None and self.reached >= self.until:
                return

    def replace(self):
        """Kills the reader in use, and starts another in its place."""
        asked = self.kills % 2
        self.daemons.kill(self.readers[asked])
        self.readers[asked] = self.daemons.reader()
        self.addresses[asked] = self.readers[asked].address
        self.kills += 1


async def watching(daemons, writers, reader, model):
    """Three concurrent streams, each with its own two readers that are killed in turn, while commits are made."""
    for _ in range(20):
        model.applied(await apply(writers, model.next()))
    began = model.commits[-1][0]
    everything = Subscriber("everything", daemons, after_seq=began)
    paid = Subscriber("paid", daemons, after_seq=began, where="status = $1", params=[json.dumps("paid")])
    copy = Subscriber("copy", daemons, initial_rows=True)
    subscribers, progress = [everything, paid, copy], asyncio.Event()
    tasks = [asyncio.create_task(subscriber.run(progress)) for subscriber in subscribers]

    for _ in range(COMMITS):
        model.applied(await apply(writers, model.next()))
        # Commits wait for the streams, so that readers are killed between commits and not after the last one.
        while model.commits[-1][0] - min(subscriber.reached for subscriber in subscribers) > 30:
            progress.clear()
            waiting = asyncio.create_task(progress.wait())
            await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            for task in tasks:
                assert not task.done(), task.exception()
    for subscriber in subscribers:
        subscriber.until = model.commits[-1][0]
    await asyncio.gather(*tasks)

    passes = lambda change: any(row and row["status"] == "paid" for row in (change.before, change.after))
    assert everything.commits == model.matching(lambda change: True, after_seq=began)
    assert paid.commits == model.matching(passes, after_seq=began)
    assert min(subscriber.kills for subscriber in subscribers) >= 3
    select = reader_pb2.SelectRequest(
        table="orders", as_of=types_pb2.AsOf(seq=copy.until), freshness=types_pb2.Freshness(min_seq=copy.until)
    )
    selected = {row.key: value(row.document) async for part in reader.Select(select) for row in part.rows}
    assert copy.rows == selected == model.rows
    for subscriber in subscribers:
        print(f"  {subscriber.name}: {len(subscriber.commits)} commits over {subscriber.kills} readers that were killed")


async def cancelled(reader):
    """A cancelled stream ends at once, and the connection stays usable."""
    stream = reader.WatchDrift(reader_pb2.WatchDriftRequest(tables=["orders"]))
    assert (await stream.read()).HasField("opened")
    stream.cancel()
    assert await stream.code() == grpc.StatusCode.CANCELLED
    assert (await reader.Status(reader_pb2.ReaderServiceStatusRequest())).header.applied_seq > 0


async def run(daemons):
    gone = daemons.reader()
    daemons.kill(gone)
    asked = daemons.reader().address
    async with (
        grpc.aio.insecure_channel(gone.address) as nobody,
        grpc.aio.insecure_channel(daemons.writer) as writer_channel,
        grpc.aio.insecure_channel(asked) as reader_channel,
    ):
        writer = writer_pb2_grpc.WriterServiceStub(writer_channel)
        reader = reader_pb2_grpc.ReaderServiceStub(reader_channel)
        model = Model(seed=6)
        await writer.CreateTable(create())
        await write_and_read(writer, reader)
        await errors(writer, reader)
        await watching(daemons, [writer_pb2_grpc.WriterServiceStub(nobody), writer], reader, model)
        await cancelled(reader)


def main():
    started = time.monotonic()
    with Daemons() as daemons:
        asyncio.run(run(daemons))
    print(f"python asyncio: ok ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    main()
