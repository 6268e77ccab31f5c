#!/bin/bash
# test.sh: runs every test of all modules: with the race detector, except in packages that have no goroutines of their own,
# where it would find nothing and cost most of the time, in the examples, whose work is done by processes of their own, and in package
# amber, which only wires others, and in internal/chaos, which drives it. Of restore/command, whose tests take long, those run with it once more that have the most going on at once.
#
# usage: test.sh [arguments for go test]
set -euo pipefail
cd "$(dirname "$0")/.."

plain='/amber$|/(restore/command|rdb|examples|internal/(archtest|bench|chaos|crc64|distinct|extsort|intset|lzf|listpack|lz4frame|redact|ziplist|zipmap))(/|$)'

# Results are never taken from a cache: the servers that tests talk to are not among what it knows of.
run() { go test -count=1 "$@" | { grep -v 'no test files' || true; }; }

all=$(go list ./... ./examples/... ./storage/blobstore/...)
status=0
mapfile -t packages < <(grep -Ev "$plain" <<<"$all")
run -race "$@" "${packages[@]}" || status=1
run -race -run 'TestConnectionBreaks|TestCancelAndCarryOn|TestSlotsMove|TestMergeBesideWriter|TestContractOfCluster' "$@" ./restore/command &
racing=$!
mapfile -t packages < <(grep -E "$plain" <<<"$all")
[ ${#packages[@]} = 0 ] || run "$@" "${packages[@]}" || status=1
wait $racing || status=1
exit $status
