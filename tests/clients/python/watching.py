#!/usr/bin/env python3
"""DriftDB from Python: streams of changes while readers are killed, with filters, and to copy a table.

Run by run.sh. Readers are killed while commits go on; what came is compared with a model of what was written.
"""

import json
import signal
import threading
import time

import grpc
from driftdb.v1 import reader_pb2, reader_pb2_grpc, types_pb2, writer_pb2, writer_pb2_grpc

import raw_watch as guide
from daemons import Daemons
from model import Model, changes_of, create, document, materialise, value
from raw_watch import reason_of, watch

COMMITS = 240
HEARTBEAT = {"nanos": 100_000_000}
IMAGES = {"with_before": True, "with_after": True}
# The most commits ahead of a stream, so that readers are killed between commits and not after the last one.
AHEAD = 30


class Load(threading.Thread):
    """Makes commits while a stream is read, and stays close to it."""

    def __init__(self, writer, model, commits=COMMITS):
        super().__init__(daemon=True)
        self.writer, self.model, self.commits = writer, model, commits
        self.room = threading.Semaphore(AHEAD)
        self.failure = None
        self.start()

    def run(self):
        try:
            for _ in range(self.commits):
                self.room.acquire()
                self.model.applied(self.writer.Apply(self.model.next()).token)
        except Exception as failure:
            self.failure = failure

    def finished(self):
        assert self.failure is None, self.failure
        return not self.is_alive()


def stub(reader):
    return reader_pb2_grpc.ReaderServiceStub(grpc.insecure_channel(reader.address))


def request(**fields):
    return reader_pb2.WatchDriftRequest(tables=["orders"], **fields)


def commits_of(messages):
    """The commits of a stream that change rows, in the form of the model."""
    for message in messages:
        if message.HasField("commit"):
            changes = changes_of(message.commit)
            if changes:
                yield message.commit.seq, changes


def whole_stream(daemons, writer, model):
    """A stream from the first commit: `opened`, the table's creation, every commit, and the requested end."""
    for _ in range(20):
        model.applied(writer.Apply(model.next()).token)
    last = model.commits[-1][0]
    everything = request(after_seq=0, until_seq=last, with_before=True, with_after=True)
    messages = list(stub(daemons.reader()).WatchDrift(everything))
    assert messages[0].HasField("opened"), messages[0]
    assert all(message.resume_token for message in messages)
    schema = next(message.commit for message in messages if message.HasField("commit")).changes[0]
    assert schema.kind == types_pb2.CHANGE_KIND_SCHEMA and value(schema.payload)["action"] == "create", schema
    assert list(commits_of(messages)) == model.commits
    print(f"  {len(model.commits)} commits from the first on, with rows before and after")


def follow(load, addresses, began):
    """Yields every commit of a load as it arrives, and its number. Checks all of them at the end."""
    seen = []
    for message in watch(addresses, request(after_seq=began, heartbeat=HEARTBEAT, **IMAGES)):
        for commit in commits_of([message]):
            seen.append(commit)
            load.room.release()
            yield len(seen)
        done = load.finished()
        # A progress message is true: the stream sends nothing more up to there.
        reached = max(message.progress.read_seq, message.caught_up.read_seq)
        expected = load.model.matching(lambda change: True, after_seq=began)
        assert up_to(reached, expected) == up_to(min(reached, expected[-1][0] if expected else 0), seen), reached
        if done and reached >= expected[-1][0]:
            break
    assert seen == expected


def up_to(last, commits):
    return [seq for seq, _ in commits if seq <= last]


def restarted_reader(daemons, writer, model):
    """One reader, repeatedly killed or stopped, and started again: every commit once, in order."""
    began = model.commits[-1][0]
    reader, kills = daemons.reader(), 0
    addresses = [reader.address]
    for number in follow(Load(writer, model), addresses, began):
        if number % 60 == 30:
            (daemons.stop if kills % 2 else daemons.kill)(reader)
            reader, kills = daemons.reader(), kills + 1
            addresses[:] = [reader.address]
    assert (number, kills) == (COMMITS, 4)
    print(f"  {number} commits, each once and in order, over {kills} restarts of the reader")


def fail_over(daemons, writer, model):
    """A list of two readers: when one is killed, the client resumes at the other."""
    began = model.commits[-1][0]
    readers = [daemons.reader(), daemons.reader()]
    addresses = [reader.address for reader in readers]
    for number in follow(Load(writer, model), addresses, began):
        if number == COMMITS // 3:
            daemons.kill(readers[0])
        if number == COMMITS // 2:
            addresses[0] = daemons.reader().address
            daemons.kill(readers[1])
    assert number == COMMITS
    print("  from one reader to the other and back, with nothing missing")


