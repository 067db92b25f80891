"""What the package promises besides conformance.json. Run by run.sh with pytest; the fixtures are those of the package."""

import asyncio
import dataclasses
import datetime
import decimal
import inspect
import math
import re
import socket
import threading
import time
from pathlib import Path

import driftdb
import pytest
from driftdb._pauses import Pauses
from driftdb._transport import run

from cluster import Cluster

pytest_plugins = ["driftdb.testing"]


def test_each_reason_of_the_docs_has_a_class_with_its_code_and_whether_to_retry():
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|.*\| (.+) \|$", Path("docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    expected = {reason: (code, not retry.startswith("no")) for reason, code, retry in rows}
    found = {reason: (error.code, error.retryable) for reason, error in driftdb.errors.BY_REASON.items()}
    assert found == expected
    for error in driftdb.errors.BY_REASON.values():
        assert error.__name__ in driftdb.__all__ and error.__doc__


def test_everything_public_is_documented():
    for name in driftdb.__all__:
        public = getattr(driftdb, name)
        if not isinstance(public, type):
            continue
        assert public.__doc__, name
        for member, value in vars(public).items():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{member}"


def test_the_blocking_and_the_asyncio_api_are_the_same():
    for blocking, asynchronous in [
        (driftdb.Database, driftdb.AsyncDatabase),
        (driftdb.Table, driftdb.AsyncTable),
        (driftdb.Results, driftdb.AsyncResults),
        (driftdb.Rows, driftdb.AsyncRows),
        (driftdb.Committer, driftdb.AsyncCommitter),
    ]:
        names = [{name for name in dir(api) if not name.startswith("_")} for api in (blocking, asynchronous)]
        # Attributes of instances in one, properties in the other.
        assert names[0] - {"name", "notes", "truncated", "columns"} == names[1] - {"name"}, blocking


def test_a_blocking_call_takes_and_says_what_that_of_asyncio_does():
    for blocking, asynchronous in [(driftdb.Database, driftdb.AsyncDatabase), (driftdb.Table, driftdb.AsyncTable)]:
        names = [name for name, value in vars(blocking).items() if not name.startswith("_") and inspect.isfunction(value)]
        assert len(names) > 5
        for name in names:
            ours, theirs = getattr(blocking, name), getattr(asynchronous, name)
            parameters = [
                [(of.name, of.kind, of.default, of.annotation) for of in inspect.signature(call).parameters.values()]
                for call in (ours, theirs)
            ]
            assert parameters[0] == parameters[1], f"{blocking.__name__}.{name}"
            texts = [inspect.getdoc(call).replace("an `async with`", "a `with`").replace("Async", "") for call in (ours, theirs)]
            assert texts[0] == texts[1], f"{blocking.__name__}.{name}"


def test_the_messages_do_not_clash_with_generated_code():
    from google.protobuf import descriptor_pb2, descriptor_pool

    # Another file of the same name, with a message of the same name, in the pool that generated code uses.
    other = descriptor_pb2.FileDescriptorProto(name="driftdb/v1/types.proto", package="driftdb.v1")
    other.message_type.add(name="Document")
    descriptor_pool.Default().AddSerializedFile(other.SerializeToString())
    from driftdb._messages import v1

    assert v1.Document(json="{}").json == "{}"


def test_values_without_a_counterpart_are_refused_before_they_are_sent():
    table = driftdb.connect("driftdb://127.0.0.1:1").table("t")
    for value in (decimal.Decimal("1.1"), float("nan"), float("inf"), datetime.date(2026, 1, 1), b"x", {1, 2}):
        with pytest.raises(driftdb.DocumentInvalid):
            table.put({"id": "a", "value": value})
    for key in (None, 1.5, True, b"k"):
        with pytest.raises(driftdb.KeyInvalid):
            table.get(key)
    for point in (datetime.datetime(2026, 1, 1), -1, "now", True):
        with pytest.raises(driftdb.ArgumentInvalid):
            table.get("a", as_of=point)


def test_an_address_without_readers_says_so():
    with pytest.raises(driftdb.ArgumentInvalid, match="names no reader"):
        driftdb.connect("driftdb://127.0.0.1:1").table("t").get("a")


def test_a_token_is_in_no_text():
    with pytest.raises(driftdb.ArgumentInvalid) as error:
        driftdb.connect("driftdb://w,r", token="a secret")
    assert "secret" not in str(error.value)
    db = driftdb.connect("driftdb://127.0.0.1:1", token="secret")
    assert "secret" not in repr(db._database._session.address)


