#!/bin/bash
# servers.sh: prepares the real servers that the tests run against: Redis 7.0 and 8.0, Valkey 8.1 and 9.1.
#
# Each comes from Debian packages of its suite, unpacked with all its libraries below one directory and started with
# its own loader. That needs neither root nor a container, and four versions live side by side whatever the host has.
# Testing moves on, so a suite promises "at least this version", and the script checks it.
#
# usage: servers.sh [--quiet]     prepare what is missing (a second when all is there); --quiet: say nothing then
# Where: $AMBER_SERVERS, else ${XDG_CACHE_HOME:-$HOME/.cache}/amber/servers
set -euo pipefail
# shellcheck source=scripts/debian.sh
. "$(dirname "$0")/debian.sh"

case "${1:-}" in
"" | --quiet) ;;
*) fail "unknown argument $1; usage: servers.sh [--quiet]" ;;
esac
dir=${AMBER_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/amber/servers}
arch=$(uname -m)-linux-gnu
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# One preparation at a time: two test runs that start together must not unpack over each other.
exec 9>"$dir/.lock"
flock 9

# wrap NAME SUITE PRODUCT: writes $dir/bin/NAME/{PRODUCT-server,-cli,-check-rdb}, which start the programs of that suite.
wrap() {
  local name=$1 root=$dir/$2/root product=$3 ld='' lib prog
  lib=$root/usr/lib/$arch
  # The loader is taken from the library directory: lib64 may be an absolute link to the host's.
  for ld in "$lib"/ld-linux-*.so.* "$root/lib/$arch"/ld-linux-*.so.*; do [ -e "$ld" ] && break; done
  [ -e "$ld" ] || fail "no loader in $root"
  mkdir -p "$dir/bin/$name"
  for prog in server cli check-rdb; do
    # --argv0: redis-server and redis-check-rdb are one program that looks at its own name.
    printf '#!/bin/sh\nexec "%s" --argv0 "%s" --library-path "%s:%s" "%s" "$@"\n' \
      "$ld" "$product-$prog" "$lib" "$root/lib/$arch" "$root/usr/bin/$product-$prog" >"$dir/bin/$name/.$prog"
    chmod +x "$dir/bin/$name/.$prog"
    mv "$dir/bin/$name/.$prog" "$dir/bin/$name/$product-$prog"
  done
}

# ready NAME PRODUCT ATLEAST: is it there, does it run, is it new enough?
ready() {
  local server=$dir/bin/$1/$2-server have
  [ -x "$server" ] || return 1
  have=$("$server" --version 2>/dev/null | sed -n 's/.*v=\([0-9.]*\).*/\1/p')
  [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$3" "$have" | sort -V | sed -n 1p)" = "$3" ]
}

prepare() { # SUITE "PACKAGE..." then NAME:PRODUCT:ATLEAST ...
  local suite=$1 packages=$2 spec name product least todo=
  shift 2
  for spec; do
    IFS=: read -r name product least <<<"$spec"
    ready "$name" "$product" "$least" || todo=1
  done
  [ -n "$todo" ] || return 0
  # shellcheck disable=SC2086
  closure=yes unpack "$dir/$suite" "$suite" $packages
  for spec; do
    IFS=: read -r name product least <<<"$spec"
    wrap "$name" "$suite" "$product"
    ready "$name" "$product" "$least" || fail "$suite gave no $product of at least $least: $("$dir/bin/$name/$product-server" --version 2>&1)"
  done
  news=1
}

news=
prepare bookworm "redis-server" redis-7.0:redis:7.0
prepare trixie "redis-server valkey-server" redis-8.0:redis:8.0 valkey-8.1:valkey:8.1
prepare forky "valkey-server" valkey-9.1:valkey:9.1

if [ -n "$news" ] || [ "${1:-}" != --quiet ]; then
  for server in "$dir"/bin/*/*-server; do
    printf '%-11s %s\n' "$(basename "$(dirname "$server")")" "$("$server" --version)"
  done
fi
