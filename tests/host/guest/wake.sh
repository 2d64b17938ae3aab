# Run once in a test host that has just woken: what could not be part of a template. Its arguments: the host's time in
# seconds, and bytes for the entropy pool in hexadecimal.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
date -s "@$1" >/dev/null
mount -o remount,rw /
mkdir -p /srv/bulkhead /srv/tools /var/lib/bulkhead/images
mount -o ro /dev/vdb /srv/tools
mount /dev/vdc /var/lib/bulkhead/images
mount /dev/vdd /srv/bulkhead
mkdir -p /srv/bulkhead/node_modules
mount -o ro /dev/vde /srv/bulkhead/node_modules
ln -sf /srv/tools/node /usr/local/bin/node
[ ! -e /srv/tools/runtimes ] || cp -rs /srv/tools/runtimes /var/lib/bulkhead/
[ ! -e /srv/tools/guest ] || cp -r /srv/tools/guest /var/lib/bulkhead/
# RNDADDENTROPY and RNDRESEEDCRNG: every woken host would go on with the template's random numbers.
python3 -SEc 'import fcntl, struct, sys
fresh = bytes.fromhex(sys.argv[1])
with open("/dev/urandom", "wb") as pool:
    fcntl.ioctl(pool, 0x40085203, struct.pack("ii", 8 * len(fresh), len(fresh)) + fresh)
    fcntl.ioctl(pool, 0x5207)' "$2"
