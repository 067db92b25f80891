#!/usr/bin/env bash
# Runs the programs in this directory, the example and the guides' lines, each with daemons on an empty directory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

# The client's libraries are installed in the target directory, so that `make clean` removes them.
venv=${CARGO_TARGET_DIR:-target}/.venv
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
expect_output "$example_output" \
    "$(DRIFTDB_WRITER=$writer DRIFTDB_READER=$reader "$venv/bin/python" docs/examples/orders.py)"
# A stream that stops sending would make its program wait forever.
for program in aio.py watching.py writers.py "guide.py docs/python.md" "grpcurl.py docs/grpcurl.md docs/replicas.md"; do
    # shellcheck disable=SC2086 # a program and its arguments
    timeout 300 "$venv/bin/python" "$here"/$program
done
