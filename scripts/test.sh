#!/bin/bash
# test.sh: runs every test of all modules, with the race detector where it pays: not in packages that have no goroutines of their own, where it
# would find nothing and cost most of the time, not in the examples, whose work is done by processes of their own, and not in what only wires
# or drives others. Of packages whose tests take long with it only those run with it that have the most going on at once.
#
# usage: test.sh [arguments for go test]
set -euo pipefail
cd "$(dirname "$0")/.."

plain='/amber$|/(catalog|catalog/(catalogtest|retention)|schedule/journaltest|storage|storage/seal|storage/storetest|storage/blobstore/(gcsstore|azurestore))$'
plain+='|/(rdb|examples|internal/(archtest|bench|chaos|crc64|distinct|extsort|intset|lzf|listpack|lz4frame|redact|testserver|ziplist|zipmap))(/|$)'
partly='/(backup|backup/dumpfile|backup/scan|restore|restore/command|restore/feed)$'

# A program with the race detector sleeps a second at its end, for goroutines that go on to be heard of: a tenth is enough, and there are many programs.
export GORACE="${GORACE:-atexit_sleep_ms=100}"

# Results are never taken from a cache: the servers that tests talk to are not among what it knows of.
run() { go test -count=1 "$@" | { grep --line-buffered -v 'no test files' || true; }; }

all=$(go list ./... ./examples/... ./otelhooks/... ./storage/blobstore/...)
status=0

# split SELECT OTHERS PATTERN PACKAGE: the tests that SELECT selects by the pattern run with the race detector, the others without.
split() {
  local select=$1 others=$2 pattern=$3
  shift 3
  run -race "$select" "$pattern" "$@" || parts=1
  run "$others" "$pattern" "$@" || parts=1
}
{
  parts=0
  split -skip -run 'Fails|TakeLittleMemory' "$@" ./backup
  split -skip -run 'TestSave|TestAOFKinds|TestAOFUnderLoad|TestAOFRewriteAtAnyPoint' "$@" ./backup/dumpfile
  split -skip -run 'TestContents|TestRehashing|TestNoMixedPairs|TestMemory|TestSeen' "$@" ./backup/scan
  split -skip -run 'TestContract' "$@" ./restore/feed
  split -run -skip 'GoesOn|TestSampler|TestEncrypted$|TestRestore' "$@" ./restore
  split -run -skip 'TestConnectionBreaks|TestCancelAndCarryOn|TestSlotsMove|TestMergeBesideWriter|TestContractOfCluster' "$@" ./restore/command
  exit $parts
} &
parts=$!
# Beside these go all others, for most tests wait a part of their time.
mapfile -t packages < <(grep -Ev "$plain|$partly" <<<"$all")
run -race "$@" "${packages[@]}" || status=1
mapfile -t packages < <(grep -E "$plain" <<<"$all")
[ ${#packages[@]} = 0 ] || run "$@" "${packages[@]}" || status=1
wait $parts || status=1
exit $status
