#!/usr/bin/env bash
# Runs the programs in this directory, the example and the guide's lines, each with daemons on an empty directory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "skipping the Node client: node and npm are not both installed" >&2
    exit 0
fi

# The client's libraries are installed in the target directory, so that `make clean` removes them. Node looks for
# libraries in the directory of a program, so the programs are copied there.
modules=${CARGO_TARGET_DIR:-target}/.node
if ! cmp -s "$here/package-lock.json" "$modules/installed.json"; then
    rm -rf "$modules"
    mkdir -p "$modules"
    cp "$here/package.json" "$here/package-lock.json" "$modules"
    (cd "$modules" && npm ci --silent --ignore-scripts --no-audit --no-fund)
    cp "$here/package-lock.json" "$modules/installed.json"
fi
cp "$here"/{daemons,guide,model,watching,writers}.mjs docs/examples/watch.mjs "$modules"
cp "$here/orders.mjs" "$modules/test.mjs"
cp docs/examples/orders.mjs "$modules/example.mjs"

. tests/clients/daemons.sh
export DRIFTDB_WRITER=$writer DRIFTDB_READER=$reader
node "$modules/test.mjs"
expect_output "$example_output" "$(node "$modules/example.mjs")"
# A stream that stops sending would make its program wait forever.
export DRIFTDB_BIN=$bin
timeout 300 node "$modules/watching.mjs"
timeout 300 node "$modules/writers.mjs"
timeout 300 node "$modules/guide.mjs"
