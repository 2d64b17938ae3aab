#!/bin/sh
# Unpacks the peers that this machine lacks into one directory, so that nothing is installed on the system: no daemon is
# started, no service registered, no file written elsewhere. Usage: peers.sh DIR
# Prints one line per peer: `<name> <path>` or `<name> missing: <why>`.
set -eu

dir=${1:?usage: peers.sh DIR}
packages="docker.io podman bubblewrap crun runc"
root=$dir/root
archives=$dir/archives

fetch() {
  mkdir -p "$archives/partial" "$root"
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "apt-get is not on this machine" >"$dir/why"
    return 1
  fi
  # Packages that are installed already are not downloaded again; their programs are found on PATH.
  if ! apt-get -y -q --no-install-recommends --download-only -o Debug::NoLocking=1 \
    -o Dir::Cache::archives="$archives" install $packages >"$dir/apt.log" 2>&1; then
    tail -n 1 "$dir/apt.log" >"$dir/why"
    return 1
  fi
  for deb in "$archives"/*.deb; do
    [ -e "$deb" ] || continue
    dpkg-deb -x "$deb" "$root"
  done
  rm -rf "$archives"
  : >"$dir/complete"
}

[ -e "$dir/complete" ] || fetch || true

report() {
  name=$1
  for place in "$root/usr/bin" "$root/usr/sbin" /usr/bin /usr/sbin /usr/local/bin /usr/local/sbin; do
    if [ -x "$place/$name" ]; then
      echo "$name $place/$name"
      return
    fi
  done
  why="not in the packages $packages"
  [ ! -s "$dir/why" ] || why=$(cat "$dir/why")
  echo "$name missing: $why"
}

for name in bwrap crun runc podman conmon docker dockerd containerd docker-init; do
  report "$name"
done
