"""A database for tests: `driftctl dev` on free ports and an empty directory. Fixtures of pytest, once this package is installed:

    def test_orders(driftdb_database):
        orders = driftdb_database.create_table("orders")
        orders.put({"id": "o1"})
        assert orders.get("o1").seq == 2

`driftdb_database` is a client of a new database for each test, and `driftdb_server` a server for all tests of a run. The program
driftctl is looked for in the directory that DRIFTDB_BIN names, then in PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import IO

import pytest

from . import Database, connect

_LISTENS = re.compile(r"^(writer|reader)\s+http://(\S+)$")
# How long driftctl may take to start, and to stop, in seconds.
_START, _STOP = 30.0, 20.0


class DevServer:
    """A writer and a reader in a process of their own, on a directory that is removed at the end. Use it in a `with`."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="driftdb-")
        command = [_driftctl(), "dev", "-d", os.path.join(self._directory.name, "data")]
        command += ["--listen", "127.0.0.1:0", "--reader-listen", "127.0.0.1:0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found: dict[str, str] = {}
        reading = threading.Thread(target=self._read_addresses, args=(found,), daemon=True)
        reading.start()
        reading.join(_START)
        if len(found) < 2:
            self._process.kill()
            _, said = self._process.communicate()
            self._directory.cleanup()
            raise RuntimeError(f"driftctl dev did not start: {said.strip()}")
        self._drains = [threading.Thread(target=_drain, args=(pipe,), daemon=True) for pipe in self._pipes()]
        for drain in self._drains:
            drain.start()
        self.url = f"driftdb://{found['writer']},{found['reader']}"

    def connect(self) -> Database:
        """A client of the database."""
        return connect(self.url)

    def close(self) -> None:
        """Stops the server and removes its directory."""
        self._process.terminate()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for drain in self._drains:
            drain.join()
        for pipe in self._pipes():
            pipe.close()
        self._directory.cleanup()

    def __enter__(self) -> DevServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _pipes(self) -> list[IO[str]]:
        return [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]

    def _read_addresses(self, found: dict[str, str]) -> None:
        """Reads what the server prints, until it has named both addresses or ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            match = _LISTENS.match(line.strip())
            if match:
                found[match[1]] = match[2]
            if len(found) == 2:
                return


@pytest.fixture(scope="session")
def driftdb_server() -> Iterator[DevServer]:
    """A server for all tests of a run."""
    with DevServer() as server:
        yield server


@pytest.fixture
def driftdb_database() -> Iterator[Database]:
    """A client of a new database."""
    with DevServer() as server, server.connect() as database:
        yield database


def _driftctl() -> str:
    directory = os.environ.get("DRIFTDB_BIN")
    program = os.path.join(directory, "driftctl") if directory else shutil.which("driftctl")
    if program is None or not os.path.exists(program):
        raise RuntimeError("driftctl is not found: add its directory to PATH, or name it in DRIFTDB_BIN")
    return program


def _drain(pipe: IO[str]) -> None:
    for _ in pipe:
        pass
