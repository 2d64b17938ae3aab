# What microVMs need besides: QEMU, tools for their disks, a guest kernel. Sourced by setup.sh when somebody asks for
# microVMs; uses its functions. Nothing of this is installed for the other levels.
#
#   setup_kernel=stock     take Debian's kernel and QEMU instead of building our own
#   setup_explicit=yes     look for newer ones although they are there

# What guest/build.ts builds from and with.
readonly KERNEL_SOURCE=linux-source-6.1
readonly KERNEL_TIME="4 to 12 minutes on two cores, once"
readonly MONITOR_TIME="3 to 8 minutes on two cores, once"

kernel_index_has() { grep -qs "\"kind\": \"$1\"" "$state/guest/index.json"; }

# Written when our own kernel is made: another configuration makes another kernel.
kernel_mark() { cksum <"$home/guest/kernel.config"; }

# A newer version of Debian's source is no reason to make anybody wait who did not ask for it.
kernel_is_ready() {
  [[ ${setup_explicit-} != yes ]] || return 1
  if kernel_index_has own; then [[ $(cat "$state/setup/kernel" 2>/dev/null) == "$(kernel_mark)" ]]; else kernel_index_has stock; fi
}

# Another way of building makes another one too.
monitor_mark() { cat "$home/guest/monitor.mak" "$home/packages/engine/src/guest/monitor.ts" | cksum; }

# Who took Debian's kernel did not want to wait.
monitor_is_ready() {
  [[ ${setup_kernel-} != stock ]] || return 0
  [[ ${setup_explicit-} != yes ]] || return 1
  if ! kernel_index_has own && kernel_index_has stock; then return 0; fi
  [[ -x $state/runtimes/qemu/qemu-system-x86_64 && $(cat "$state/setup/monitor" 2>/dev/null) == "$(monitor_mark)" ]]
}

microvm_survey() {
  want qemu-system-x86_64 qemu-system-x86
  want mkfs.erofs erofs-utils
  want /sbin/mke2fs e2fsprogs
  monitor_survey
  kernel_is_ready && return
  want xz xz-utils
  if [[ ${setup_kernel-} == stock ]]; then
    want strip binutils
    kernel_step=stock
    return
  fi
  want bc bc
  want bison bison
  want flex flex
  want cc gcc
  want /usr/include/stdio.h libc6-dev
  want /usr/include/gelf.h libelf-dev
  want make make
  kernel_step=kernel
}

monitor_survey() {
  monitor_is_ready && return
  want dpkg-source dpkg-dev
  want cc gcc
  want ninja ninja-build
  want pkg-config pkg-config
  want python3 python3
  want /var/lib/dpkg/info/python3-venv.list python3-venv
  want /usr/include/attr/libattr.h libattr1-dev
  want /usr/include/stdio.h libc6-dev
  want /usr/include/cap-ng.h libcap-ng-dev
  want /usr/include/libfdt.h libfdt-dev
  want /usr/include/glib-2.0/glib.h libglib2.0-dev
  want /usr/include/pcre2.h libpcre2-dev
  want /usr/include/pixman-1/pixman.h libpixman-1-dev
  want /usr/include/zlib.h zlib1g-dev
  monitor_step=monitor
}

microvm_describe() { # step
  case $1 in
    monitor)
      printf 'build QEMU with what guests need and nothing else into %s (%s; without waiting: bulkhead setup microvm --stock-kernel)' \
        "$state/runtimes/qemu" "$MONITOR_TIME"
      ;;
    stock) printf "unpack Debian's stock kernel for guests into %s" "$state/guest" ;;
    kernel)
      if kernel_index_has own && [[ $(cat "$state/setup/kernel" 2>/dev/null) == "$(kernel_mark)" ]]; then
        printf 'bring the guest kernel in %s up to date (%s, if there is a newer source)' "$state/guest" "${KERNEL_TIME%, once}"
      else
        printf 'build the guest kernel into %s (%s; without waiting: bulkhead setup microvm --stock-kernel)' \
          "$state/guest" "$KERNEL_TIME"
      fi
      ;;
  esac
}

# A mirror keeps the newest version only: what the lists of last month name is gone.
refresh_lists() { [[ " ${todo[*]} " == *" packages "* ]] || apt_get update || true; }

do_kernel() {
  # Stopped, it waits until what it started has cleaned up: a kernel's source tree is 1.4 GB.
  trap : TERM
  refresh_lists
  if [[ -z $(candidate "$KERNEL_SOURCE") ]]; then
    echo "this system's apt has no $KERNEL_SOURCE, so Debian's stock kernel is taken"
    do_stock
    return
  fi
  (cd "$home" && exec "$node" guest/build.ts "$state") || return 1
  kernel_mark >"$state/setup/kernel"
}

do_monitor() {
  trap : TERM
  refresh_lists
  (cd "$home" && exec "$node" guest/build.ts "$state" --monitor) || return 1
  monitor_mark >"$state/setup/monitor"
}

do_stock() {
  [[ ${setup_kernel-} != stock ]] || refresh_lists
  (cd "$home" && exec "$node" guest/build.ts "$state" --stock)
}

microvm_say() {
  local kind=own release monitor="Debian's QEMU"
  kernel_index_has own || kind=stock
  release=$(grep -s -A 4 "\"kind\": \"$kind\"" "$state/guest/index.json" | sed -n 's/^ *"release": "\(.*\)",$/\1/p')
  [[ ! -x $state/runtimes/qemu/qemu-system-x86_64 ]] || monitor="our own QEMU"
  if [[ $kind == own ]]; then kind="our own kernel"; else kind="Debian's stock kernel"; fi
  setup_say "microVMs start $kind, $release, in $monitor"
}
