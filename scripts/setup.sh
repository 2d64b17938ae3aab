# What Bulkhead needs on this machine, found out and installed. Sourced by ./bulkhead and ./x; bash.
# The caller sets `home` (this repository) and `me` (its own name for messages). Everything printed goes to stderr.
#
#   setup_is_ready MODE   true when nothing is missing; sets `node`.
#   setup_ensure MODE     installs what is missing, sets `node`; exits 125 with a next step when it cannot.
#
# Modes: `run` for containers and gVisor; `microvm` for microVMs as well; `dev` is `run` with the tools of development,
# `test` is all of it.
#
# Two stamps say "ready": one in the state directory for what the machine has, one in the repository for what is
# built in it. Both are written last, so a kill at any moment only means that the next run looks again.

if ((EUID == 0)); then state=/var/lib/bulkhead; else state=${XDG_STATE_HOME:-${HOME-/}/.local/state}/bulkhead; fi
state=${BULKHEAD_STATE:-$state}
[[ $state == /* ]] || state=$PWD/$state
readonly EXIT_CANNOT=125
# What the network stack in the agent is written for.
readonly RUST_MINOR_MIN=91
readonly NODE_MAJOR_MIN=24
# An older npm ignores parts of the lock file.
readonly NPM_MAJOR_MIN=10
# The first runsc whose systrap platform is complete; Debian 12 itself has 20221219.
readonly RUNSC_DATE_MIN=20230801
readonly LOG_TAIL_LINES=20
readonly APT_LOCK_SECONDS=300

setup_say() { printf '%s: %s\n' "$me" "$*" >&2; }

# Everything microVMs need is root's, and the kernel is for x86-64.
with_microvm() { [[ $1 == microvm || $1 == test ]] && ((EUID == 0)) && [[ $HOSTTYPE == x86_64 ]]; }
with_tools() { [[ $1 == dev || $1 == test ]]; }

# Starts no process at all: this is on the way of every command.
setup_is_ready() {
  local mode=$1 stamp=$home/.bulkhead/ready-$1 for_state file guest=()
  [[ -r $stamp && -e $state/setup/ready ]] || return 1
  { IFS= read -r for_state && IFS= read -r node; } <"$stamp" || return 1
  [[ $for_state == "$state" && -x $node && -x $home/target/release/bulkhead-agent ]] || return 1
  [[ -x $home/target/release/bulkhead-keeper && -x $home/target/release/bulkhead-layers ]] || return 1
  [[ -d $home/node_modules ]] || return 1
  if with_microvm "$mode"; then
    [[ -e $state/guest/index.json ]] || return 1
    guest=("$home"/guest/{kernel.config,monitor.mak})
  fi
  shopt -s globstar nullglob
  # A directory is newer when a file in it has come or gone.
  for file in "$home"/{agent,keeper,layers}/{,*,src/**,wire/**} "$home"/{Cargo.toml,Cargo.lock,.cargo/config.toml} \
    "$home"/{package-lock.json,scripts/setup*.sh,scripts/node/package-lock.json} \
    ${guest[@]+"${guest[@]}"}; do
    [[ ! $file -nt $stamp ]] || return 1
  done
}

# --- what is here -----------------------------------------------------------------------------------------------

has() { command -v "$1" >/dev/null 2>&1; }

first_number() { [[ $1 =~ ([0-9]+) ]] && printf '%s' "${BASH_REMATCH[1]}"; }

is_node() { # path
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  (($(first_number "$version") >= NODE_MAJOR_MIN))
}

# Sets `node` to a Node.js that is new enough and has an npm that goes with it, if there is one.
find_node() {
  local candidate npm_version
  candidate=$(command -v node 2>/dev/null) && candidate=$(readlink -f -- "$candidate")
  if [[ -n $candidate ]] && is_node "$candidate"; then
    # By the name that was found: shims of version managers tell by it which program is meant.
    node=$(command -v node)
    npm_version=$(npm --version 2>/dev/null) && (($(first_number "$npm_version") >= NPM_MAJOR_MIN)) && return 0
  fi
  node=$state/node-24/bin/node
  is_node "$node" && cmp -s "$home/scripts/node/package-lock.json" "$state/node-24/package-lock.json"
}

has_cargo() {
  local version
  version=$(cd / && cargo --version 2>/dev/null) || return 1
  [[ $version =~ ^cargo\ 1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= RUST_MINOR_MIN))
}

runsc_is_new() { # path of a program, or a version
  local text=$1
  [[ $text != */* ]] || text=$("$1" --version 2>/dev/null) || return 1
  [[ $text =~ (20[0-9]{6}) ]] && ((BASH_REMATCH[1] >= RUNSC_DATE_MIN))
}

