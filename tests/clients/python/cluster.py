"""Real daemons for one scenario of conformance.json: a writer, readers, and what makes them fail."""

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

BIN = os.environ["DRIFTDB_BIN"]


class Process:
    """A daemon on a port of its own, which it has again when it is started again."""

    def __init__(self, name, data, options):
        self.name, self.data, self.options = name, data, options
        self.address, self.process = "127.0.0.1:0", None
        self.start()

    def start(self):
        command = [os.path.join(BIN, f"driftdb-{self.name}"), "--data", self.data, "--listen", self.address, "--log", "error"]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline().strip()
        self.address = said.removeprefix("listening on ")
        assert self.address != said, f"{self.name} printed {said!r} instead of its address"

    def freeze(self):
        """Stops the process with its connections open: it says nothing any more."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


class Proxy:
    """Passes a connection on. If it is armed, it keeps the next answer back for a while, and then breaks the connection."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.target, self.armed = (host, int(port)), threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.pass_on, args=(client,), daemon=True).start()

    def pass_on(self, client):
        daemon = socket.create_connection(self.target)
        with client, daemon:
            lost_at = None
            while True:
                readable, _, _ = select.select([client] if lost_at else [client, daemon], [], [], 0.05)
                if lost_at and time.monotonic() > lost_at:
                    return
                for one in readable:
                    data = one.recv(65536)
                    if not data:
                        return
                    (daemon if one is client else client).sendall(data)
                    if one is client and self.armed.is_set():
                        # From here on nothing comes back. The request arrives, and has time to be done.
                        self.armed.clear()
                        lost_at = time.monotonic() + 0.5


class Cluster:
    """The daemons of a scenario. All of them are killed at the end."""

    def __init__(self, readers=2, tls=False, tokens=None, proxy=False, poll_interval=None):
        self.directory = tempfile.TemporaryDirectory(prefix="driftdb-")
        self.tls, self.tokens, self.timers = tls, {}, []
        options = self.secure(tokens or {}) if tls else []
        data = os.path.join(self.directory.name, "data")
        self.writer = Process("writer", data, options)
        slow = ["--follow", "poll", "--poll-interval", poll_interval] if poll_interval else []
        self.readers = [Process("reader", data, options + slow) for _ in range(readers)]
        self.proxy = Proxy(self.writer.address) if proxy else None

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def secure(self, tokens):
        for name in ("certs", "other"):
            subprocess.run([os.path.join(BIN, "driftctl"), "cert", "new", self.path(name)], check=True, capture_output=True)
        with open(self.path("auth.toml"), "w", encoding="utf-8") as rules:
            for name, grants in tokens.items():
                command = [os.path.join(BIN, "driftctl"), "token", "new", name, *grants, "--out", self.path(f"{name}.token")]
                subprocess.run(command, check=True, stdout=rules, stderr=subprocess.DEVNULL)
                with open(self.path(f"{name}.token"), encoding="utf-8") as file:
                    self.tokens[name] = file.read()
        certs = self.path("certs")
        return ["--tls-cert", f"{certs}/server.pem", "--tls-key", f"{certs}/server-key.pem", "--auth-file", self.path("auth.toml")]

    def url(self, tls=None, ca="certs"):
        hosts = ",".join([self.proxy.address if self.proxy else self.writer.address, *(reader.address for reader in self.readers)])
        if self.tls if tls is None else tls:
            return f"driftdbs://{hosts}?ca={self.path(ca)}/ca.pem"
        return f"driftdb://{hosts}"

    def start_writer_after(self, seconds):
        timer = threading.Timer(seconds, self.writer.start)
        timer.start()
        self.timers.append(timer)

    def restart_writer(self):
        self.writer.kill()
        self.writer.start()

    def close(self):
        for timer in self.timers:
            timer.join()
        if self.proxy:
            self.proxy.server.close()
        for process in (*self.readers, self.writer):
            if process.process.poll() is None:
                process.kill()
        self.directory.cleanup()


def stop_on_sigterm():
    """A program that is stopped for taking too long stops its daemons, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped before it was done"))
