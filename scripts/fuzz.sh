#!/bin/bash
# fuzz.sh: runs every fuzz target of the tree, one after the other.
#
# usage: fuzz.sh COUNT [PATTERN]    each target for COUNT executions; only those whose "package Name" matches PATTERN
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:?usage: fuzz.sh COUNT [PATTERN]}
pattern=${2:-.}

targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's#^\(\./.*\)/[^/]*:func \(Fuzz.*\)$#\1 \2#; s#^\./[^/ ]*:func #. #' | sort -u | grep -E "$pattern" || true)
[ -n "$targets" ] || { echo "fuzz.sh: no fuzz target matches $pattern" >&2; exit 1; }
while read -r package name; do
  echo "== $package $name"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "${count}x" "$package" </dev/null
done <<<"$targets"
