# Starts a sandbox in control groups as a container around Bulkhead has them: a root that is not the machine's own.
cd /srv/bulkhead || exit
root=/sys/fs/cgroup

# Runs $2 where $1 is all there is of the hierarchy.
below() {
  sh -c "echo \$\$ >$root/$1/cgroup.procs; exec unshare --cgroup --mount sh -c 'umount -l $root; mount -t cgroup2 none $root; $2'"
}
run='node packages/cli/src/main.ts run --isolation container -- echo started 2>&1'
# The list is read whole before the first one moves: while they move, it skips some.
clear='mkdir /sys/fs/cgroup/init; for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo "$pid" >/sys/fs/cgroup/init/cgroup.procs; done 2>/dev/null'

mkdir $root/few $root/all
echo "+pids" >$root/cgroup.subtree_control
echo "few: $(below few "$clear; $run")"
echo "+cpu +memory" >$root/cgroup.subtree_control
echo "busy: $(below all "$run")"
echo "cleared: $(below all "$clear; $run")"
