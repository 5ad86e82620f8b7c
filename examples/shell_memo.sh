#!/bin/sh
# A slow command that runs once and is repeated from the cache: its output, its errors and its exit code.
# Usage: examples/shell_memo.sh   (cachectl must be on the PATH)
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export CACHECTL_DIR="$dir/memo"

report() {
    # --key-file: another content of the file is another result.
    cachectl exec --ttl 10m --key-file "$dir/input" -- sh -c "echo ran >> '$dir/log'; wc -w < '$dir/input'"
}

echo "one two three" > "$dir/input"
test "$(report)" -eq 3
test "$(report)" -eq 3
test "$(wc -l < "$dir/log")" -eq 1 # it ran once

echo "one two three four" > "$dir/input"
test "$(report)" -eq 4
test "$(wc -l < "$dir/log")" -eq 2 # and once more for what is new
echo "the command ran twice for four questions"
