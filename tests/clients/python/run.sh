#!/usr/bin/env bash
# Runs the programs in this directory: with generated stubs, and with the package, its types, its conformance and its guide.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

. "$here/venv.sh"
. tests/clients/daemons.sh
. tests/clients/planted.sh
export PYTHONDONTWRITEBYTECODE=1 DRIFTDB_BIN=$bin

# Generated stubs, as a program in another language would use them. They and the package have one name.
mkdir "$work/stubs"
"$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$work/stubs" --grpc_python_out="$work/stubs" \
    proto/driftdb/v1/{types,writer,reader}.proto
export PYTHONPATH="$work/stubs"
"$venv/bin/python" "$here/orders.py" --writer "$writer" --reader "$reader"
# A stream that stops sending would make its program wait forever.
for program in aio.py watching.py writers.py "grpcurl.py docs/grpcurl.md docs/replicas.md"; do
    # shellcheck disable=SC2086 # a program and its arguments
    timeout 300 "$venv/bin/python" "$here"/$program
done

# The package, as it is in the sources.
export PYTHONPATH=proto/python
expect_output "$example_output" \
    "$(DRIFTDB_WRITER=$writer DRIFTDB_READER=$reader "$venv/bin/python" docs/examples/orders.py)"
"$venv/bin/mypy" --config-file proto/python/pyproject.toml --cache-dir "$venv/mypy"
timeout 300 "$venv/bin/python" -m pytest -q -p no:cacheprovider "$here/test_package.py"
for kind in blocking asyncio; do
    timeout 300 "$venv/bin/python" "$here/conformance.py" "$kind"
done
timeout 300 "$venv/bin/python" "$here/guide.py"

# A package that forgets a promise is caught: no request ids, no resume tokens, no memory of its own writes.
cp -r proto/python "$work/broken"
caught() {
    PYTHONPATH=$work/broken expect_caught "$work/broken/driftdb/$1" "$2" "$3" "$venv/bin/python" "$here/conformance.py" asyncio
}
caught _session.py 's/request_id or str(uuid.uuid4())/request_id/' "a write whose answer is lost"
caught _watch.py 's/self._request.resume_token = self._next_token/self._next_token/' "a watch survives killed readers"
caught _session.py 's/^        self.include(token)$/        pass/' "a client reads its own writes"

# The package, as pip installs it: it must contain all that it needs.
cp -r proto/python "$work/package"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index \
    --target "$work/installed" "$work/package"
for file in py.typed driftdb.v1.bin; do
    cmp "proto/python/driftdb/$file" "$work/installed/driftdb/$file"
done
"$here/reference.sh"
