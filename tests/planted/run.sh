#!/usr/bin/env bash
# Proves that the tests see: switches on one planted bug at a time, and expects the test that names it to fail.
#
# bugs.txt has a line per bug: its name, a space, and the arguments of `cargo test` that run its test. Each test must pass
# without the bug and fail with it. Every bug of common/src/planted.rs must have a line; those of the client, whose names begin with
# `client-`, are where the client asks for them.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
# A directory of its own: the bugs are compiled in, and no other test may start these programs.
target=${CARGO_TARGET_DIR:-target}/planted
features=(--locked --workspace --features driftdb-common/planted,driftdb/planted --target-dir "$target")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$cargo" build "${features[@]}" --bins --tests --examples

# run BUG ARGUMENT...: runs the test with the bug; without one if BUG is empty.
run() {
    local bug=$1
    shift
    # shellcheck disable=SC2086
    DRIFTDB_PLANTED=$bug timeout 300 "$cargo" test --quiet "${features[@]}" $* -- --include-ignored >"$log" 2>&1
}

failed=0
while read -r bug arguments; do
    case $bug in '' | '#'*) continue ;; esac
    if ! run '' "$arguments"; then
        echo "FAILED  $bug: its test does not pass without the bug: $arguments"
        tail -n 30 "$log"
        failed=1
    elif ! grep -Eq '^running [1-9]' "$log"; then
        echo "FAILED  $bug: no test has this name: $arguments"
        failed=1
    elif run "$bug" "$arguments"; then
        echo "MISSED  $bug: its test passes with the bug: $arguments"
        failed=1
    else
        echo "caught  $bug: $arguments"
    fi
done <tests/planted/bugs.txt

for bug in $(sed -n 's/.*PlantedBug::[A-Za-z]* => "\(.*\)",/\1/p' common/src/planted.rs) \
    $(sed -n 's/.*is_planted("\(client-[a-z-]*\)").*/\1/p' proto/client/*.rs); do
    if ! grep -q "^$bug " tests/planted/bugs.txt; then
        echo "FAILED  $bug: tests/planted/bugs.txt has no line for it"
        failed=1
    fi
done
exit $failed
