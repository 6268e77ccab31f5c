#!/bin/bash
# check.sh: everything about the sources that needs no server. All steps run, also after one that fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

status=0
step() { # NAME COMMAND...
  local name=$1 out
  shift
  if out=$("$@" 2>&1); then
    echo "ok    $name"
  else
    echo "FAIL  $name"
    printf '%s\n' "$out"
    status=1
  fi
}

# shellcheck disable=SC2317 # called by step
formatted() {
  local files
  files=$(gofmt -l .) || { echo "$files"; return 1; }
  [ -z "$files" ] || { echo "$files"; return 1; }
}

# shellcheck disable=SC2317 # called by step
staticcheck() {
  GOWORK=off go build -C tools -o ../bin/ honnef.co/go/tools/cmd/staticcheck && bin/staticcheck ./... ./examples/... ./otelhooks/... ./storage/blobstore/...
}

step "gofmt" formatted
step "go vet" go vet ./... ./examples/... ./otelhooks/... ./storage/blobstore/...
step "staticcheck" staticcheck
step "import rules" go test -count=1 ./internal/archtest
for module in . examples otelhooks storage/blobstore tools; do
  GOWORK=off step "go mod tidy, $module" go -C "$module" mod tidy -diff
done
if command -v shellcheck >/dev/null; then
  step "shellcheck" shellcheck -x scripts/*.sh .ci/run
else
  echo "      shellcheck is not installed: the scripts were not looked at"
fi
exit $status
