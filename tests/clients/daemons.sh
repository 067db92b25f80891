# For the scripts in this directory: starts a writer and a reader on an empty directory. The scripts find the addresses in
# $writer and $reader, the directory of the programs in $bin, and a directory for temporary files in $work.
# DRIFTDB_BIN names a directory with built daemons; if it is not set, cargo builds them first.

target=${CARGO_TARGET_DIR:-target}
bin=${DRIFTDB_BIN:-$target/debug}
if [ -z "${DRIFTDB_BIN:-}" ]; then
    # The same build as that of `make test`, which has usually run before.
    "${CARGO:-cargo}" build --locked --workspace --bins --tests --examples
fi

work=$(mktemp -d)
daemons=()
finish() {
    local code=$?
    # The reader first, then the writer.
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

# start NAME: starts driftdb-NAME on a free port and sets $address to its address.
start() {
    # The program creates it a moment later.
    : >"$work/$1.out"
    "$bin/driftdb-$1" --data "$work/data" --listen 127.0.0.1:0 >"$work/$1.out" 2>"$work/$1.err" &
    daemons+=($!)
    for _ in $(seq 300); do
        address=$(sed -n '1s/^listening on //p' "$work/$1.out")
        [ -z "$address" ] || return 0
        kill -0 "${daemons[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "driftdb-$1 did not start to listen within 30 s" >&2
    return 1
}

# expect_output EXPECTED FOUND: fails if an example did not print what the guide says.
expect_output() {
    if [ "$2" != "$1" ]; then
        printf 'the example printed\n%s\ninstead of\n%s\n' "$2" "$1" >&2
        return 1
    fi
}

start writer
writer=$address
start reader
reader=$address
example_output='now: {"id":"o1","status":"paid","amount":100}
then: {"id":"o1","status":"pending","amount":100}
paid: o1'