has_runsc() {
  local found
  runsc_is_new "$state/runtimes/runsc/usr/bin/runsc" && return 0
  found=$(command -v runsc 2>/dev/null) && runsc_is_new "$found"
}

# Only unpacked: installed, the package would start a server.
has_registry() { [[ -x $state/test/docker-registry/usr/bin/docker-registry ]]; }

# Changes with the lock file, with what of it is wanted, and with the Node it was installed for.
npm_mark() { # run or dev
  printf '%s %s' "$1" "$(cksum <"$home/package-lock.json")"
}

npm_is_ready() { # mode; what ./x needs includes what ./bulkhead needs
  local mark
  mark=$(cat "$home/.bulkhead/npm" 2>/dev/null) || return 1
  [[ $mark == "$(npm_mark dev)" ]] || { ! with_tools "$1" && [[ $mark == "$(npm_mark run)" ]]; }
}

binaries_are_ready() {
  local stamp=$home/.bulkhead/built name
  for name in agent keeper layers; do
    [[ -e $stamp && -x $home/target/release/bulkhead-$name ]] || return 1
  done
  [[ -z $(cd "$home" && find agent keeper layers Cargo.toml Cargo.lock .cargo -newer "$stamp" -print -quit) ]]
}

# Fills `packages` (Debian names; `cargo` stands for whatever package has a new enough one), `missing` (programs, for
# people without apt) and `todo` (steps in order).
setup_survey() {
  local mode=$1 kernel_step="" monitor_step=""
  packages=() missing=() todo=() node=""
  want() { # program or file, package
    [[ " ${packages[*]-} " != *" $2 "* ]] || return
    if [[ $1 == /* ]]; then [[ -e $1 ]] && return; else has "$1" && return; fi
    packages+=("$2")
    missing+=("$1")
  }
  if ((EUID == 0)); then
    want crun crun
    want runc runc
    want mmdebstrap mmdebstrap
    want /sbin/mke2fs e2fsprogs
    want skopeo skopeo
    # Where AppArmor is active a container has our profile or is not started.
    [[ $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null) != Y ]] || want apparmor_parser apparmor
    want /etc/ssl/certs/ca-certificates.crt ca-certificates
  fi
  if ! binaries_are_ready || with_tools "$mode"; then
    want cc gcc
    want /usr/include/stdio.h libc6-dev
    has_cargo || { packages+=(cargo) missing+=("cargo (1.$RUST_MINOR_MIN or newer)"); }
  fi
  if with_tools "$mode"; then
    (cd / && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1 ||
      { packages+=(rustfmt rust-clippy) missing+=("cargo fmt" "cargo clippy"); }
    ((EUID != 0)) || want setcap libcap2-bin
  fi
  # Tests read with the first what guests boot from, make images with the second and sign them with the third.
  ((EUID != 0)) || [[ $mode != test ]] || want cpio cpio
  ((EUID != 0)) || [[ $mode != test ]] || want umoci umoci
  ((EUID != 0)) || [[ $mode != test ]] || want gpg-agent gnupg
  if with_microvm "$mode"; then microvm_survey; fi
  local node_is_missing=0
  find_node || node_is_missing=1
  ((node_is_missing == 0)) || has npm || { packages+=(npm) missing+=("node ($NODE_MAJOR_MIN or newer) with npm"); }
  ((${#packages[@]} == 0)) || todo+=(packages)
  ((EUID != 0)) || has_runsc || todo+=(runsc)
  ((EUID != 0)) || [[ $mode != test ]] || has_registry || todo+=(registry)
  ((node_is_missing == 0)) || todo+=(node)
  npm_is_ready "$mode" || todo+=(npm)
  binaries_are_ready || todo+=(build)
  ((EUID != 0)) || [[ -e $state/images/refs/base || ${setup_skip_image-} == yes ]] || todo+=(image)
  # Last, because they take longest: who stops them has all the rest.
  [[ -z $monitor_step ]] || todo+=("$monitor_step")
  [[ -z $kernel_step ]] || todo+=("$kernel_step")
}

setup_describe() { # step
  case $1 in
    packages) printf 'install Debian packages: %s' "${packages[*]}" ;;
    runsc) printf "fetch Debian's runsc (gVisor) into %s" "$state/runtimes/runsc" ;;
    registry) printf "fetch Debian's docker-registry, for tests, into %s" "$state/test/docker-registry" ;;
    node) printf 'fetch Node.js %s into %s' "$NODE_MAJOR_MIN" "$state/node-24" ;;
    npm) printf 'install npm packages into %s' "$home/node_modules" ;;
    build) printf 'build the agent, the keeper and the unpacker of images into %s' "$home/target" ;;
    image) printf 'build the base image from Debian packages into %s' "$state/images" ;;
    monitor | kernel | stock) microvm_describe "$1" ;;
  esac
}

# --- doing it ---------------------------------------------------------------------------------------------------

setup_fail() { # what, next
  printf '%s: error: %s\n' "$me" "$1" >&2
  [[ -z ${2-} ]] || printf '%s: next:  %s\n' "$me" "$2" >&2
  exit "$EXIT_CANNOT"
}

# Runs a command with its output in a log, showing that time passes and the last line of the log.
setup_logged() { # label, command...
  local label=$1 started=$SECONDS shown=$SECONDS status line width
  shift
  # In a process group of its own, so that stopping reaches what it has started as well.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  setup_child=$!
  set +m
  while kill -0 "$setup_child" 2>/dev/null; do
    sleep 0.2
    if [[ -t 2 ]]; then
      width=${COLUMNS:-80}
      line=$(tail -n 1 -- "$log" 2>/dev/null | tr -d '\000-\037\177-\377')
      line="$label ($((SECONDS - started)) s) $line"
      printf '\r\033[K%s' "${line:0:width-1}" >&2
    elif ((SECONDS - shown >= 15)); then
      shown=$SECONDS
      line=$(tail -n 1 -- "$log" 2>/dev/null | tr -d '\000-\037\177-\377')
      printf '%s ... still at it after %s s: %s\n' "$label" "$((SECONDS - started))" "${line:0:100}" >&2
    fi
  done
  wait "$setup_child"
  status=$?
  setup_child=""
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
  ((status == 0)) && printf '%s: done in %s s\n' "$label" "$((SECONDS - started))" >&2
  return "$status"
}

setup_stop() { # exit code
  trap "" INT TERM HUP
  if [[ -n $setup_child && $log == */packages.log ]]; then
    # dpkg stopped half-way refuses to work until somebody repairs it.
    setup_say "stopping as soon as the Debian packages are whole"
    wait "$setup_child"
  elif [[ -n $setup_child ]]; then
    kill -TERM -- "-$setup_child" 2>/dev/null && wait "$setup_child"
  fi
  [[ -z ${work-} ]] || rm -rf -- "$work"
  printf '\n%s: stopped; run it again to go on where it was\n' "$me" >&2
  exit "$1"
}

setup_tail() {
  printf '%s: the end of %s:\n' "$me" "$log" >&2
  tail -n "$LOG_TAIL_LINES" -- "$log" | sed 's/^/  | /' >&2
}

setup_step() { # number, of, step
  local label="[$1/$2]" next=""
  log=$logs/$3.log
  case $3 in
    packages) label+=" Debian packages" next="repair apt on this machine (apt-get update), or install these by hand: ${packages[*]}" ;;
    runsc) label+=" runsc (gVisor)" ;;
    registry) label+=" docker-registry" next="repair apt on this machine (apt-get update), then run it again" ;;
    node) label+=" Node.js $NODE_MAJOR_MIN" next="check that npm reaches its registry, or put Node.js $NODE_MAJOR_MIN or newer on the PATH" ;;
    npm) label+=" npm packages" next="check that npm reaches its registry, then run it again" ;;
    build) label+=" agent, keeper and unpacker" next="check that cargo reaches its registry, then run it again" ;;
    monitor) label+=" QEMU" ;;
    kernel) label+=" guest kernel" next="take Debian's kernel, which starts more slowly: $home/bulkhead setup microvm --stock-kernel" ;;
    stock) label+=" Debian's stock kernel" next="repair apt on this machine (apt-get update), then run it again" ;;
    image)
      printf '%s base image\n' "$label" >&2
      (cd "$home" && exec "$node" packages/cli/src/main.ts image build-base >&2) </dev/null ||
        setup_fail "the base image could not be built" "see the message above; to try again: $home/bulkhead image build-base"
      return
      ;;
  esac
  [[ $3 == packages || $3 == runsc || $3 == registry || $3 == node ]] || use_node
  setup_logged "$label" "do_$3" && return
  setup_tail
  if [[ $3 == runsc ]]; then
    # Everything but the gvisor level works without it, and that level says what it misses.
    setup_say "warning: going on without runsc; the gvisor level is not available until a runsc of $RUNSC_DATE_MIN or newer is on the PATH"
    return
  fi
  if [[ $3 == monitor ]]; then
    setup_say "warning: microVMs run in Debian's QEMU, which starts more slowly, takes more memory and holds more than they need; to try again: $home/bulkhead setup microvm"
    return
  fi
  setup_fail "${label#*] } could not be installed" "$next"
}