def test_pauses_grow_to_a_limit_and_end():
    pauses = Pauses(None)
    lengths = [pauses.next() for _ in range(9)]
    assert all(0.01 <= length <= 2 for length in lengths) and lengths[-1] >= 1
    assert pauses.next(60) == 60
    assert Pauses(0.1).next(0.2) is None


def test_a_blocking_call_never_suspends():
    async def suspended():
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError):
        run(suspended())


def test_the_fixture_serves_a_new_database(driftdb_database):
    orders = driftdb_database.create_table("orders")
    orders.put({"id": "o1"})
    assert orders.get("o1").seq == 2


def test_times_and_time_spans_are_points_in_time(driftdb_database):
    table = driftdb_database.create_table("t")
    first = table.put({"id": "a", "n": 1})
    assert first.token.time.tzinfo is datetime.timezone.utc
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    assert table.get("a", as_of=soon)["n"] == 1
    assert table.get("a", as_of=first.token.time)["n"] == 1
    assert table.get("a", as_of=datetime.timedelta())["n"] == 1
    with pytest.raises(driftdb.TableNotFound):
        table.get("a", as_of=datetime.timedelta(days=1))


def test_rows_become_data_frames_and_arrow_tables(driftdb_database):
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    table = driftdb_database.create_table("t")
    with driftdb_database.commit() as commit:
        for n in range(3):
            commit.put("t", {"id": f"k{n}", "n": n})
    frame = table.select(order_by="n DESC").to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame["n"]) == [2, 1, 0]
    arrow = table.select().to_arrow()
    assert isinstance(arrow, pyarrow.Table) and arrow.column("id").to_pylist() == ["k0", "k1", "k2"]
    query = driftdb_database.query("SELECT n FROM t WHERE n > 0")
    assert query.to_arrow().to_pydict() == {"n": [1, 2]}


def test_a_watch_can_be_closed_from_another_thread(driftdb_database):
    table = driftdb_database.create_table("t")
    watch = table.watch()
    found, started = [], threading.Event()

    def follow():
        for event in watch.events():
            found.append(event.kind)
            started.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(20)
    watch.close()
    thread.join(20)
    assert not thread.is_alive() and found[0] == "opened"


def test_waiting_for_a_change_with_a_time_limit_loses_nothing(driftdb_server):
    async def follow():
        async with driftdb.connect_async(driftdb_server.url) as db:
            table = await db.create_table("limited")
            made = (await table.describe()).created_seq
            watch = table.watch(after_seq=made, heartbeat=60)
            for n in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(watch), 0.2)
                await table.put({"id": "a", "n": n})
                assert (await asyncio.wait_for(anext(watch), 20)).after["n"] == n
            watch.close()

    asyncio.run(follow())


def test_a_watch_can_be_closed_from_another_task(driftdb_server):
    async def follow():
        async with driftdb.connect_async(driftdb_server.url) as db:
            watch = (await db.create_table("ended")).watch()
            waiting = asyncio.ensure_future(anext(watch, None))
            await asyncio.sleep(0.3)
            watch.close()
            assert await asyncio.wait_for(waiting, 20) is None

    asyncio.run(follow())


def test_a_token_counts_a_commit_only_when_its_changes_are_taken(driftdb_database):
    table = driftdb_database.create_table("t")
    with driftdb_database.commit() as commit:
        commit.put("t", {"id": "a"})
        commit.put("t", {"id": "b"})
    watch = table.watch(after_seq=1)
    assert next(watch).key == "a"
    assert next(table.watch(token=watch.token)).key == "a", "half of a commit must come again"
    assert next(watch).key == "b"
    table.put({"id": "c"})
    assert next(watch).key == "c"
    assert next(table.watch(token=watch.token)).key == "c"


def test_a_load_whose_rows_fail_ends_its_stream_and_its_thread(driftdb_database):
    table = driftdb_database.create_table("failing_rows")

    def rows():
        yield from ({"id": f"k{n}"} for n in range(20))
        raise ZeroDivisionError

    def threads():
        return {thread for thread in threading.enumerate() if thread.is_alive()}

    table.ingest([{"id": "first"}])
    before = threads()
    # Who keeps the errors, keeps what they refer to.
    failures = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as failure:
            table.ingest(rows(), action="put", batch=5)
        failures.append(failure)
    until = time.monotonic() + 20
    while threads() - before and time.monotonic() < until:
        time.sleep(0.05)
    assert len(failures) == 3 and not threads() - before


