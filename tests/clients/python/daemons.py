"""Starts daemons on free ports for the programs in this directory, and stops them at the end."""

import os
import signal
import subprocess
import sys
import tempfile


class Daemon:
    """driftdb-writer or driftdb-reader on a data directory."""

    def __init__(self, name, data, *options):
        program = os.path.join(os.environ["DRIFTDB_BIN"], f"driftdb-{name}")
        command = [program, "--data", data, "--listen", "127.0.0.1:0", "--log", "error", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline().strip()
        self.address = said.removeprefix("listening on ")
        assert self.address != said, f"{name} printed {said!r} instead of its address"

    def kill(self):
        """SIGKILL: the daemon ends without any message."""
        self.end(signal.SIGKILL)

    def stop(self):
        """SIGTERM: the daemon ends its streams with a reason."""
        self.end(signal.SIGTERM)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait()
        self.process.stdout.close()


class Daemons:
    """A writer, and readers on demand, on an empty directory."""

    def __init__(self, *options):
        self.options = options

    def __enter__(self):
        # A program that is stopped for taking too long stops its daemons, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped before it was done"))
        self.directory = tempfile.TemporaryDirectory()
        self.running = []
        self.writer = self.start("writer", *self.options).address
        return self

    def start(self, name, *options):
        daemon = Daemon(name, os.path.join(self.directory.name, "data"), *options)
        self.running.append(daemon)
        return daemon

    def reader(self):
        return self.start("reader")

    def kill(self, daemon):
        self.running.remove(daemon)
        daemon.kill()

    def stop(self, daemon):
        self.running.remove(daemon)
        daemon.stop()

    def __exit__(self, *_):
        for daemon in reversed(self.running):
            daemon.kill()
        self.directory.cleanup()