use_node() {
  find_node || setup_fail "there is no Node.js $NODE_MAJOR_MIN or newer with npm" "put one on the PATH"
  PATH=${node%/*}:$PATH
}

setup_check_means() {
  ((${#todo[@]} > 0)) || return 0
  if ((${#missing[@]} > 0)) && { ((EUID != 0)) || ! has apt-get; }; then
    local list
    printf -v list '%s, ' "${missing[@]}"
    ((EUID != 0)) && has apt-get &&
      setup_fail "these are missing: ${list%, }" "run it once as root, or install them: apt-get install ${packages[*]}"
    setup_fail "these are missing: ${list%, }" "this system has no apt: install them by hand, then run it again"
  fi
  if [[ " ${todo[*]} " == *" runsc "* ]] && ! has apt-get; then
    todo=("${todo[@]/runsc/}")
    setup_say "warning: no runsc of $RUNSC_DATE_MIN or newer on the PATH; the gvisor level is not available"
  fi
}

setup_lock() {
  (umask 077 && mkdir -p -- "$state/setup/log") || setup_fail "cannot write to $state" "set BULKHEAD_STATE to a directory on a disk with space"
  mkdir -p -- "$home/.bulkhead" || setup_fail "cannot write to $home" "clone the repository to a place that can be written to"
  # Children keep the descriptors: after a kill -9 the next run waits until what was started has really ended.
  exec 8>"$state/setup/lock" 9>"$home/.bulkhead/lock"
  flock -n 8 && flock -n 9 && return
  setup_say "waiting for another first run to finish"
  flock 8 && flock 9
}

setup_ensure() {
  mode=$1 log="" logs="" work="" setup_child=""
  local number=0 step steps stamp stamps=(run)
  . "$home/scripts/setup-steps.sh"
  ! with_microvm "$mode" || . "$home/scripts/setup-microvm.sh"
  setup_lock
  if [[ ${setup_explicit-} != yes ]] && setup_is_ready "$mode"; then
    exec 8>&- 9>&-
    return
  fi
  trap 'setup_stop 130' INT
  trap 'setup_stop 143' TERM HUP
  touch "$home/.bulkhead/ready.new"
  rm -rf -- "$state"/setup/work.*
  work=$(mktemp -d "$state/setup/work.XXXXXX") && logs=$state/setup/log
  setup_survey "$mode"
  setup_check_means
  steps=(${todo[@]+"${todo[@]}"})
  if ((${#steps[@]} > 0)); then
    if [[ ${setup_explicit-} == yes ]]; then setup_say "this will now:"; else setup_say "something is missing here. This will now:"; fi
    for step in "${steps[@]}"; do printf '  %s. %s\n' "$((number += 1))" "$(setup_describe "$step")" >&2; done
    setup_say "nothing else on this machine is changed. Logs: $logs"
  fi
  number=0
  for step in ${steps[@]+"${steps[@]}"}; do setup_step "$((number += 1))" "${#steps[@]}" "$step"; done
  use_node
  rm -rf -- "$work"
  "$node" "$home/scripts/bundle.ts" || setup_say "warning: the command line could not be put into one file; it runs from its sources, which takes longer to start"
  : >"$state/setup/ready"
  # Who has all has each part of it.
  ! with_tools "$mode" || stamps+=(dev)
  [[ $mode != microvm && $mode != test ]] || stamps+=(microvm)
  [[ $mode != test ]] || stamps+=(test)
  for stamp in "${stamps[@]}"; do
    printf '%s\n%s\n' "$state" "$node" >"$home/.bulkhead/ready.text"
    touch -r "$home/.bulkhead/ready.new" "$home/.bulkhead/ready.text"
    mv -- "$home/.bulkhead/ready.text" "$home/.bulkhead/ready-$stamp"
  done
  rm -f -- "$home/.bulkhead/ready.new"
  trap - INT TERM HUP
  exec 8>&- 9>&-
  ((${#steps[@]} == 0)) || setup_say "ready"
}