def frozen_reader(daemons, writer, model):
    """A suspended reader, as after the loss of its machine: pings detect it, and the client resumes elsewhere."""
    usual, guide.OPTIONS = guide.OPTIONS, [(name, value // 20) for name, value in guide.OPTIONS]
    frozen, other = daemons.reader(), daemons.reader()
    stream = watch([frozen.address, other.address], request(after_seq=model.commits[-1][0], **IMAGES))
    next(message for message in stream if message.HasField("caught_up"))
    frozen.process.send_signal(signal.SIGSTOP)
    model.applied(writer.Apply(model.next()).token)
    assert next(commits_of(stream)) == model.commits[-1]
    daemons.kill(frozen)
    guide.OPTIONS = usual
    print("  from a reader that stands still to the next")


def filtered(daemons, writer, model):
    """Filters by condition, keys and prefix. A filtered stream resumes at another reader."""
    began = model.commits[-1][0]
    for _ in range(COMMITS):
        model.applied(writer.Apply(model.next()).token)
    last = model.commits[-1][0]
    paid = lambda change: any(row and row["status"] == "paid" for row in (change.before, change.after))
    named = lambda change: change.key in ("o007", "o011")
    early = lambda change: change.key.startswith("o00")
    for what, passes, fields in [
        ("where", paid, {"where": "status = $1", "params": [json.dumps("paid")]}),
        ("keys", named, {"keys": ["o007", "o011"]}),
        ("key_prefix", early, {"key_prefix": "o00"}),
        ("both", lambda c: paid(c) and early(c), {"where": 'status = "paid"', "key_prefix": "o00"}),
    ]:
        reader = daemons.reader()
        addresses, seen, tokens = [reader.address], [], []
        for message in watch(addresses, request(after_seq=began, until_seq=last, **IMAGES, **fields)):
            seen.extend(commits_of([message]))
            tokens.append(message.resume_token)
            if len(seen) == 5 and reader:
                daemons.kill(reader)
                reader = None
                addresses[:] = [daemons.reader().address]
        expected = model.matching(passes, after_seq=began)
        assert seen == expected and 5 < len(expected) < COMMITS, (what, len(seen), len(expected))
        print(f"  {what}: {len(seen)} of {COMMITS} commits pass")


def copy(daemons, writer, model):
    """Initial rows, then changes, without a gap: the copy equals a Select at the same commit, across restarts."""
    model.applied(writer.Apply(model.fill(3000, 400)).token)
    began = model.commits[-1][0]
    reader, rows, batches, kills = daemons.reader(), {}, 0, 0
    addresses = [reader.address]
    load, changed = Load(writer, model), 0
    for message in watch(addresses, request(initial_rows=True, with_after=True, heartbeat=HEARTBEAT)):
        if message.HasField("rows"):
            batches += 1
            rows.update((row.key, value(row.document)) for row in message.rows.rows)
        if message.HasField("commit"):
            materialise(rows, changes_of(message.commit))
            changed += 1
            load.room.release()
        if batches == 2 and kills == 0 or changed == 50 and kills == 1:
            daemons.kill(reader)
            reader, kills = daemons.reader(), kills + 1
            addresses[:] = [reader.address]
        if message.HasField("rows_done"):
            # Earlier writes arrive as rows, not as commits.
            for _ in up_to(message.rows_done.read_seq, model.matching(lambda change: True, began)):
                load.room.release()
        done = load.finished()
        reached = max(message.progress.read_seq, message.caught_up.read_seq)
        if done and reached >= model.commits[-1][0]:
            break
    assert batches > 2 and kills == 2, (batches, kills)
    select = reader_pb2.SelectRequest(table="orders", as_of=types_pb2.AsOf(seq=reached))
    selected = {row.key: value(row.document) for part in stub(reader).Select(select) for row in part.rows}
    assert rows == selected == model.rows
    print(f"  a copy of {len(rows)} rows in {batches} messages and {changed} commits is the table at commit {reached}")


def commit_in_parts(daemons, writer):
    """A large commit arrives in parts without tokens. A client drops the parts of a broken connection."""
    writer.CreateTable(writer_pb2.CreateTableRequest(table="blobs", primary_key="id"))
    before = writer.Apply(writer_pb2.ApplyRequest()).token.seq
    keys = [f"b{number}" for number in range(24)]
    blob = lambda key, letter: document({"id": key, "blob": letter * 1_000_000})
    operations = [writer_pb2.Operation(table="blobs", insert=blob(key, "x")) for key in keys]
    large = writer.Apply(writer_pb2.ApplyRequest(operations=operations)).token.seq
    # Three documents of nearly 1 MiB in one change: still within a client's default message limit.
    patch = writer_pb2.Operation(table="blobs", key="b0", patch=blob("b0", "y"))
    last = writer.Apply(writer_pb2.ApplyRequest(operations=[patch])).token.seq

    everything = reader_pb2.WatchDriftRequest(tables=["blobs"], after_seq=before, until_seq=last)
    everything.with_before = everything.with_after = True
    reader, parts, token = daemons.reader(), [], None
    try:
        for message in stub(reader).WatchDrift(everything):
            token = message.resume_token or token
            if message.HasField("commit"):
                parts.append(message)
            if len(parts) == 1:
                daemons.kill(reader)
                # The rest cannot be in transit: it is larger than all buffers.
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    assert parts and all(part.commit.more and not part.resume_token for part in parts), len(parts)

    everything.resume_token = token
    again = [m for m in stub(daemons.reader()).WatchDrift(everything) if m.HasField("commit")]
    assert len(again) > 2 and again[0].commit.more and not again[-1].commit.more
    assert [bool(part.resume_token) for part in again] == [not part.commit.more for part in again]
    assert [c.key for part in again for c in part.commit.changes if part.commit.seq == large] == keys
    final = again[-1].commit
    assert final.seq == last and value(final.changes[0].before)["blob"][0] == "x"
    assert value(final.changes[0].after)["blob"][0] == "y"
    everything.after_seq = before
    joined = [m.commit for m in watch([daemons.reader().address], everything) if m.HasField("commit")]
    assert [(commit.seq, len(commit.changes)) for commit in joined] == [(large, len(keys)), (last, 1)]
    print(f"  a commit of {len(keys)} MiB in {len(again) - 1} parts, begun anew where the reader was killed among them")


def refused(daemons, writer, model):
    """Refused streams, and how to start a copy again."""
    reader = daemons.reader()

    def expect(code, reason, **fields):
        try:
            for message in stub(reader).WatchDrift(request(**fields)):
                assert message.HasField("opened"), message
        except grpc.RpcError as error:
            assert (error.code(), reason_of(error)) == (code, reason), (error.code(), reason_of(error))
            print(f"  {code.name} {reason}: {error.details()}")
        else:
            raise AssertionError(f"expected {reason}")

    opened = next(stub(reader).WatchDrift(request(where='status = "paid"')))
    token, epoch = opened.resume_token, opened.opened.epoch
    wrong = grpc.StatusCode.INVALID_ARGUMENT
    expect(wrong, "FILTER_MISMATCH", resume_token=token, where='status = "sent"')
    expect(wrong, "QUERY_SYNTAX", where="status =")
    expect(grpc.StatusCode.FAILED_PRECONDITION, "EPOCH_CHANGED", after_seq=1, epoch=epoch ^ 1)
    for _ in range(5):
        model.applied(writer.Apply(model.next()).token)
    floor = types_pb2.AsOf(seq=model.commits[-1][0])
    for _ in writer.Compact(writer_pb2.CompactRequest(table="orders", before=floor)):
        pass
    stub(reader).Get(
        reader_pb2.GetRequest(table="orders", keys=["o001"], freshness=types_pb2.Freshness(min_seq=floor.seq))
    )
    expect(grpc.StatusCode.OUT_OF_RANGE, "BELOW_FLOOR", after_seq=1)
    copies, rows = 0, {}
    for message in watch([reader.address], request(after_seq=1)):
        copies += message.HasField("opened")
        rows.update((row.key, value(row.document)) for row in message.rows.rows)
        if message.HasField("rows_done"):
            break
    assert rows == model.rows and copies == 1
    print("  started over with the rows that there are, where the start lay below the floor")


def main():
    started = time.monotonic()
    with Daemons() as daemons, grpc.insecure_channel(daemons.writer) as channel:
        writer = writer_pb2_grpc.WriterServiceStub(channel)
        writer.CreateTable(create())
        model = Model(seed=5)
        for step in (whole_stream, restarted_reader, fail_over, frozen_reader, filtered, copy):
            step(daemons, writer, model)
        commit_in_parts(daemons, writer)
        refused(daemons, writer, model)
    print(f"python watching: ok ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    main()
