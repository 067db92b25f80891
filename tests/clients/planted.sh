# For the scripts in this directory: shows that the scenarios catch a client that breaks a promise.

# expect_caught FILE EXPRESSION SCENARIO COMMAND...: breaks a file of a client's copy with an expression of sed, and fails if the command,
# with the name of the scenario as its last argument, succeeds all the same.
expect_caught() {
    local file=$1 expression=$2 scenario=$3
    shift 3
    cp "$file" "$work/sound"
    sed -i "$expression" "$file"
    if cmp -s "$file" "$work/sound"; then
        echo "the expression $expression changes nothing in $file" >&2
        return 1
    fi
    if timeout 120 "$@" "$scenario" >"$work/planted.log" 2>&1; then
        echo "a planted bug was not caught: $expression in $file, by the scenario \"$scenario\"" >&2
        return 1
    fi
    cp "$work/sound" "$file"
    echo "  caught: $expression"
}
