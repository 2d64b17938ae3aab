# The steps of a set-up, each into its place whole or not at all. Sourced by setup.sh once something is missing.

apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C \
    apt-get -y -o DPkg::Lock::Timeout="$APT_LOCK_SECONDS" -o Dpkg::Use-Pty=0 "$@"
}

# Node.js believes its own list of authorities, the machine's tools believe the machine's: a company's mirror is in one.
run_npm() {
  local machine=/etc/ssl/certs/ca-certificates.crt
  [[ -n ${NODE_EXTRA_CA_CERTS-} || ! -r $machine ]] || local -x NODE_EXTRA_CA_CERTS=$machine
  npm "$@" --ignore-scripts --no-audit --no-fund
}

candidate() { # package
  LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \(.*\)$/\1/p' | grep -v '(none)'
}

do_packages() {
  local name suffix="" chosen=()
  # One unreachable source of the many a machine may have is no reason to stop: what is needed may be there.
  apt_get update || true
  for name in cargo cargo-web; do
    dpkg --compare-versions "$(candidate "$name")" ge "1.$RUST_MINOR_MIN~" && break
  done
  # Debian 12 has the new Rust beside its old one, under another name.
  [[ $name == cargo ]] || suffix=-web
  for name in "${packages[@]}"; do
    case $name in
      cargo | rustfmt) chosen+=("$name$suffix") ;;
      rust-clippy) chosen+=("rust$suffix-clippy") ;;
      *) chosen+=("$name") ;;
    esac
  done
  # Never at the price of a package that somebody installed on purpose.
  apt_get install --no-install-recommends --no-remove "${chosen[@]}"
}

do_runsc() {
  local options=() codename mirror release key=/usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p "$work/runsc" "$work/lists/partial" "$work/cache/archives/partial"
  if ! runsc_is_new "$(candidate runsc)"; then
    codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    while IFS='|' read -r release mirror; do
      [[ $release == "$codename" ]] && break
    done < <(apt-get indextargets --format '$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' 'Component: main')
    [[ ${mirror-} == *://* ]] || { echo "apt has no source for Debian $codename"; return 1; }
    [[ -r $key ]] && key="[signed-by=$key] " || key=""
    printf 'deb %s%s %s-backports main\n' "$key" "$mirror" "$codename" >"$work/backports.list"
    # A list and a cache of our own: the machine's apt learns nothing of this source.
    options=(-o "Dir::Etc::SourceList=$work/backports.list" -o Dir::Etc::SourceParts=/dev/null
      -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Default-Release=)
    # The state directory is closed to the user that apt downloads as otherwise.
    apt_get "${options[@]}" -o APT::Sandbox::User=root update || return 1
  fi
  (cd "$work/runsc" && apt_get "${options[@]}" -o APT::Sandbox::User=root download runsc) || return 1
  dpkg-deb -x "$work"/runsc/runsc_*.deb "$work/runsc/root" || return 1
  runsc_is_new "$work/runsc/root/usr/bin/runsc" || { echo "Debian's runsc is older than $RUNSC_DATE_MIN"; return 1; }
  mkdir -p "$state/runtimes"
  [[ ! -e $state/runtimes/runsc ]] || mv -- "$state/runtimes/runsc" "$work/runsc.old"
  mv -- "$work/runsc/root" "$state/runtimes/runsc"
}

download_registry() { apt_get -o APT::Sandbox::User=root download docker-registry; }

do_registry() {
  mkdir -p "$work/registry"
  # A mirror keeps the newest version only: what the lists of last month name is gone.
  (cd "$work/registry" && { download_registry || { apt_get update && download_registry; }; }) || return 1
  dpkg-deb -x "$work"/registry/docker-registry_*.deb "$work/registry/root" || return 1
  mkdir -p "$state/test"
  [[ ! -e $state/test/docker-registry ]] || mv -- "$state/test/docker-registry" "$work/registry.old"
  mv -- "$work/registry/root" "$state/test/docker-registry"
}

do_node() {
  local binary
  mkdir -p "$work/node/bin"
  cp -- "$home"/scripts/node/package.json "$home"/scripts/node/package-lock.json "$home"/.npmrc "$work/node/"
  # The lock file pins the content's digest; no package gets to run anything while it is installed.
  (cd "$work/node" && run_npm ci) || return 1
  for binary in "$work"/node/node_modules/node-linux-*/bin/node; do
    is_node "$binary" && ln -sfn "../${binary#"$work/node/"}" "$work/node/bin/node"
  done
  [[ -x $work/node/bin/node ]] || { echo "there is no Node.js $NODE_MAJOR_MIN for $(uname -m)"; return 1; }
  ln -s ../node_modules/npm/bin/npm-cli.js "$work/node/bin/npm"
  [[ ! -e $state/node-24 ]] || mv -- "$state/node-24" "$work/node.old"
  mv -- "$work/node" "$state/node-24"
}

do_npm() {
  local level=()
  with_tools "$mode" || level=(--omit=dev)
  rm -f -- "$home/.bulkhead/npm"
  (cd "$home" && run_npm ci "${level[@]}") || return 1
  if with_tools "$mode"; then npm_mark dev; else npm_mark run; fi >"$home/.bulkhead/npm"
}

do_build() {
  # Dated before the build, so that a source changed meanwhile counts as newer.
  touch "$home/.bulkhead/built.new"
  (cd "$home" && cargo build --release --locked --target-dir "$home/target" -p bulkhead-agent -p bulkhead-keeper \
    -p bulkhead-layers) || return 1
  mv -- "$home/.bulkhead/built.new" "$home/.bulkhead/built"
}
