import { createHash } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { aptOrigin, type AptOrigin } from "../../packages/engine/src/image/apt.ts";
import { lockFile } from "../../packages/engine/src/system/file-lock.ts";
import { runChecked } from "../../packages/engine/src/system/process.ts";
import { exists, type Say, TOOL_ENVIRONMENT } from "./common.ts";
import { sweepHome, touch } from "./sweep.ts";

/** Raised when the way of building changes. */
const RECIPE = 1;
const KERNEL = "linux-image-cloud-amd64";
const PACKAGES = [
  ...["apparmor", "crun", "runc", "qemu-system-x86", "erofs-utils"],
  ...["e2fsprogs", "iproute2", "kmod", "libcap2-bin", "mount", "procps", "python3", "util-linux"],
  "busybox-static",
];
const LEFT_OUT = ["man", "info", "locale", "doc"].map((name) => `/usr/share/${name}/*`);
/** Modules that stand between the kernel and the first disk and channel; all else is loaded from the disk. */
const FIRST_MODULES = ["virtio_mmio", "virtio_blk", "virtio_console"];
const DISK_BYTES = 6 * 1024 ** 3;
/** 40 s are usual. */
const BUILD_TIMEOUT_MS = 15 * 60_000;
const SCRATCH_PREFIX = ".building-";

/**
 * The kernel's package, unpacked and not installed: installing it builds an initial root for real machines, which takes
 * longer than all the rest. --keep-directory-symlink: /lib is a symbolic link.
 */
const UNPACK_KERNEL = `export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
set -e
package=$(apt-cache depends ${KERNEL} | sed -n 's/^ *Depends: \\(linux-image-[0-9][^ ]*\\)$/\\1/p')
cd "$1/tmp"
apt-get -o APT::Sandbox::User=root download "$package"
dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --keep-directory-symlink -C "$1"
rm "$package"_*.deb
chroot "$1" /sbin/depmod "\${package#linux-image-}"`;

/** A Debian system on a disk, with what is needed to start it. All paths are absolute. */
export interface SystemImage {
  readonly key: string;
  readonly disk: string;
  readonly kernel: string;
  readonly busybox: string;
  /** Kernel modules in the order they are to be loaded in. */
  readonly modules: readonly string[];
}

/**
 * Returns the test host's system, built first when there is none for these inputs. Builds at the same time wait for each
 * other; what a killed one leaves is removed by the next.
 *
 * @param home a directory of our own
 */
export async function systemImage(home: string, say: Say, signal: AbortSignal): Promise<SystemImage> {
  const origin = await aptOrigin(signal);
  const key = await imageKey(origin, signal);
  const target = join(home, `system-${key}`);
  if (!(await exists(target))) {
    await using _lock = await lockFile(join(home, "lock"), { signal, onWait: () => say("waiting for another build") });
    if (!(await exists(target))) await build(home, target, origin, say, signal);
  }
  await touch(target);
  const modules = (await readdir(join(target, "modules"))).toSorted().map((name) => join(target, "modules", name));
  return { key, disk: join(target, "disk"), kernel: join(target, "kernel"), busybox: join(target, "busybox"), modules };
}

async function imageKey(origin: AptOrigin, signal: AbortSignal): Promise<string> {
  const options = { failure: "HOST_UNSUPPORTED", timeoutMs: 30_000, env: TOOL_ENVIRONMENT, signal } as const;
  const policy = await runChecked(["apt-cache", "policy", KERNEL, "crun", "runc", "qemu-system-x86"], options);
  const versions = policy.stdout.match(/Candidate: \S+/g);
  const inputs = [RECIPE, PACKAGES, LEFT_OUT, FIRST_MODULES, UNPACK_KERNEL, origin.sources, versions];
  return createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 16);
}

async function build(home: string, target: string, origin: AptOrigin, say: Say, signal: AbortSignal): Promise<void> {
  await sweepHome(home);
  const scratch = await mkdtemp(join(home, SCRATCH_PREFIX));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(scratch, { recursive: true, force: true }));
  const root = join(scratch, "root");
  const result = join(scratch, "result");
  await mkdir(join(result, "modules"), { recursive: true });
  const run = (argv: readonly string[]): Promise<unknown> =>
    runChecked(["setpriv", "--pdeathsig", "KILL", "nice", "-n", "10", ...argv], {
      failure: "IMAGE_BUILD_FAILED",
      timeoutMs: BUILD_TIMEOUT_MS,
      env: { ...TOOL_ENVIRONMENT, TMPDIR: scratch },
      onLine: (line) => line.startsWith("I: ") && say(line.slice(3).split(" in shell:")[0] ?? ""),
      signal,
    });
  say("building the test host's system from Debian packages, about a minute");
  await run(bootstrap(root, origin));
  say("collecting the kernel and its first modules");
  const boot = await readdir(join(root, "boot"));
  const kernel = boot.find((name) => name.startsWith("vmlinuz-")) ?? "no kernel";
  await copyFile(join(root, "boot", kernel), join(result, "kernel"));
  await copyFile(join(root, "usr/bin/busybox"), join(result, "busybox"));
  const modules = join(root, "usr/lib/modules", kernel.replace("vmlinuz-", ""));
  for (const [index, path] of inLoadingOrder(await readFile(join(modules, "modules.dep"), "utf8")).entries()) {
    const name = `${String(index).padStart(2, "0")}-${basename(path)}`;
    await copyFile(join(modules, path), join(result, "modules", name));
  }
  // Found by the kernel at its first place of mounting, before anything could make them.
  for (const name of ["proc", "sys", "dev", "run", "srv", "tmp"]) await mkdir(join(root, name), { recursive: true });
  await writeFile(join(root, "etc/hostname"), "testhost\n");
  say("writing the disk");
  await run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", root, join(result, "disk"), `${DISK_BYTES / 1024}`]);
  await rename(result, target);
}

function bootstrap(root: string, origin: AptOrigin): readonly string[] {
  return [
    ...["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ...["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"],
    `--include=${PACKAGES.join(",")}`,
    '--aptopt=Acquire::Languages "none"',
    ...origin.options.map((line) => `--aptopt=${line}`),
    ...LEFT_OUT.map((glob) => `--dpkgopt=path-exclude=${glob}`),
    `--customize-hook=${UNPACK_KERNEL}`,
    ...["", root, ...origin.sources],
  ];
}

/** From depmod's list, where each module's needs follow it: what is needed comes first, nothing twice. */
function inLoadingOrder(dependencies: string): readonly string[] {
  const order = new Set<string>();
  for (const wanted of FIRST_MODULES) {
    const line = dependencies.split("\n").find((text) => text.split(":")[0]?.endsWith(`/${wanted}.ko`));
    if (line === undefined) throw new Error(`${KERNEL} has no module ${wanted}`);
    const [self = "", needs = ""] = line.split(":");
    for (const path of [...needs.trim().split(" ").toReversed(), self]) if (path !== "") order.add(path);
  }
  return [...order];
}
