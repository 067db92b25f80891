#!/usr/bin/env bash
# Runs the programs beside it and the program in docs/clients.md, each against daemons on an empty directory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "node client: skipped, because node and npm are not both here" >&2
    exit 0
fi

# The client's libraries: in target/, so that `make clean` takes them along. A program finds those beside it.
modules=target/.node
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
said "$example_says" "$(node "$modules/example.mjs")"
# A stream that stands still would wait for ever.
export DRIFTDB_BIN=$bin
timeout 300 node "$modules/watching.mjs"
timeout 300 node "$modules/writers.mjs"
timeout 300 node "$modules/guide.mjs"
