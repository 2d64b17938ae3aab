import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import type { Plan } from "@bulkhead/contract";
import type { Context } from "../check.ts";
import { theme } from "../check.ts";
import { cgroupValue, namespaceOf, processesInCgroup, statusField } from "../host.ts";
import type { Target } from "../target.ts";
import { probe } from "./boundary.ts";

/** Linux's numbers, capability.h; a mask says which of them are set. */
const CAPABILITIES = [
  "CHOWN",
  "DAC_OVERRIDE",
  "DAC_READ_SEARCH",
  "FOWNER",
  "FSETID",
  "KILL",
  "SETGID",
  "SETUID",
  "SETPCAP",
  "LINUX_IMMUTABLE",
  "NET_BIND_SERVICE",
  "NET_BROADCAST",
  "NET_ADMIN",
  "NET_RAW",
  "IPC_LOCK",
  "IPC_OWNER",
  "SYS_MODULE",
  "SYS_RAWIO",
  "SYS_CHROOT",
  "SYS_PTRACE",
  "SYS_PACCT",
  "SYS_ADMIN",
  "SYS_BOOT",
  "SYS_NICE",
  "SYS_RESOURCE",
  "SYS_TIME",
  "SYS_TTY_CONFIG",
  "MKNOD",
  "LEASE",
  "AUDIT_WRITE",
  "AUDIT_CONTROL",
  "SETFCAP",
  "MAC_OVERRIDE",
  "MAC_ADMIN",
  "SYSLOG",
  "WAKE_ALARM",
  "BLOCK_SUSPEND",
  "AUDIT_READ",
  "PERFMON",
  "BPF",
  "CHECKPOINT_RESTORE",
] as const;

function capabilities(mask: string): string[] {
  const bits = BigInt(`0x${mask}`);
  return CAPABILITIES.filter((_, i) => (bits >> BigInt(i)) & 1n).map((name) => `CAP_${name}`);
}

const full = (names: readonly string[]): string[] =>
  names.map((n) => (n.toUpperCase().startsWith("CAP_") ? n.toUpperCase() : `CAP_${n.toUpperCase()}`)).sort();

async function planned(context: Context): Promise<Plan> {
  const plan = await context.open.plan();
  assert.ok(plan !== null, "there is no plan");
  return plan;
}

async function status(context: Context, user: string): Promise<Record<string, string>> {
  const text = (await context.box.run(["cat", "/proc/self/status"], { user })).stdout.toString();
  return Object.fromEntries(
    text
      .split("\n")
      .filter(Boolean)
      .map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]),
  );
}

const sharedKernelOnly = (target: Target): string | null =>
  target.traits.ownKernel ? "its own kernel takes the filter's and the namespaces' place" : null;

