#!/bin/bash
# test.sh: runs every test of all modules, with the race detector where it pays: not in packages that have no goroutines of their own, where it
# would find nothing and cost most of the time, not in the examples, whose work is done by processes of their own, and not in what only wires
# or drives others. Of packages whose tests take long with it those run with it once more that have the most going on at once.
#
# usage: test.sh [arguments for go test]
set -euo pipefail
cd "$(dirname "$0")/.."

plain='/amber$|/(backup|restore|storage|storage/seal|storage/storetest|storage/blobstore/(gcsstore|azurestore))$'
plain+='|/(restore/command|rdb|examples|internal/(archtest|bench|chaos|crc64|distinct|extsort|intset|lzf|listpack|lz4frame|redact|testserver|ziplist|zipmap))(/|$)'

# Results are never taken from a cache: the servers that tests talk to are not among what it knows of.
run() { go test -count=1 "$@" | { grep --line-buffered -v 'no test files' || true; }; }

all=$(go list ./... ./examples/... ./otelhooks/... ./storage/blobstore/...)
status=0
mapfile -t packages < <(grep -Ev "$plain" <<<"$all")
run -race "$@" "${packages[@]}" || status=1
{
  again=0
  run -race -skip Fails "$@" ./backup || again=1
  run -race -run 'GoesOn|TestSampler|TestEncrypted$|TestRestore' "$@" ./restore || again=1
  run -race -run 'TestConnectionBreaks|TestCancelAndCarryOn|TestSlotsMove|TestMergeBesideWriter|TestContractOfCluster' "$@" ./restore/command || again=1
  exit $again
} &
racing=$!
mapfile -t packages < <(grep -E "$plain" <<<"$all")
[ ${#packages[@]} = 0 ] || run "$@" "${packages[@]}" || status=1
wait $racing || status=1
exit $status
