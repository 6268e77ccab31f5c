# shellcheck shell=bash
# debian.sh is for other scripts to source. It unpacks Debian packages of any suite below a directory, with a package
# manager state of their own: that needs no root, touches nothing that is installed, and works beside other versions.

key=/usr/share/keyrings/debian-archive-keyring.gpg

fail() { echo "${0##*/}: $*" >&2; exit 1; }

# mirror prints the Debian mirror that this machine uses, or the public one if its sources name none in a plain way.
mirror() {
  local files
  files=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.sources' -o -name '*.list' \) 2>/dev/null || true)
  { # shellcheck disable=SC2086
    [ -z "$files" ] || awk '/^URIs:/ {for (i = 2; i <= NF; i++) print $i} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; break}}' $files
    echo http://deb.debian.org/debian
  } | sed -n 's#^\(https\{0,1\}://.*/debian\)/*$#\1#p' | sed -n 1p
}

# unpack DIR SUITE PACKAGE...: downloads packages of a suite into DIR/root. With closure=yes in the environment everything
# they depend on comes too, the C library included, so that the programs run on any host; else the packages alone.
unpack() {
  local base=$1 suite=$2 deb
  shift 2
  if ! { command -v apt-get && command -v dpkg; } >/dev/null; then
    fail "$* would come from Debian packages, and this machine has no apt-get or no dpkg"
  fi
  [ -e "$key" ] || fail "$key is missing: run  apt-get install debian-archive-keyring"
  rm -rf "$base"
  mkdir -p "$base"/apt/{lists/partial,cache/archives/partial}
  : >"$base/apt/status" # an empty list of installed packages
  echo "deb [signed-by=$key] $(mirror) $suite main" >"$base/apt/sources.list"
  local apt=(apt-get -q -o Dir::Etc::sourcelist="$base/apt/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::Etc::preferencesparts=- -o Dir::Etc::preferences=-
    -o Dir::State="$base/apt" -o Dir::State::lists="$base/apt/lists" -o Dir::State::status="$base/apt/status"
    -o Dir::Cache="$base/apt/cache" -o Dir::Log="$base/apt" -o Debug::NoLocking=1
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Install-Recommends=false
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
  [ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
  echo "${0##*/}: fetching $* from Debian $suite" >&2
  "${apt[@]}" update >"$base/apt.log" 2>&1 || { cat "$base/apt.log" >&2; fail "apt-get update for $suite failed"; }
  if [ "${closure:-no}" = yes ]; then
    "${apt[@]}" install -y --download-only "$@" >>"$base/apt.log" 2>&1 || { cat "$base/apt.log" >&2; fail "fetching $* from $suite failed"; }
  else
    (cd "$base/apt/cache/archives" && "${apt[@]}" download "$@") >>"$base/apt.log" 2>&1 || { cat "$base/apt.log" >&2; fail "fetching $* from $suite failed"; }
  fi
  for deb in "$base"/apt/cache/archives/*.deb; do dpkg -x "$deb" "$base/root"; done
  rm -rf "$base/apt"
}
