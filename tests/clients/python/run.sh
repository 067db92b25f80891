#!/usr/bin/env bash
# Runs the programs beside it, the program in docs/clients.md and the guides' lines, each against daemons on an empty directory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

# The client's libraries: in target/, so that `make clean` takes them along.
venv=target/.venv
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi

. tests/clients/daemons.sh
mkdir "$work/stubs"
"$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$work/stubs" --grpc_python_out="$work/stubs" \
    proto/driftdb/v1/{types,writer,reader}.proto
export PYTHONPATH="$work/stubs:docs/examples" PYTHONDONTWRITEBYTECODE=1 DRIFTDB_BIN=$bin
"$venv/bin/python" "$here/orders.py" --writer "$writer" --reader "$reader"
said "$example_says" "$(DRIFTDB_WRITER=$writer DRIFTDB_READER=$reader "$venv/bin/python" docs/examples/orders.py)"
# A stream that stands still would wait for ever.
for program in aio.py watching.py writers.py "guide.py docs/python.md" "grpcurl.py docs/grpcurl.md docs/replicas.md"; do
    # shellcheck disable=SC2086 # a program and what it is given
    timeout 300 "$venv/bin/python" "$here"/$program
done
