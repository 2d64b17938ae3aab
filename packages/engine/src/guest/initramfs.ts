import { LOAD_LIST, type KernelModule } from "./modules.ts";

/** One file of an initial root; `device` is `[major, minor]` of a character device, `data` a regular file's bytes. */
export type InitramfsEntry =
  | { readonly path: string; readonly mode: number; readonly kind: "directory" }
  | {
      readonly path: string;
      readonly mode: number;
      readonly kind: "character";
      readonly device: readonly [number, number];
    }
  | { readonly path: string; readonly mode: number; readonly kind: "file"; readonly data: Uint8Array };

const KIND_BITS = { directory: 0o040000, character: 0o020000, file: 0o100000 } as const;
const ALIGNMENT_BYTES = 4;

/**
 * The guest's initial root: the agent, the modules it loads first, in that order, and what the kernel needs to give it
 * standard streams. Equal input gives equal bytes: there is no time, owner or inode number of a host in it.
 */
export function agentInitramfs(agent: Uint8Array, modules: readonly KernelModule[] = []): Uint8Array {
  return initramfs([
    { path: "dev", mode: 0o755, kind: "directory" },
    // Opened by the kernel before init, which mounts the real /dev.
    { path: "dev/console", mode: 0o600, kind: "character", device: [5, 1] },
    // A console that is not ready yet leaves init without standard streams, for which Rust's start-up opens this or aborts.
    { path: "dev/null", mode: 0o666, kind: "character", device: [1, 3] },
    { path: "init", mode: 0o755, kind: "file", data: agent },
    ...(modules.length === 0 ? [] : moduleEntries(modules)),
  ]);
}

/** `/modules/load` and what it names, where the agent looks for them. */
function moduleEntries(modules: readonly KernelModule[]): readonly InitramfsEntry[] {
  const list = modules.map(({ name }) => `${name}.ko\n`).join("");
  return [
    { path: "modules", mode: 0o755, kind: "directory" },
    { path: `modules/${LOAD_LIST}`, mode: 0o444, kind: "file", data: Buffer.from(list) },
    ...modules.map(({ name, data }) => ({ path: `modules/${name}.ko`, mode: 0o444, kind: "file", data }) as const),
  ];
}

/** A cpio archive in the `newc` format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst). */
export function initramfs(entries: readonly InitramfsEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  entries.forEach((entry, index) => parts.push(...member(entry, index + 1)));
  parts.push(header("TRAILER!!!", 0, 0, 0, [0, 0], 1));
  return Buffer.concat(parts);
}

function* member(entry: InitramfsEntry, inode: number): Generator<Uint8Array> {
  const data = entry.kind === "file" ? entry.data : new Uint8Array(0);
  const device = entry.kind === "character" ? entry.device : ([0, 0] as const);
  const links = entry.kind === "directory" ? 2 : 1;
  yield header(entry.path, inode, KIND_BITS[entry.kind] | entry.mode, data.length, device, links);
  yield data;
  yield new Uint8Array(padding(data.length));
}

function header(
  path: string,
  inode: number,
  mode: number,
  size: number,
  device: readonly [number, number],
  links: number,
): Uint8Array {
  const name = Buffer.from(`${path}\0`);
  // Owner, group and time are 0, so is the device that the archive was made from.
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device[0], device[1], name.length, 0];
  const head = Buffer.from(`070701${fields.map((n) => n.toString(16).padStart(8, "0")).join("")}`);
  return Buffer.concat([head, name, new Uint8Array(padding(head.length + name.length))]);
}

function padding(length: number): number {
  return (ALIGNMENT_BYTES - (length % ALIGNMENT_BYTES)) % ALIGNMENT_BYTES;
}
