#!/usr/bin/env bash
# Runs the programs in this directory: with stubs, and with the package, its types, its conformance and its guide.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "skipping the Node client: node and npm are not both installed" >&2
    exit 0
fi

# The client's libraries are installed in the target directory, so that `make clean` removes them. Node looks for
# libraries in the directory of a program, so the programs are copied there, and the package beside the libraries.
modules=${CARGO_TARGET_DIR:-target}/.node
if ! cmp -s "$here/package-lock.json" "$modules/installed.json"; then
    rm -rf "$modules"
    mkdir -p "$modules"
    cp "$here/package.json" "$here/package-lock.json" "$modules"
    (cd "$modules" && npm ci --silent --ignore-scripts --no-audit --no-fund)
    cp "$here/package-lock.json" "$modules/installed.json"
fi
cp "$here"/*.mjs "$here"/*.ts "$modules"
cp "$here/orders.mjs" "$modules/test.mjs"
cp docs/examples/orders.mjs "$modules/example.mjs"
rm -rf "$modules/node_modules/driftdb"
# As npm packs it: what `files` of package.json names.
mkdir "$modules/node_modules/driftdb"
(cd proto/node && tar -cf - package.json $(node -p 'JSON.parse(fs.readFileSync("package.json")).files.join(" ")')) |
    tar -xf - -C "$modules/node_modules/driftdb"

# The types: programs that they must accept, and mistakes that they must refuse.
(cd "$modules" && node_modules/.bin/tsc --noEmit --strict --target es2022 --lib es2023,dom --module nodenext types.ts)

. tests/clients/daemons.sh
. tests/clients/planted.sh
export DRIFTDB_WRITER=$writer DRIFTDB_READER=$reader DRIFTDB_BIN=$bin
node "$modules/test.mjs"
expect_output "$example_output" "$(node "$modules/example.mjs")"
# A stream that stops sending would make its program wait forever.
timeout 300 node "$modules/watching.mjs"
timeout 300 node "$modules/writers.mjs"
timeout 300 node "$modules/package_test.mjs" docs/errors.md
timeout 300 node "$modules/conformance.mjs" tests/clients/conformance.json
# A package that forgets a promise is caught: no request ids, no resume tokens, no memory of its own writes.
caught() {
    expect_caught "$modules/node_modules/driftdb/lib/$1" "$2" "$3" node "$modules/conformance.mjs" tests/clients/conformance.json
}
caught session.js 's/requestId = randomUUID()/requestId = ""/' "a write whose answer is lost"
caught watch.js 's/{ ...filter, resumeToken: message.resumeToken }/filter/' "a watch survives killed readers"
caught session.js 's/^    this.include(token);$//' "a client reads its own writes"
timeout 300 node "$modules/guide.mjs" docs/node.md docs/examples
