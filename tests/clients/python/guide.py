#!/usr/bin/env python3
"""Runs all Python code of docs/python.md, in order, as a reader of the guide would. Run by run.sh."""

import re
import sys
import time

from google.protobuf import duration_pb2, timestamp_pb2

from daemons import Daemons


def blocks(path):
    """The guide's Python blocks, each at its line in the guide, so that errors show that line."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, block.start(1)) + block.group(1)


def main():
    guide = sys.argv[1]
    # What the guide expects its reader to have.
    names = {"timestamp": timestamp_pb2.Timestamp(seconds=int(time.time())), "duration": duration_pb2.Duration(seconds=1)}
    count = 0
    with Daemons() as daemons:
        addresses = {"127.0.0.1:7401": daemons.writer}
        addresses |= {f"127.0.0.1:{port}": daemons.reader().address for port in (7402, 7403)}
        for block in blocks(guide):
            for usual, address in addresses.items():
                block = block.replace(usual, address)
            exec(compile(block, guide, "exec"), names)
            count += 1
    assert count >= 8, count
    print(f"{guide}: {count} pieces of Python run")


if __name__ == "__main__":
    main()
