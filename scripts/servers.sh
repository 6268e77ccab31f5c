#!/bin/bash
# servers.sh: prepares the real servers that the tests run against: Redis 7.0 and 8.0, Valkey 8.1 and 9.1.
#
# Each comes from Debian packages of its suite, unpacked with all its libraries below one directory and started with
# its own loader. That needs neither root nor a container, and four versions live side by side whatever the host has.
# Testing moves on, so a suite promises "at least this version", and the script checks it.
#
# usage: servers.sh            prepare what is missing (seconds when all is there)
# Where: $AMBER_SERVERS, else ${XDG_CACHE_HOME:-$HOME/.cache}/amber/servers
set -euo pipefail

dir=${AMBER_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/amber/servers}
arch=$(uname -m)-linux-gnu
key=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# One preparation at a time: two test runs that start together must not unpack over each other.
exec 9>"$dir/.lock"
flock 9

fail() { echo "servers.sh: $*" >&2; exit 1; }

mirror() {
  local files
  files=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.sources' -o -name '*.list' \) 2>/dev/null || true)
  [ -n "$files" ] || return 0
  # shellcheck disable=SC2086
  awk '/^URIs:/ {for (i = 2; i <= NF; i++) print $i} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; break}}' $files |
    sed -n 's#\(.*/debian\)/*$#\1#p' | sort -u | sed -n 1p
}

# unpack SUITE PACKAGE...: downloads the packages with everything they depend on and unpacks them into $dir/SUITE/root.
unpack() {
  local suite=$1 base=$dir/$1 url
  shift
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "the test servers come from Debian packages: apt-get and dpkg are needed (run on Debian, or put the servers under $dir/bin yourself)"
  [ -e "$key" ] || fail "$key is missing: apt-get install debian-archive-keyring"
  url=$(mirror)
  [ -n "$url" ] || fail "no Debian mirror (…/debian) in this machine's apt sources"
  rm -rf "$base"
  mkdir -p "$base"/apt/{lists/partial,cache/archives/partial}
  : >"$base/apt/status" # an empty list of installed packages, so that the libraries come too
  echo "deb [signed-by=$key] $url $suite main" >"$base/apt/sources.list"
  local apt=(apt-get -q -o Dir::Etc::sourcelist="$base/apt/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::Etc::preferencesparts=- -o Dir::Etc::preferences=-
    -o Dir::State="$base/apt" -o Dir::State::lists="$base/apt/lists" -o Dir::State::status="$base/apt/status"
    -o Dir::Cache="$base/apt/cache" -o Dir::Log="$base/apt" -o Debug::NoLocking=1
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Install-Recommends=false
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
  [ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
  echo "servers.sh: fetching $* from $suite" >&2
  "${apt[@]}" update >"$base/apt.log" 2>&1 || { cat "$base/apt.log" >&2; fail "apt-get update for $suite failed"; }
  "${apt[@]}" install -y --download-only "$@" >>"$base/apt.log" 2>&1 || { cat "$base/apt.log" >&2; fail "fetching $* from $suite failed"; }
  local deb
  for deb in "$base"/apt/cache/archives/*.deb; do dpkg -x "$deb" "$base/root"; done
  rm -rf "$base/apt"
}

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
  for spec; do IFS=: read -r name product least <<<"$spec"; ready "$name" "$product" "$least" || todo=1; done
  [ -n "$todo" ] || return 0
  # shellcheck disable=SC2086
  unpack "$suite" $packages
  for spec; do
    IFS=: read -r name product least <<<"$spec"
    wrap "$name" "$suite" "$product"
    ready "$name" "$product" "$least" || fail "$suite gave no $product of at least $least: $("$dir/bin/$name/$product-server" --version 2>&1)"
  done
}

prepare bookworm "redis-server" redis-7.0:redis:7.0
prepare trixie "redis-server valkey-server" redis-8.0:redis:8.0 valkey-8.1:valkey:8.1
prepare forky "valkey-server" valkey-9.1:valkey:9.1

for server in "$dir"/bin/*/*-server; do printf '%s\t%s\n' "$(basename "$(dirname "$server")")" "$("$server" --version)"; done
