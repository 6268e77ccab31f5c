#!/bin/bash
# stores.sh: prepares the object stores that the tests run against: versitygw for S3, fake-gcs-server for GCS, Azurite for Azure.
#
# The first two are built with Go, the third is installed with npm, all in a pinned version and below one directory. None
# needs root or a container.
#
# usage: stores.sh [--quiet]     prepare what is missing (a moment when all is there); --quiet: say nothing then
# Where: "stores" in $AMBER_SERVERS, else in ${XDG_CACHE_HOME:-$HOME/.cache}/amber/servers
set -euo pipefail
cd "$(dirname "$0")/.."

versitygw=v1.8.0
fakegcs=v1.56.1
azurite=3.35.0 # as in tools/azurite/package.json

fail() { echo "stores.sh: $*" >&2; exit 1; }

case "${1:-}" in
"" | --quiet) ;;
*) fail "unknown argument $1; usage: stores.sh [--quiet]" ;;
esac
dir=${AMBER_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/amber/servers}/stores
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# One preparation at a time, as in servers.sh.
exec 9>"$dir/.lock"
flock 9

# ready NAME VERSION: is it there in that version? done NAME VERSION says that it is.
ready() { [ "$(cat "$dir/$1.version" 2>/dev/null)" = "$2" ]; }
prepared() {
  echo "$2" >"$dir/$1.version"
  news=1
}

# build NAME PACKAGE VERSION: builds a Go program. Neither this tree's modules nor its flags have a part in that.
build() {
  ready "$1" "$3" && return
  echo "stores.sh: building $1 $3" >&2
  local log
  log=$(mktemp)
  if ! (cd "$dir" && GOBIN=$dir GOWORK=off GOFLAGS='' CGO_ENABLED=0 go install -trimpath -ldflags='-s -w' "$2@$3") >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "building $1 failed"
  fi
  rm -f "$log"
  prepared "$1" "$3"
}

news=
build versitygw github.com/versity/versitygw/cmd/versitygw "$versitygw"
build fake-gcs-server github.com/fsouza/fake-gcs-server "$fakegcs"
if ! ready azurite "$azurite"; then
  command -v npm >/dev/null || fail "npm is missing: run as root  apt-get update && apt-get install -y nodejs npm"
  echo "stores.sh: installing azurite $azurite" >&2
  rm -rf "$dir/azurite"
  mkdir -p "$dir/azurite"
  cp tools/azurite/package.json tools/azurite/package-lock.json "$dir/azurite/"
  log=$(mktemp)
  if ! (cd "$dir/azurite" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund) >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "installing azurite failed"
  fi
  rm -f "$log"
  prepared azurite "$azurite"
fi

if [ -n "$news" ] || [ "${1:-}" != --quiet ]; then
  printf '%-16s %s\n' versitygw "$versitygw" fake-gcs-server "$fakegcs" azurite "$azurite"
fi
