#!/bin/busybox sh
# The first program of the test host: finds the disk with the system on it and hands over to `start.sh` there.
set -e
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
while [ ! -b /dev/vda ]; do $b usleep 5000; done
# Read-only for now: a template that wrote to its disk could not be woken twice.
$b mount -t ext4 -o ro /dev/vda /system
$b mount -t tmpfs -o mode=755 run /system/run
$b mkdir /system/run/testhost
$b cp /start.sh /agent /system/run/testhost/
for place in proc sys dev; do $b mount --move "/$place" "/system/$place"; done
exec $b switch_root /system /bin/sh /run/testhost/start.sh
