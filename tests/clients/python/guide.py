#!/usr/bin/env python3
"""Runs all Python code of docs/python.md, in order, as a reader of the guide would. Run by run.sh."""

import os
import re
import subprocess
import sys
import tempfile
import time

from google.protobuf import duration_pb2, timestamp_pb2

from daemons import Daemons

# A block that contains this needs daemons with TLS.
NEEDS_TLS = "ssl_channel_credentials"


def blocks(path):
    """The guide's Python blocks, each at its line in the guide, so that errors show that line."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, block.start(1)) + block.group(1)


def run_with_tls(guide):
    """Runs the guide's first block for its imports, and those about TLS, with daemons that ask for certificates."""
    with tempfile.TemporaryDirectory() as directory:
        certs = os.path.join(directory, "certs")
        subprocess.run([os.path.join(os.environ["DRIFTDB_BIN"], "driftctl"), "cert", "new", certs], check=True)
        options = ["--tls-cert", f"{certs}/server.pem", "--tls-key", f"{certs}/server-key.pem", "--tls-client-ca", f"{certs}/ca.pem"]
        with Daemons(*options) as daemons:
            reader = daemons.start("reader", *options).address
            names = {}
            first, *others = blocks(guide)
            chosen = [first, *(block for block in others if NEEDS_TLS in block)]
            for block in chosen:
                for usual, real in {"127.0.0.1:7401": daemons.writer, "127.0.0.1:7402": reader, "certs/": f"{certs}/"}.items():
                    block = block.replace(usual, real)
                exec(compile(block, guide, "exec"), names)
            assert names["writer"].Status(names["writer_pb2"].WriterServiceStatusRequest()).security.client_certificates
            assert names["reader"].Status(names["reader_pb2"].ReaderServiceStatusRequest()).security.client_certificates
            return len(chosen) - 1


def main():
    guide = sys.argv[1]
    # What the guide expects its reader to have.
    names = {"timestamp": timestamp_pb2.Timestamp(seconds=int(time.time())), "duration": duration_pb2.Duration(seconds=1)}
    count = run_with_tls(guide)
    with Daemons() as daemons:
        addresses = {"127.0.0.1:7401": daemons.writer}
        addresses |= {f"127.0.0.1:{port}": daemons.reader().address for port in (7402, 7403)}
        for block in blocks(guide):
            if NEEDS_TLS in block:
                continue
            for usual, address in addresses.items():
                block = block.replace(usual, address)
            exec(compile(block, guide, "exec"), names)
            count += 1
    assert count >= 8, count
    print(f"{guide}: {count} pieces of Python run")


if __name__ == "__main__":
    main()
