# Starts a sandbox in control groups as a container around Bulkhead has them: a root that is not the machine's own.
cd /srv/bulkhead || exit
root=/sys/fs/cgroup

# Runs what is on standard input where $1 is all there is of the hierarchy.
below() {
  sh -c "echo \$\$ >$root/$1/cgroup.procs; exec unshare --cgroup --mount sh -c 'umount -l $root; mount -t cgroup2 none $root; $2'"
}
run='node packages/cli/src/main.ts run --isolation container -- echo started 2>&1'
clear='mkdir /sys/fs/cgroup/init; while read -r pid; do echo "$pid" >/sys/fs/cgroup/init/cgroup.procs; done </sys/fs/cgroup/cgroup.procs 2>/dev/null'

mkdir $root/few $root/all
echo "+pids" >$root/cgroup.subtree_control
echo "few: $(below few "$clear; $run")"
echo "+cpu +memory" >$root/cgroup.subtree_control
echo "busy: $(below all "$run")"
echo "cleared: $(below all "$clear; $run")"
