#!/usr/bin/env python3
"""Runs what the guides show: the Python of docs/python.md, in order, as a reader would, and the programs in docs/examples."""

import os
import re
import subprocess
import sys
import threading

import driftdb

from cluster import Cluster, stop_on_sigterm

GUIDE = "docs/python.md"
# A block that contains this needs daemons with TLS.
NEEDS_TLS = "driftdbs://"
# Lines that the programs print.
QUICKSTART = [
    "paid now, pending before",
    "2 insert o1 {'id': 'o1', 'status': 'pending', 'amount': 100}",
    "3 patch o1 {'id': 'o1', 'status': 'paid', 'amount': 100}",
    "4 insert o2 {'id': 'o2', 'amount': 75}",
    "6 insert o4 {'id': 'o4', 'amount': 76}",
    "7 delete o2 None",
]
COPY = ["as of commit 2: 2 orders", "as of commit 3: 5 orders", "as of commit 4: 4 orders", "as of commit 5: 0 orders"]


def blocks(path):
    """The guide's Python blocks, each at its line in the guide, so that errors show that line."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, block.start(1)) + block.group(1)


def with_addresses(text, cluster):
    """A text with the addresses of real daemons in place of the usual ones."""
    usual = [f"127.0.0.1:{port}" for port in (7401, 7402, 7403)]
    for address, daemon in zip(usual, [cluster.writer, *cluster.readers]):
        text = text.replace(address, daemon.address)
    return text


def run_with_tls():
    """Runs the guide's first block for its imports, and those about TLS."""
    cluster = Cluster(tls=True)
    try:
        chosen = [block for block in blocks(GUIDE) if NEEDS_TLS in block]
        names = {"driftdb": driftdb}
        for block in chosen:
            exec(compile(with_addresses(block, cluster).replace("certs/", f"{cluster.path('certs')}/"), GUIDE, "exec"), names)
        try:
            names["db"].tables()
        except driftdb.Unauthenticated:
            pass  # it has arrived
        else:
            raise AssertionError("the daemons serve everyone")
    finally:
        cluster.close()
    return len(chosen)


def run_guide():
    cluster = Cluster()
    try:
        names = {}
        chosen = [block for block in blocks(GUIDE) if NEEDS_TLS not in block]
        for block in chosen:
            exec(compile(with_addresses(block, cluster), GUIDE, "exec"), names)
        assert [change[2] for change in names["seen"][:3]] == ["o1", "o1", "n50"], names["seen"][:3]
        names["db"].close()
    finally:
        cluster.close()
    return len(chosen)


class Program:
    """A program of docs/examples while it runs."""

    def __init__(self, text, environment):
        command = [sys.executable, "-u", "-c", text]
        self.process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
        # A program that prints nothing must not hold up the test for ever.
        self.timer = threading.Timer(60, self.process.kill)
        self.timer.start()

    def lines(self, count):
        return [self.process.stdout.readline().rstrip("\n") for _ in range(count)]

    def end(self):
        self.timer.cancel()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def read(name):
    with open(f"docs/examples/{name}", encoding="utf-8") as file:
        return file.read()


def run_quickstart():
    """Runs the program of the README, and kills the reader that its watch uses, whichever that is."""
    text = read("quickstart.py")
    assert len(text.splitlines()) <= 15, "the quick start is too long"
    cluster = Cluster()
    with driftdb.connect(cluster.url()) as db:
        program = Program(with_addresses(text, cluster), {})
        said = program.lines(3)
        orders = db.table("orders")
        cluster.readers[0].kill()
        orders.put({"id": "o2", "amount": 75})
        said += program.lines(1)
        cluster.readers[0].start()
        cluster.readers[1].kill()
        orders.put({"id": "o3", "amount": 1})
        orders.put({"id": "o4", "amount": 76})
        orders.delete("o2")
        said += program.lines(2)
        program.end()
    cluster.close()
    assert said == QUICKSTART, said


def run_copy():
    """Runs docs/examples/watch.py, and kills its readers in turn."""
    cluster = Cluster()
    with driftdb.connect(cluster.url()) as db:
        orders = db.create_table("orders")
        with db.commit() as commit:
            for key in ("o1", "o2"):
                commit.put("orders", {"id": key})
        readers = ",".join(reader.address for reader in cluster.readers)
        program = Program(read("watch.py"), {"DRIFTDB_WRITER": cluster.writer.address, "DRIFTDB_READER": readers})
        said = program.lines(1)
        with db.commit() as commit:
            for key in ("o3", "o4", "o5"):
                commit.put("orders", {"id": key})
        said += program.lines(1)
        cluster.readers[0].kill()
        orders.delete("o1")
        said += program.lines(1)
        cluster.readers[0].start()
        cluster.readers[1].kill()
        db.drop_table("orders")
        said += program.lines(1)
        program.end()
    cluster.close()
    assert said == COPY, said


def main():
    stop_on_sigterm()
    count = run_with_tls() + run_guide()
    assert count >= 8, count
    run_quickstart()
    run_copy()
    print(f"{GUIDE}: {count} pieces of Python run, and the examples")


if __name__ == "__main__":
    main()
