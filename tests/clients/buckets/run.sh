#!/usr/bin/env bash
# Runs backup, restore, a shipping writer and a reader of the bucket against two servers that speak the protocol of S3: SeaweedFS and moto.
# Fails if their packages cannot be installed on this machine; with DRIFTDB_WITHOUT_S3_SERVERS=1 it is skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

if [ "${DRIFTDB_WITHOUT_S3_SERVERS:-}" = 1 ]; then
    echo "skipped: DRIFTDB_WITHOUT_S3_SERVERS is set" >&2
    exit 0
fi
venv=${CARGO_TARGET_DIR:-target}/.venv-buckets
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    if ! { "${PYTHON:-python3}" -m venv "$venv" &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"; }; then
        echo "cannot install the S3 servers of tests/clients/buckets/requirements.txt; set DRIFTDB_WITHOUT_S3_SERVERS=1 to skip them" >&2
        exit 1
    fi
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
venv=$(realpath "$venv")

. tests/clients/daemons.sh
bin=$(realpath "$bin")
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test-secret AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true
unset AWS_PROFILE AWS_SESSION_TOKEN DRIFTDB_DATA DRIFTDB_WRITER DRIFTDB_READER

# free_port: a port that nothing listens on, and neither on the one 10,000 above it, which SeaweedFS uses, too.
free_port() {
    "$venv/bin/python" - <<'PYTHON'
import random, socket
while True:
    port = random.randrange(15_000, 30_000)
    try:
        for candidate in (port, port + 10_000):
            with socket.socket() as tried:
                tried.bind(("127.0.0.1", candidate))
        print(port)
        break
    except OSError:
        pass
PYTHON
}

# serve NAME PROGRAM...: starts a server, whose output goes to a file.
serve() {
    local name=$1
    shift
    "$@" >"$work/$name.err" 2>&1 &
    daemons+=($!)
}

# make_bucket: creates the bucket `drift` as soon as the server at AWS_ENDPOINT answers.
make_bucket() {
    "$venv/bin/python" - <<'PYTHON'
import os, time, boto3, botocore.exceptions
s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"], region_name="us-east-1")
for attempt in range(300):
    try:
        s3.create_bucket(Bucket="drift")
        break
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        if attempt == 299:
            raise SystemExit(f"the server does not answer: {error}")
        time.sleep(0.2)
PYTHON
}

# wait_for FILE: waits until a daemon listens, and sets $address.
wait_for() {
    for _ in $(seq 300); do
        address=$(sed -n '1s/^listening on //p' "$1")
        [ -z "$address" ] || return 0
        sleep 0.1
    done
    echo "no daemon listens: $1" >&2
    return 1
}

# count ARGS...: the number of orders that driftctl finds.
count() {
    "$bin/driftctl" "$@" sql -e 'SELECT COUNT(*) FROM orders' | sed 's/[^0-9]//g'
}

# check_server NAME: everything that a bucket is for, on the server at AWS_ENDPOINT.
check_server() {
    local name=$1 url=s3://drift/$1/orders at=$work/$1
    mkdir "$at"
    : >"$at/writer.out"
    : >"$at/reader.out"
    "$bin/driftctl" storage-check "s3://drift/$name"
    # A backup, and a restore of its first half.
    "$bin/driftctl" -d "$at/data" sql -e 'CREATE TABLE orders (pk=id, INDEX(status))'
    for half in 1 2; do
        seq 1 200 | sed "s/.*/{\"id\":\"$half-&\",\"status\":\"s$half\"}/" >"$at/rows"
        "$bin/driftctl" -d "$at/data" ingest orders --file "$at/rows" --format jsonl
        "$bin/driftctl" backup -d "$at/data" "$url"
    done
    "$bin/driftctl" backup list "$url"
    "$bin/driftctl" backup verify "$url" --deep
    "$bin/driftctl" restore "$url" "$at/half" --to @seq:201
    [ "$(count -d "$at/half")" = 200 ]
    [ "$(count -d "$url")" = 400 ]
    # A writer that ships, and a reader that has only the bucket.
    "$bin/driftdb-writer" --data "$at/data" --listen 127.0.0.1:0 --bucket "$url" --bucket-interval 100ms \
        >"$at/writer.out" 2>"$work/$name-writer.err" &
    daemons+=($!)
    wait_for "$at/writer.out"
    local writer=$address
    "$bin/driftdb-reader" --data "$at/cache" --listen 127.0.0.1:0 --bucket "$url" >"$at/reader.out" 2>"$work/$name-reader.err" &
    daemons+=($!)
    wait_for "$at/reader.out"
    "$bin/driftctl" --writer "$writer" --reader "$address" ingest orders --file "$at/rows" --format jsonl --upsert
    local found=''
    for _ in $(seq 300); do
        found=$("$bin/driftctl" --writer "$writer" --reader "$address" sql -e "SELECT COUNT(*) FROM orders WHERE status = \"s2\"" 2>&1 |
            sed 's/[^0-9]//g') || true
        [ "$found" = 200 ] && break
        sleep 0.1
    done
    [ "$found" = 200 ]
    kill "${daemons[-2]}" "${daemons[-1]}"
    wait "${daemons[-2]}" "${daemons[-1]}" || true
    "$bin/driftctl" backup verify "$url" --deep
    echo "$name: everything passed"
}

port=$(free_port)
export AWS_ENDPOINT=http://127.0.0.1:$port
serve moto "$venv/bin/moto_server" -H 127.0.0.1 -p "$port"
make_bucket
check_server moto

weed=$(command -v "$venv/bin/weed" || true)
if [ -z "$weed" ]; then
    weed=$(find "$venv" -type f -name 'weed*' -perm -u+x | head -1)
fi
port=$(free_port)
export AWS_ENDPOINT=http://127.0.0.1:$port
mkdir "$work/weed-data"
serve weed "$weed" server -dir="$work/weed-data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port="$(free_port)" -volume.port="$(free_port)" \
    -filer -filer.port="$(free_port)" -s3 -s3.port="$port" -master.volumeSizeLimitMB=64
make_bucket
check_server weed
