#!/usr/bin/env bash
# Writes the reference of the package, made from its docstrings, as HTML.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
. "$here/venv.sh"

pages=$(realpath -m "${CARGO_TARGET_DIR:-target}/client-docs")
mkdir -p "$pages"
package=$PWD/proto/python
cd "$pages"
PYTHONPATH=$package PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pydoc -w \
    driftdb driftdb.aio driftdb.types driftdb.errors driftdb.testing >/dev/null
echo "the reference is $pages/driftdb.html"
