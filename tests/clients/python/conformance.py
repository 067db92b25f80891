#!/usr/bin/env python3
"""Runs the scenarios of conformance.json with the package driftdb: `conformance.py blocking` or `conformance.py asyncio`.

One runner serves both: what a call of the asyncio client returns is awaited, and what the blocking one returns is not.
"""

import asyncio
import copy
import functools
import inspect
import json
import sys
import time
from pathlib import Path

import driftdb
from driftdb._address import parse
from driftdb._params import bind

from cluster import Cluster, stop_on_sigterm

FILE = Path(__file__).parent.parent / "conformance.json"
# How long a step may need some tries, and a scenario may take, in seconds.
EVENTUALLY, SCENARIO = 20, 90


async def got(value):
    """The value, awaited if it must be."""
    return await value if inspect.isawaitable(value) else value


async def following(iterator):
    """The next item of an iterator of either kind; `None` at the end."""
    if hasattr(iterator, "__anext__"):
        return await anext(iterator, None)
    return next(iterator, None)


async def listed(results):
    return await got(results.all())


def documents(rows):
    return [row.document if isinstance(row, driftdb.Row) else row for row in rows]


class Scenario:
    """A scenario while it runs: its daemons, its clients, its watches, and what its steps have saved."""

    def __init__(self, connect, scenario):
        self.connect, self.scenario = connect, scenario
        self.cluster = Cluster(**scenario.get("cluster", {}))
        self.saved, self.clients, self.watches = {}, {}, {}

    async def run(self):
        try:
            self.clients["main"] = self.connect(self.cluster.url(), token=self.cluster.tokens.get("main", ""))
            for step in self.scenario["steps"]:
                await self.step(step)
        finally:
            for client in self.clients.values():
                await got(client.close())
            self.cluster.close()

    async def step(self, raw):
        if raw["do"] == "repeat":
            for i in range(raw["times"]):
                self.saved |= {"i": i, "i_text": str(i)}
                for step in raw["steps"]:
                    await self.step(step)
            return
        for _ in range(raw.get("times", 1)):
            step = self.filled(copy.deepcopy(raw))
            try:
                await self.checked(step)
            except Exception as error:
                raise AssertionError(f"{self.scenario['name']}: {raw}: {type(error).__name__}: {error}") from error

    def filled(self, value):
        """A value with what was saved in place of its names."""
        if isinstance(value, str) and value.startswith("$") and value[1:] in self.saved:
            return self.saved[value[1:]]
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if isinstance(value, dict):
            if list(value) == ["$pad"]:
                return "x" * value["$pad"]
            if list(value) == ["$nest"]:
                return functools.reduce(lambda inner, _: [inner], range(value["$nest"]), [])
            return {name: self.filled(item) for name, item in value.items()}
        return value

    async def checked(self, step):
        name, expected = step.pop("do"), step.pop("error", None)
        do = self.open if name == "connect" else getattr(self, name)
        eventually = time.monotonic() + (EVENTUALLY if step.pop("eventually", False) else 0)
        step.pop("times", None)
        client = self.clients.get(step["client"] if "client" in step else "main")
        if do != self.open:
            step.pop("client", None)
        while True:
            try:
                await do(client, **step)
            except driftdb.DriftError as error:
                assert error.reason == expected, f"{error!r}: {error} instead of {expected}"
                assert expected is None or type(error) is driftdb.errors.BY_REASON[expected], type(error)
                return
            if expected is None:
                return
            assert time.monotonic() < eventually, f"it did not fail with {expected}"
            await asyncio.sleep(0.05)

    def save(self, name, seq):
        if name:
            self.saved[name] = seq

    # Clients and daemons.

    async def open(self, _, client, token=None, ca="certs", tls=None, **options):
        self.clients[client] = self.connect(self.cluster.url(tls, ca), token=self.cluster.tokens.get(token, ""), **options)

    async def unsafe_token(self, client, url):
        await got(self.connect(url, token="secret").table("t").get("a"))

    async def set_token(self, client, token):
        client.set_token(self.cluster.tokens[token])

    async def freeze_writer(self, client):
        self.cluster.writer.freeze()

    async def thaw_writer(self, client):
        self.cluster.writer.thaw()

    async def freeze_reader(self, client, reader):
        self.cluster.readers[reader].freeze()

    async def thaw_reader(self, client, reader):
        self.cluster.readers[reader].thaw()

    async def kill_reader(self, client, reader):
        self.cluster.readers[reader].kill()

    async def start_reader(self, client, reader):
        self.cluster.readers[reader].start()

    async def kill_writer(self, client):
        self.cluster.writer.kill()

    async def start_writer(self, client, after_ms):
        self.cluster.start_writer_after(after_ms / 1000)

    async def lose_answer(self, client):
        self.cluster.proxy.armed.set()

    # Tables and rows.

    async def create_table(self, client, table, save=None, primary_key="id", **options):
        if isinstance(primary_key, list):
            primary_key = [column if isinstance(column, str) else tuple(column) for column in primary_key]
        await got(client.create_table(table, primary_key=primary_key, **options))
        self.save(save, (await got(client.table(table).describe())).created_seq)

    async def drop_table(self, client, table):
        await got(client.drop_table(table))

    async def describe(self, client, table, expect):
        info = await got(client.table(table).describe())
        expect["indexes"] = tuple(map(tuple, expect["indexes"]))
        assert expect == {name: getattr(info, name) for name in expect}, info

    async def tables(self, client, expect):
        assert [info.name for info in await got(client.tables())] == expect

    async def insert(self, client, table, document, save=None, **options):
        self.save(save, (await got(client.table(table).insert(document, **options))).seq)

    async def put(self, client, table, document, save=None, **options):
        self.save(save, (await got(client.table(table).put(document, **options))).seq)

    async def patch(self, client, table, key, document, save=None, **options):
        self.save(save, (await got(client.table(table).patch(key, document, **options))).seq)

    async def delete(self, client, table, key, save=None):
        self.save(save, (await got(client.table(table).delete(key))).seq)

    async def revert(self, client, table, key, to):
        await got(client.table(table).revert(key, to))

    async def commit(
        self, client, operations, conditions=(), save=None, replayed=None, keys=None, same_as=None, **options
    ):
        def collect(commit):
            for name, *arguments in operations:
                getattr(commit, name)(*arguments)
            for name, *arguments in conditions:
                if name == "if_no_change":
                    table, where, params, since = arguments
                    commit.if_no_change(table, where, *params, since=since)
                else:
                    getattr(commit, name)(*arguments)

        commit = client.commit(**options)
        if hasattr(commit, "__aenter__"):
            async with commit:
                collect(commit)
        else:
            with commit:
                collect(commit)
        receipt = commit.receipt
        self.save(save, receipt.seq)
        assert replayed is None or receipt.replayed == replayed, receipt
        assert keys is None or len(set(receipt.keys)) == keys, receipt
        assert same_as is None or receipt.seq == same_as, receipt

    async def find_commit(self, client, request_id, expect):
        found = await got(client.find_commit(request_id))
        assert (found and found.seq) == expect, found

    async def get(self, client, table, key, expect="unset", as_of=None, seq=None):
        row = await got(client.table(table).get(key, as_of=as_of))
        assert expect == "unset" or (row and row.document) == expect, row
        assert seq is None or row.seq == seq, row

    async def get_many(self, client, table, keys, expect):
        assert documents(await got(client.table(table).get_many(keys))) == expect

    async def select(self, client, table, where="", params=(), expect=None, **options):
        rows = await listed(client.table(table).select(where, *params, **options))
        assert documents(rows) == expect, documents(rows)

    async def select_sizes(self, client, table, rows, pad):
        found = [row async for row in self.each(client.table(table).select())]
        assert [len(row["pad"]) for row in found] == [pad] * rows

    async def count(self, client, table, where="", params=(), expect=None, **options):
        assert await got(client.table(table).count(where, *params, **options)) == expect

    async def history(self, client, table, expect, **options):
        commits = await listed(client.table(table).history(**options))
        self.compare([change for commit in commits for change in commit.changes], expect)

    async def diff(self, client, table, start, expect, **options):
        self.compare(await listed(client.table(table).diff(start, **options)), expect)

    async def query(self, client, statement, params=(), expect=None, expect_length=None, **options):
        found = documents(await listed(client.query(statement, *params, **options)))
        assert expect is None or found == expect, found
        assert expect_length is None or len(found) == expect_length, found

    async def execute(self, client, statement, params=(), save=None, rows=None):
        executed = await got(client.execute(statement, *params))
        self.save(save, executed.token and executed.token.seq)
        assert rows is None or executed.rows == rows, executed

    async def ingest(self, client, table, count, expect, kill_writer_at=None, **options):
        def rows():
            for number in range(count):
                if number == kill_writer_at:
                    self.cluster.restart_writer()
                yield {"id": str(number), "n": number}

        done = await got(client.table(table).ingest(rows(), **options))
        refused = [{"position": each.position, "reason": each.reason} for each in done.refused]
        assert {"operations": done.operations, "refused": refused} == expect, done

    # Watches.

    async def watch(self, client, watch, table, where="", params=(), open=False, **options):
        self.watches[watch] = client.table(table).watch(where, *params, heartbeat=1, **options)
        if open:
            await got(self.watches[watch].open())

    async def expect_changes(self, client, watch, expect):
        self.compare([await following(self.watches[watch]) for _ in expect], expect)

    async def expect_commits(self, client, watch, expect):
        commits = self.watches[watch].commits()
        for each in expect:
            commit = await following(commits)
            assert each == {"seq": commit.seq, "changes": len(commit.changes)}, commit

    async def expect_numbers(self, client, watch, field, **ends):
        numbers = [(await following(self.watches[watch])).after[field] for _ in range(ends["from"], ends["to"])]
        assert numbers == list(range(ends["from"], ends["to"])), numbers

    async def expect_end(self, client, watch):
        assert await following(self.watches[watch]) is None

    async def save_token(self, client, watch, save):
        self.saved[save] = self.watches[watch].token

    async def close_watch(self, client, watch):
        self.watches[watch].close()

    # Helpers.

    async def each(self, results):
        while (item := await following(results)) is not None:
            yield item

    def compare(self, items, expected):
        found = [{name: getattr(item, name) for name in fields} for item, fields in zip(items, expected)]
        assert found == expected, found
        assert len(items) == len(expected), items


def check_addresses(cases):
    for case in cases:
        try:
            address = parse(case["url"], {})
            found = {"writers": list(address.writers), "readers": list(address.readers), "tls": address.tls}
        except driftdb.DriftError as error:
            found = {"error": error.reason}
        assert found | {"url": case["url"]} == case, found


def check_parameters(cases):
    for case in cases:
        try:
            bound, values = bind(case["text"], (), case["named"])
            found = {"bound": bound, "values": values}
        except driftdb.DriftError as error:
            found = {"error": error.reason}
        assert found | {"text": case["text"], "named": case["named"]} == case, found


async def main(kind, only):
    connect = {"blocking": driftdb.connect, "asyncio": driftdb.connect_async}[kind]
    conformance = json.loads(FILE.read_text(encoding="utf-8"))
    check_addresses(conformance["addresses"])
    check_parameters(conformance["parameters"])
    began = time.monotonic()
    chosen = [scenario for scenario in conformance["scenarios"] if only in scenario["name"]]
    for scenario in chosen:
        await asyncio.wait_for(Scenario(connect, scenario).run(), SCENARIO)
        print(f"  {scenario['name']}", flush=True)
    print(f"python {kind}: {len(chosen)} scenarios conform ({time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    stop_on_sigterm()
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
