#!/bin/sh
# Process 1 of the test host: an ordinary host with a unified cgroup hierarchy and AppArmor, without a service manager.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount --make-rshared /
ip link set lo up
hostname testhost
# What an ordinary host's session has; sandboxes are given less.
ulimit -n 524288
modprobe -a overlay erofs fuse loop tun kvm_amd vhost_vsock
apparmor_parser --replace --skip-cache /etc/apparmor.d

find_port() {
  for entry in /sys/class/virtio-ports/*; do
    [ "$(cat "$entry/name" 2>/dev/null)" = bulkhead.testhost ] && echo "/dev/${entry##*/}" && return
  done
  return 1
}
tries=0
until port=$(find_port); do
  tries=$((tries + 1))
  [ "$tries" -lt 200 ] || exit 1
  sleep 0.05
done
# A port read before its other end is known to be open is at its end of file, which the agent takes for the end of all.
tries=0
echo "testhost: agent" >/dev/console
while [ "$tries" -lt 50 ]; do
  /run/testhost/agent <>"$port" >&0
  tries=$((tries + 1))
  sleep 0.02
done
