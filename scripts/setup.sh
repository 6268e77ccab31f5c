#!/bin/bash
# setup.sh: installs what building and testing need and this machine lacks. Quick and silent when nothing is missing.
#
# usage: setup.sh [race]     with "race", which is for the tests, also a C compiler, without which Go has no race detector, and
#                            npm, with which stores.sh installs one of the servers
#
# Go: the first of those on PATH, in /usr/local/go and in /usr/lib/go-* that is new enough for go.mod; else the toolchain that an
# older Go fetches by itself; else Debian's package, unpacked below the cache directory, which needs no root. When it is
# not the one that PATH finds, links to it are put into ${XDG_CACHE_HOME:-$HOME/.cache}/amber/go/bin, which the
# Makefile has in front of PATH.
# Debian packages are installed as root or with sudo; else the command to do it is printed, and the script fails.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/debian.sh
. scripts/debian.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/amber/go
need=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' go.mod)

# install COMMAND PACKAGE...: installs Debian packages unless the command is there.
install() {
  local command=$1 as=()
  shift
  ! command -v "$command" >/dev/null || return 0
  local line="apt-get update && apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null || fail "$command is missing and this is not Debian: install it yourself (there, it is in: $*)"
  if [ "$(id -u)" != 0 ]; then
    # With a terminal sudo may ask for a password; without one it must not have to.
    if ! { command -v sudo && { sudo -n true || { [ -t 0 ] && [ -t 2 ]; }; }; } >/dev/null 2>&1; then
      fail "$command is missing; run as root:  $line"
    fi
    as=(sudo)
  fi
  echo "setup.sh: installing $*" >&2
  local log
  log=$(mktemp)
  if ! { ${as[@]+"${as[@]}"} apt-get -q update &&
    ${as[@]+"${as[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "this failed as root:  $line"
  fi
  rm -f "$log"
}

# enough GO: is that Go new enough, without fetching another?
enough() {
  local have
  have=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
  have=${have#go}
  [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | sed -n 1p)" = "$need" ]
}

# use GO: makes the Makefile use it, by links unless PATH finds it anyway.
use() {
  if [ "$1" = "$(first)" ]; then
    rm -rf "${cache:?}/bin"
    return
  fi
  mkdir -p "$cache/bin"
  ln -sf "$1" "$cache/bin/go"
  ln -sf "$(dirname "$1")/gofmt" "$cache/bin/gofmt"
}

# onpath prints every go on PATH but ours.
onpath() { type -aP go | grep -vxF "$cache/bin/go" || true; }
first() { onpath | sed -n 1p; }

choose() {
  local go
  for go in $(onpath) /usr/local/go/bin/go /usr/lib/go-*/bin/go "$cache/root/usr/lib"/go-*/bin/go; do
    if [ -x "$go" ] && enough "$go"; then
      use "$go"
      return
    fi
  done
  # An older Go fetches the toolchain that go.mod asks for, if it may and its proxy has it.
  go=$(first)
  if [ -n "$go" ] && timeout 300 "$go" version >/dev/null 2>&1; then
    use "$go"
    return
  fi
  local why="Go $need or newer is needed. Put it into /usr/local/go (https://go.dev/dl/) or onto PATH"
  command -v apt-get >/dev/null || fail "$why"
  echo "setup.sh: no Go $need on this machine; taking Debian's" >&2
  unpack "$cache" forky "golang-$need-go" "golang-$need-src"
  for go in "$cache/root/usr/lib"/go-*/bin/go; do
    if enough "$go"; then
      use "$go"
      return
    fi
  done
  fail "$why"
}

mkdir -p "$(dirname "$cache")"
exec 8>"$cache.lock"
flock 8
# Without certificates no module can be fetched. Elsewhere than on Debian they lie in other places.
if command -v apt-get >/dev/null && [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
  install update-ca-certificates ca-certificates
fi
if [ "${1:-}" = race ]; then
  install "${CC:-gcc}" gcc libc6-dev
  install npm nodejs npm
fi
choose
