#!/usr/bin/env bash
# Starts a writer and a reader on an empty directory and runs orders.py against them.
# DRIFTDB_BIN: a directory with built daemons; without it they are built first.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

bin=${DRIFTDB_BIN:-target/debug}
if [ -z "${DRIFTDB_BIN:-}" ]; then
    "${CARGO:-cargo}" build --locked --workspace --bins
fi

# The client's libraries: in target/, so that `make clean` takes them along.
venv=target/.venv
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi

work=$(mktemp -d)
daemons=()
finish() {
    local code=$?
    # The newest first: the reader, then the writer.
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2>/dev/null && wait "${daemons[i]}" || true
    done
    if [ "$code" != 0 ]; then
        tail -n 20 "$work"/*.err >&2 || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# start NAME: starts driftdb-NAME on a free port and sets `address` to where it listens.
start() {
    "$bin/driftdb-$1" --data "$work/data" --listen 127.0.0.1:0 >"$work/$1.out" 2>"$work/$1.err" &
    daemons+=($!)
    for _ in $(seq 300); do
        address=$(sed -n '1s/^listening on //p' "$work/$1.out")
        [ -z "$address" ] || return 0
        kill -0 "${daemons[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "driftdb-$1 does not listen" >&2
    return 1
}

start writer
writer=$address
start reader
reader=$address

mkdir "$work/stubs"
"$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$work/stubs" --grpc_python_out="$work/stubs" \
    proto/driftdb/v1/{types,writer,reader}.proto
PYTHONPATH="$work/stubs" "$venv/bin/python" "$here/orders.py" --writer "$writer" --reader "$reader"