export const planChecks = theme("plan", "host", (check) => {
  check("capabilities of the default user are those of the plan", async (context) => {
    const { boundary } = await planned(context);
    const got = await status(context, "user");
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
      assert.deepEqual(capabilities(got[set] ?? "0").sort(), full(boundary.capabilitiesUser), set);
    }
  });

  check("capabilities of root inside are those of the plan, and cannot grow", async (context) => {
    const { boundary } = await planned(context);
    const got = await status(context, "root");
    const allowed = full(boundary.capabilitiesRoot);
    for (const set of ["CapPrm", "CapEff", "CapBnd"]) {
      const more = capabilities(got[set] ?? "0").filter((c) => !allowed.includes(c));
      assert.deepEqual(more, [], `${set} has more than the plan`);
    }
    for (const needed of [
      "CAP_CHOWN",
      "CAP_DAC_OVERRIDE",
      "CAP_FOWNER",
      "CAP_SETUID",
      "CAP_SETGID",
      "CAP_KILL",
      "CAP_NET_BIND_SERVICE",
    ]) {
      assert.ok(capabilities(got["CapEff"] ?? "0").includes(needed), `root inside lacks ${needed}`);
    }
  });

  check("no_new_privs as planned, for the user and for root", async (context) => {
    const { boundary } = await planned(context);
    for (const user of ["user", "root"]) {
      const got = (await status(context, user))["NoNewPrivs"];
      // gVisor prints the line only where it knows the flag.
      if (got !== undefined) assert.equal(got, boundary.noNewPrivileges ? "1" : "0", user);
      else assert.ok(context.target.traits.ownKernel);
    }
  });

  check(
    "from outside: every process is filtered, in its own namespaces, under ids of its own range",
    async (context) => {
      const { boundary } = await planned(context);
      const processes = await processesInCgroup(context.box.id);
      assert.ok(processes.length > 0, "no process of the sandbox found in its control group");
      for (const { pid } of processes) {
        assert.equal(await statusField(pid, "Seccomp"), "2", `process ${pid}`);
        const uids = (await statusField(pid, "Uid")).split(/\s+/).map(Number);
        assert.ok(
          uids.every((uid) => uid >= 65_536),
          `process ${pid} has uids ${uids.join(" ")}`,
        );
        for (const name of boundary.namespaces) {
          const file = ({ mount: "mnt", network: "net" } as Record<string, string>)[name] ?? name;
          assert.notEqual(
            await namespaceOf(pid, file),
            await namespaceOf("self", file),
            `${name} namespace is the host's`,
          );
        }
      }
      for (const wanted of ["pid", "network", "mount", "ipc", "uts", "user", "cgroup"]) {
        assert.ok(
          boundary.namespaces.some(
            (n) => n === wanted || (n === "mnt" && wanted === "mount") || (n === "net" && wanted === "network"),
          ),
          `the plan has no ${wanted} namespace`,
        );
      }
    },
    { notFor: sharedKernelOnly },
  );

  check(
    "from outside: the Sentry is nobody, without capabilities, filtered",
    async (context) => {
      const processes = await processesInCgroup(context.box.id);
      const sentry = processes.filter((p) => /runsc-sandbox|\bboot\b/.test(p.command));
      assert.ok(sentry.length > 0, `no Sentry among ${processes.map((p) => p.command.slice(0, 60)).join("; ")}`);
      for (const { pid } of sentry) {
        const uid = (await statusField(pid, "Uid")).split(/\s+/).map(Number);
        const map = readFile(`/proc/${pid}/uid_map`, "latin1");
        assert.ok(
          uid.every((u) => u !== 0),
          `Sentry runs as uid ${uid.join(" ")}, map ${(await map).trim()}`,
        );
        assert.equal(await statusField(pid, "CapEff"), "0000000000000000");
        assert.equal(await statusField(pid, "CapPrm"), "0000000000000000");
        assert.equal(await statusField(pid, "Seccomp"), "2");
      }
    },
    { notFor: (t) => (t.traits.level === "gvisor" ? null : "there is no Sentry at this level") },
  );

  check(
    "the security modules of the plan hold root inside, and every process seen from outside",
    async (context) => {
      const modules = (await planned(context)).boundary.securityModules;
      assert.ok(modules !== undefined, "the plan does not say which there are");
      // Landlock answers before capabilities are asked for.
      const landlock = modules.some(({ name }) => name === "landlock");
      const code = `
import os,json,errno
try: os.mknod('${context.scratch}/node',0o20600,os.makedev(1,3)); print(json.dumps('made'))
except OSError as e: print(json.dumps(errno.errorcode[e.errno]))`;
      assert.equal(await probe(context.box, code), landlock ? "EACCES" : "EPERM");
      for (const one of modules) {
        if (one.name !== "apparmor") continue;
        for (const { pid } of await processesInCgroup(context.box.id)) {
          const label = await readFile(`/proc/${pid}/attr/current`, "latin1").catch(() => null);
          // It ended between the listing and the reading.
          if (label !== null && label !== "") assert.equal(label.trim(), `${one.profile} (enforce)`, `process ${pid}`);
        }
      }
    },
    { notFor: sharedKernelOnly },
  );

  check("no interface but loopback, and that one works", async ({ box }) => {
    const names = await probe<string[]>(
      box,
      "import socket,json; print(json.dumps([n for _,n in socket.if_nameindex()]))",
    );
    assert.deepEqual(names, ["lo"]);
    const code =
      "import socket,json; s=socket.create_server(('127.0.0.1',0)); socket.create_connection(s.getsockname(),2); print(json.dumps(True))";
    assert.equal(await probe(box, code, "user"), true);
    const out =
      "import socket,json\ntry: socket.create_connection(('192.0.2.1',80),2); print(json.dumps('connected'))\nexcept OSError as e: print(json.dumps('refused'))";
    assert.equal(await probe(box, out, "user"), "refused");
  });

  check("host name and /etc/hosts are the sandbox's", async ({ fresh }) => {
    const own = await fresh({ hostname: "conformance-box" });
    assert.equal((await own.run(["uname", "-n"])).stdout.toString(), "conformance-box\n");
    const hosts = (await own.run(["cat", "/etc/hosts"])).stdout.toString();
    assert.match(hosts, /127\.0\.0\.1\s+.*localhost/);
    assert.match(hosts, /conformance-box/);
    assert.equal((await own.run(["getent", "hosts", "conformance-box"])).code, 0);
  });

  check(
    "masked and read-only paths of the plan are so",
    async (context) => {
      const { boundary } = await planned(context);
      const code = `
import os,json
bad=[]
for p in json.loads('${JSON.stringify(boundary.maskedPaths)}'):
    try:
        if os.path.isdir(p):
            if os.listdir(p): bad.append(p)
        elif os.path.exists(p) and open(p,'rb').read(16): bad.append(p)
    except OSError: pass
for p in json.loads('${JSON.stringify(boundary.readOnlyPaths)}'):
    if os.path.exists(p) and not os.statvfs(p).f_flag & os.ST_RDONLY: bad.append('writable '+p)
print(json.dumps(bad))`;
      assert.deepEqual(await probe(context.box, code), []);
    },
    { notFor: sharedKernelOnly },
  );

  check("limits asked for are those of the control group", async ({ fresh, open, target }) => {
    const own = await fresh({ cpus: 0.5, memoryBytes: 256 * 1024 * 1024, pids: 77 });
    await own.ping();
    const quota = await cgroupValue(own.id, ["cpu.cfs_quota_us", "cpu.max"]);
    const period = await cgroupValue(own.id, ["cpu.cfs_period_us"]);
    assert.ok(quota !== null);
    const share = quota.includes(" ")
      ? Number(quota.split(" ")[0]) / Number(quota.split(" ")[1])
      : Number(quota) / Number(period ?? "100000");
    assert.equal(share, 0.5);
    const memory = Number(await cgroupValue(own.id, ["memory.limit_in_bytes", "memory.max"]));
    // Version 2 limits swap by itself; version 1 together with memory, where it can at all.
    const swap = await cgroupValue(own.id, ["memory.swap.max"]);
    const both = await cgroupValue(own.id, ["memory.memsw.limit_in_bytes"]);
    assert.ok(swap === null || swap === "0", `swap limit is ${swap}`);
    assert.ok(both === null || Number(both) === memory, `limit of memory and swap is ${both}`);
    const asked = 256 * 1024 * 1024;
    const monitor = (await open.plan({ cpus: 0.5, memoryBytes: asked, pids: 77 }))?.boundary.monitor;
    if (monitor !== undefined) {
      assert.equal(memory, monitor.memoryBytes);
      const inside = await own.run(["cat", "/sys/fs/cgroup/sandbox/memory.max", "/sys/fs/cgroup/sandbox/pids.max"]);
      const [bytes, tasks] = inside.stdout.toString().split("\n").map(Number);
      assert.equal(bytes, asked);
      assert.ok(tasks !== undefined && tasks >= 77 && tasks <= 77 + 16, `pids limit inside is ${tasks}`);
      return;
    }
    assert.ok(memory >= asked && memory <= 2 * asked, `memory limit is ${memory}`);
    const pids = Number(await cgroupValue(own.id, ["pids.max"]));
    assert.ok(pids >= 77, `pids limit is ${pids}`);
    if (!target.traits.ownKernel) assert.ok(pids <= 77 + 16, `pids limit is ${pids}`);
  });
});
