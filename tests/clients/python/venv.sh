# For the scripts in this directory, which run it at the top of the sources: $venv is a directory with Python and the libraries.
# It is in the target directory, so that `make clean` removes it.

venv=$(realpath -m "${CARGO_TARGET_DIR:-target}/.venv")
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
