import { BulkheadError } from "@bulkhead/contract";
import { runChecked } from "../system/process.ts";
import { aptOrigin, withoutCredentials, type AptOrigin } from "./apt.ts";
import { digestTree } from "./digest.ts";
import { finishRootfs } from "./finish.ts";
import { BuildMeter, type OnBuildProgress } from "./meter.ts";
import { ImageStore, type ImageConfig, type StoredImage } from "./store.ts";

/** Two minutes are usual on a slow mirror; what takes this long is stuck. */
const BOOTSTRAP_TIMEOUT_MS = 20 * 60_000;

const PACKAGES = [
  ...["bash", "coreutils", "procps", "sudo", "ca-certificates", "curl", "git"],
  ...["python3", "python3-venv", "python3-pip", "python-is-python3"],
];
/** Documentation and translations are two fifths of the packages' size and no program's business. */
const LEFT_OUT = ["/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*"];
/** The licences' terms ask for these to stay. */
const KEPT = ["/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias"];

const USER = "user";
const USER_ID = 1000;
const HOME = "/home/user";

export interface BuildBaseOptions {
  /** Root of Bulkhead's lasting state. */
  readonly stateDir: string;
  /** Adds Debian's own Node.js; the image is then named `base-node`. */
  readonly withNode?: boolean;
  /** Builds again even when the image is there. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnBuildProgress;
}

/** The name the image gets in the store. */
export function baseName(withNode: boolean): "base" | "base-node" {
  return withNode ? "base-node" : "base";
}

/**
 * Builds the base image from this host's Debian packages, or returns it when it is already there. Calls at the same time
 * do the work once. Being killed leaves a directory that the next build removes, and no mount or process: the work is
 * done in a mount and pid namespace that ends with this process.
 *
 * @throws BulkheadError HOST_NOT_ROOT, HOST_UNSUPPORTED, IMAGE_BUILD_FAILED, TIMEOUT, ABORTED
 */
export async function buildBase(options: BuildBaseOptions): Promise<StoredImage & { readonly built: boolean }> {
  const { signal } = options;
  if (process.getuid?.() !== 0) {
    throw new BulkheadError("HOST_NOT_ROOT", { what: "building the base image needs root", next: "run it with sudo" });
  }
  const store = new ImageStore(options.stateDir);
  const name = baseName(options.withNode === true);
  const meter = new BuildMeter(options.onProgress ?? (() => {}));
  const onWait = (): void => meter.phase("wait");
  await using fresh = await store.begin({ onWait, ...(signal && { signal }) });
  const present = options.force === true ? null : found(store, name);
  if (present !== null) return { ...present, built: false };

  const origin = await aptOrigin(signal);
  const rootfs = `${fresh.dir}/rootfs`;
  const packages = options.withNode === true ? [...PACKAGES, "nodejs"] : PACKAGES;
  const buildStartMs = Math.floor(Date.now() / 1000) * 1000;
  meter.phase("update");
  await runChecked(bootstrapArgv(rootfs, origin, packages), {
    failure: "IMAGE_BUILD_FAILED",
    next: "check that this host's apt-get update works, then run: bulkhead image build-base",
    timeoutMs: BOOTSTRAP_TIMEOUT_MS,
    onLine: (line) => meter.line(line),
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", TMPDIR: fresh.dir },
    ...(signal && { signal }),
  });
  meter.phase("finish");
  await finishRootfs(rootfs, { buildStartMs, sources: origin.sources.map(withoutCredentials) });
  const defaults = imageDefaults(options.withNode === true, origin.suite);
  meter.phase("digest");
  const tree = await digestTree(rootfs, { ...defaults }, { onFile: (n) => meter.files(n), ...(signal && { signal }) });
  meter.phase("store");
  const { digest, fileCount, sizeBytes } = tree;
  const image = await store.commit(fresh.dir, digest, { ...defaults, fileCount, sizeBytes, origin: null }, name);
  return { ...image, built: true };
}

function imageDefaults(withNode: boolean, suite: string): Omit<ImageConfig, "fileCount" | "sizeBytes" | "origin"> {
  return {
    version: 1,
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LANG: "C.UTF-8" },
    user: USER,
    workdir: HOME,
    entrypoint: [],
    cmd: ["bash"],
    stopSignal: null,
    exposedPorts: [],
    volumes: [],
    labels: {},
    architecture: process.arch,
    description: `Debian ${suite} with Python${withNode ? ", Node.js" : ""}, git and curl`,
  };
}

/** A damaged image is reported, with how to remove it, and not built over. */
function found(store: ImageStore, name: string): StoredImage | null {
  try {
    return store.resolve(name);
  } catch (error) {
    if (error instanceof BulkheadError && error.code === "IMAGE_NOT_FOUND") return null;
    throw error;
  }
}

function bootstrapArgv(rootfs: string, origin: AptOrigin, packages: readonly string[]): readonly string[] {
  const addUser = [
    `chroot "$1" useradd --uid ${USER_ID} --user-group --create-home --home-dir ${HOME} --shell /bin/bash ${USER}`,
    `echo '${USER} ALL=(ALL:ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/${USER}"`,
    `chmod 0440 "$1/etc/sudoers.d/${USER}"`,
  ].join(" && ");
  return [
    // A death of this process, of whatever kind, takes unshare along, and that the namespaces with all that is in them.
    ...["setpriv", "--pdeathsig", "KILL"],
    ...["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ...["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"],
    `--include=${packages.join(",")}`,
    '--aptopt=Acquire::Languages "none"',
    ...origin.options.map((line) => `--aptopt=${line}`),
    ...LEFT_OUT.map((glob) => `--dpkgopt=path-exclude=${glob}`),
    ...KEPT.map((glob) => `--dpkgopt=path-include=${glob}`),
    `--customize-hook=${addUser}`,
    // No suite of its own: the sources name it.
    ...["", rootfs, ...origin.sources],
  ];
}