def test_leaving_a_commit_with_an_error_writes_nothing(driftdb_database):
    table = driftdb_database.create_table("t")
    with pytest.raises(ZeroDivisionError), driftdb_database.commit() as commit:
        commit.put("t", {"id": "a"})
        1 / 0
    with pytest.raises(driftdb.DriftError):
        commit.receipt
    assert table.get("a") is None


def test_an_error_says_where_a_statement_is_wrong(driftdb_database):
    with pytest.raises(driftdb.QuerySyntax) as error:
        driftdb_database.query("SELECT * FRM t").all()
    assert error.value.query.line == 1 and error.value.query.column > 8
    assert not error.value.retryable and str(error.value).endswith("(QUERY_SYNTAX)")


def test_results_are_immutable(driftdb_database):
    table = driftdb_database.create_table("t")
    receipt = table.put({"id": "a"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        receipt.replayed = True
    assert table.select().header.read_seq == receipt.seq


@pytest.fixture
def silent_daemon():
    """The address of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_closing_a_client_ends_its_watches_in_other_threads(driftdb_server):
    db = driftdb_server.connect()
    table = db.create_table("open")
    watches = [table.watch(heartbeat=60) for _ in range(2)]
    found, started = [], threading.Barrier(3)

    def follow(watch):
        events = watch.events()
        found.append(next(events).kind)
        started.wait(20)
        found.extend(event.kind for event in events)

    threads = [threading.Thread(target=follow, args=[watch]) for watch in watches]
    for thread in threads:
        thread.start()
    started.wait(20)
    db.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert set(found) <= {"opened", "caught_up"}
    with pytest.raises(driftdb.ClientClosed):
        db.table("open").get("a")


def test_closing_a_client_ends_a_write_whose_outcome_is_then_unknown(silent_daemon):
    db, failures = driftdb.connect(f"driftdb://{silent_daemon}"), []

    def put():
        try:
            db.table("t").put({"id": "a"})
        except driftdb.DriftError as error:
            failures.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    time.sleep(0.5)
    db.close()
    thread.join(20)
    assert not thread.is_alive() and [type(error) for error in failures] == [driftdb.OutcomeUnknown]


def test_closing_a_client_cancels_no_task(driftdb_server, silent_daemon):
    async def close():
        db = driftdb.connect_async(f"driftdb://{silent_daemon}")
        writing = asyncio.ensure_future(db.table("t").put({"id": "a"}))
        await asyncio.sleep(0.5)
        await db.close()
        with pytest.raises(driftdb.OutcomeUnknown):
            await asyncio.wait_for(writing, 20)
        db = driftdb.connect_async(driftdb_server.url)
        watch = (await db.create_table("followed")).watch()
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0.5)
        await db.close()
        assert await asyncio.wait_for(waiting, 20) is None

    asyncio.run(close())


def test_every_field_of_any_row_is_a_column(driftdb_database):
    pytest.importorskip("pyarrow")
    table = driftdb_database.create_table("t")
    table.put({"id": "a"})
    table.put({"id": "b", "amount": 5})
    assert table.select().to_arrow().to_pydict() == {"id": ["a", "b"], "amount": [None, 5]}


def test_a_load_that_reaches_no_writer_was_not_begun():
    table = driftdb.connect("driftdb://127.0.0.1:1", retry_timeout=0.2).table("t")
    with pytest.raises(driftdb.Unreachable):
        table.ingest([{"id": "a"}])


def test_a_load_says_what_was_loaded_before(driftdb_database):
    table = driftdb_database.create_table("t")
    rows = [{"id": f"k{n}"} for n in range(10)]
    assert table.ingest(rows, producer="of monday", batch=3).skipped == 0
    repeated = table.ingest(rows, producer="of monday", batch=3)
    assert (repeated.operations, repeated.skipped) == (10, 10)


def test_a_read_after_a_change_is_not_older_than_the_change(driftdb_server):
    [writer, reader] = driftdb_server.url.removeprefix("driftdb://").split(",")
    # Two readers, so that another one can be behind; the change is that of another client.
    with driftdb.connect(f"driftdb://{writer},{reader},{reader}") as db, driftdb_server.connect() as other:
        table = db.create_table("changed")
        watch = table.watch(after_seq=table.describe().created_seq)
        written = other.table("changed").put({"id": "a"})
        assert next(watch).key == "a"
        assert db._database._session.freshness().min_seq == written.seq


def test_a_token_or_an_option_of_none_is_not_given():
    assert driftdb.connect("driftdb://db", token=None, ca=None).table("t").name == "t"


def test_no_proxy_is_between_a_client_and_its_daemons(driftdb_server, monkeypatch):
    for name in ("http_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with driftdb.connect(driftdb_server.url.replace("127.0.0.1", "localhost"), retry_timeout=5) as db:
        db.create_table("direct")
        assert db.table("direct").get("a") is None


def test_an_empty_key_is_not_every_row(driftdb_database):
    table = driftdb_database.create_table("t")
    for call in (lambda: table.history(""), lambda: table.watch(keys=[""]), lambda: table.diff(0, keys=[""])):
        with pytest.raises(driftdb.KeyInvalid):
            list(call())


def test_the_parameters_of_a_history_are_a_list_or_a_dict(driftdb_database):
    table = driftdb_database.create_table("t")
    table.put({"id": "a", "s": "paid"})
    for where, params in [("s = $1", ["paid"]), ("s = $status", {"status": "paid"})]:
        assert len(list(table.history(where=where, params=params))) == 1
    with pytest.raises(driftdb.ArgumentInvalid):
        table.history(where="s = $1", params="paid")


def test_half_a_character_is_refused(driftdb_database):
    with pytest.raises(driftdb.DocumentInvalid):
        driftdb_database.create_table("t").put({"id": "\ud800"})


@pytest.fixture
def frozen():
    """A writer and a reader, which a test can freeze."""
    cluster = Cluster(readers=1)
    yield cluster
    cluster.close()


def test_a_write_that_no_one_answers_ends_with_its_time_limit_and_an_unknown_outcome(frozen):
    # The limit of the client, that of a call, and that of a commit.
    with driftdb.connect(f"{frozen.url()}?timeout=0.5") as db, driftdb.connect(frozen.url()) as unlimited:
        db.create_table("t")
        unlimited.table("t").put({"id": "a"})
        frozen.writer.freeze()
        for write in (
            lambda: db.table("t").put({"id": "b"}, request_id="mine"),
            lambda: db.execute('INSERT INTO t {"id": "c"}'),
            lambda: db.table("t").ingest([{"id": "d"}]),
            lambda: unlimited.table("t").put({"id": "e"}, timeout=0.5),
            lambda: unlimited.create_table("u", timeout=0.5),
        ):
            began = time.monotonic()
            with pytest.raises(driftdb.OutcomeUnknown):
                write()
            assert 0.4 < time.monotonic() - began < 3
        began = time.monotonic()
        with pytest.raises(driftdb.OutcomeUnknown), unlimited.commit(timeout=0.5) as commit:
            commit.put("t", {"id": "f"})
        with pytest.raises(driftdb.StatementTimeout):
            unlimited.find_commit("mine", timeout=0.5)
        assert time.monotonic() - began < 5
        frozen.writer.thaw()
        # The writer continues, and the same request id shows what it did.
        assert db.table("t").put({"id": "b"}, request_id="mine", timeout=20).seq > 0
        assert db.table("t").get("b")["id"] == "b"


def test_a_read_that_no_one_answers_ends_with_its_time_limit(frozen):
    with driftdb.connect(f"{frozen.url()}?timeout=0.5") as db, driftdb.connect(frozen.url()) as unlimited:
        unlimited.include(db.create_table("t").put({"id": "a"}).token)
        assert unlimited.table("t").get("a", timeout=20)["id"] == "a"
        watch = db.table("t").watch(after_seq=0, heartbeat=60)
        assert next(watch).kind == "schema"
        rows = db.table("t").select()
        frozen.readers[0].freeze()
        for read in (
            lambda: db.table("t").get("a"),
            rows.all,
            db.status,
            lambda: unlimited.table("t").count(timeout=0.5),
            lambda: unlimited.query("SELECT * FROM t", timeout=0.5).all(),
        ):
            began = time.monotonic()
            with pytest.raises(driftdb.StatementTimeout):
                read()
            assert 0.4 < time.monotonic() - began < 3
        frozen.readers[0].thaw()
        # A watch has no limit: it waits for changes.
        assert next(watch).key == "a"
        # And a call can have none.
        assert db.table("t").get("a", timeout=math.inf)["id"] == "a"


def test_the_time_limit_of_an_asyncio_call(frozen):
    async def call():
        async with driftdb.connect_async(frozen.url(), timeout=0.5) as db:
            table = await db.create_table("t")
            for daemon in (frozen.writer, frozen.readers[0]):
                daemon.freeze()
            with pytest.raises(driftdb.OutcomeUnknown):
                await asyncio.wait_for(table.put({"id": "a"}), 5)
            with pytest.raises(driftdb.StatementTimeout):
                await asyncio.wait_for(table.select().all(), 5)

    asyncio.run(call())


def test_a_time_limit_is_a_time():
    for timeout in (0, -1, float("nan")):
        with pytest.raises(driftdb.ArgumentInvalid):
            driftdb.connect("driftdb://w,r", timeout=timeout)
        with pytest.raises(driftdb.ArgumentInvalid):
            driftdb.connect("driftdb://w,r").table("t").select(timeout=timeout)


def test_an_argument_comes_before_the_address():
    url = "driftdb://127.0.0.1:1?token_file=/does/not/exist&timeout=5"
    settings = driftdb.connect(url, token="mine", timeout=7)._database._session.address
    assert (settings.bearer(), settings.timeout) == ("mine", 7)


def test_every_write_has_the_options_of_a_commit(driftdb_database):
    table = driftdb_database.create_table("t", reason="setup", actor="anna", request_id="create")
    options = {"reason": "why", "actor": "anna"}
    put = table.put({"id": "a", "n": 1}, request_id="put", **options)
    assert table.put({"id": "a", "n": 1}, request_id="put", **options).replayed
    table.patch("a", {"n": 2}, request_id="patch", **options)
    assert table.revert("a", put, request_id="revert", if_seq=put.seq + 1, **options).seq == put.seq + 2
    with pytest.raises(driftdb.PreconditionFailed):
        table.revert("a", put, if_seq=put.seq)
    table.delete("a", request_id="delete", **options)
    driftdb_database.execute('INSERT INTO t {"id": "b"}', request_id="execute", **options)
    commits = list(table.history(start=put.seq - 1))
    assert len(commits) == 5 and all((commit.actor, commit.reason) == ("anna", "why") for commit in commits)
    for request_id in ("create", "put", "patch", "revert", "delete", "execute"):
        assert driftdb_database.find_commit(request_id) is not None
    with pytest.raises(TypeError):
        table.put({"id": "c"}, reasons="?")


def test_a_patch_that_is_too_large_is_said_to_be_omitted(driftdb_database):
    table = driftdb_database.create_table("t")
    # The patch names the fields of both rows.
    first = table.put({"id": "a"} | {f"x{number:05}": number for number in range(45_000)})
    table.put({"id": "a"} | {f"y{number:05}": number for number in range(45_000)})
    table.put({"id": "b"})
    large, added = table.diff(first)
    assert (large.patch, large.patch_omitted) == (None, True)
    assert (added.patch, added.patch_omitted) == (None, False)


def test_tables_and_their_description_are_reads(driftdb_server):
    [writer, reader] = driftdb_server.url.removeprefix("driftdb://").split(",")
    with driftdb.connect(f"driftdb://{writer},{reader},{reader}") as db, driftdb_server.connect() as other:
        for number, read in enumerate((db.tables, lambda: db.table("seen0").describe(), db.status)):
            made = other.create_table(f"seen{number}").describe().created_seq
            until = time.monotonic() + 20
            while (db._database._session.freshness() or other._database._session.freshness()).min_seq < made:
                read()
                assert time.monotonic() < until


def test_a_watch_opens_when_it_is_asked_to(driftdb_database):
    table = driftdb_database.create_table("t")
    table.put({"id": "before"})
    watch = table.watch()
    start = watch.open()
    assert watch.open() == start
    after = table.put({"id": "after"})
    change = next(watch)
    assert (change.key, change.seq) == ("after", after.seq) and after.seq > start.read_seq
    watch.close()
    with pytest.raises(driftdb.ClientClosed):
        closed = table.watch()
        closed.close()
        closed.open()
    events = (watch := table.watch()).events()
    watch.open()
    assert next(events).kind == "opened"
    watch.close()
