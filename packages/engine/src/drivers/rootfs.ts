import type { MountPlan, Plan, Step } from "@bulkhead/contract";
import { GUEST_ADDRESSES } from "../egress/guest.ts";
import type { HostFacts } from "../host/facts.ts";
import type { ImageFiles, Instance } from "./driver.ts";
import { layerSteps } from "./layer.ts";

/** Ids in a sandbox's range, the keeper's width of one. */
export const ID_RANGE = 65_536;
/** Host paths inside one sandbox's directory. */
export interface Places {
  readonly root: string;
  readonly state: string;
  readonly pidFile: string;
  readonly config: string;
  readonly userns: string;
  readonly devices: string;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  /** Holds those of `mount`. */
  readonly mounts: string;
  readonly mount: (index: number) => string;
}

export function places({ dir }: Instance): Places {
  return {
    root: `${dir}/root`,
    state: `${dir}/state`,
    pidFile: `${dir}/pid`,
    config: `${dir}/config.json`,
    userns: `${dir}/userns`,
    devices: `${dir}/devices`,
    stdin: `${dir}/in`,
    stdout: `${dir}/out`,
    stderr: `${dir}/log`,
    mounts: `${dir}/mounts`,
    mount: (index) => `${dir}/mounts/${index}`,
  };
}

const hosts = (hostname: string): string =>
  `127.0.0.1\tlocalhost ${hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n`;

interface RootOptions {
  readonly plan: Plan;
  readonly instance: Instance;
  readonly image: ImageFiles;
  readonly host: HostFacts;
  /** sudo is the agent's, in place of the image's. */
  readonly sudo?: boolean;
}

/** How a mount is shown, besides being read-only or not. */
export type Shown = Pick<Extract<Step, { readonly op: "bind" }>, "idmap" | "inert">;

/** Steps that show the user's mounts at `places().mount(n)`. */
export function mountSteps({ mounts }: Plan, instance: Instance, shown: (mount: MountPlan) => Shown): Step[] {
  if (mounts.length === 0) return [];
  const at = places(instance);
  const binds = mounts.map((mount, index): Step => {
    const { source, readOnly, volume } = mount;
    const same = { source, target: at.mount(index), readOnly, ...shown(mount) };
    return volume === undefined ? { op: "bind", ...same } : { op: "volume", shared: volume.shared, ...same };
  });
  return [{ op: "dir", path: at.mounts, mode: 0o755 }, ...binds];
}

/**
 * Steps that make the sandbox's root file system at `places().root`: what names the sandbox over the agent's layer over the
 * image, all read-only, under a writable layer of bounded size, and the user's mounts at `places().mount(n)`. File uid 0 of
 * each appears as the first id of the sandbox's range.
 */
export function rootSteps({ plan, instance, image, host, sudo = false }: RootOptions): Step[] {
  const { dir, idBase } = instance;
  const at = places(instance);
  const owner = { uid: idBase, gid: idBase };
  const idmap: Shown = { idmap: { idBase, size: ID_RANGE } };
  const disk = `${dir}/disk`;
  // Not in the writable layer, which may be kept and go on under another name.
  const names = `${dir}/names`;
  const etc = `${names}/etc`;
  const file = (name: string, content: string): Step => ({
    op: "file",
    path: `${etc}/${name}`,
    mode: 0o644,
    content,
    ...owner,
  });
  return [
    { op: "fifo", path: at.stdin, mode: 0o600 },
    { op: "fifo", path: at.stdout, mode: 0o600 },
    { op: "fifo", path: at.stderr, mode: 0o600 },
    {
      op: "bind",
      source: sudo ? host.paths.sudoLayer : host.paths.layer,
      target: `${dir}/layer`,
      readOnly: true,
      ...idmap,
    },
    { op: "bind", source: image.rootfs, target: `${dir}/image`, readOnly: true, ...idmap },
    { op: "dir", path: names, mode: 0o755, ...owner },
    { op: "dir", path: etc, mode: 0o755, ...owner },
    file("hostname", `${plan.process.hostname}\n`),
    file("hosts", hosts(plan.process.hostname)),
    // Without a way out no resolver is reachable: an empty file makes lookups fail at once instead of asking 127.0.0.1.
    file("resolv.conf", plan.network === "none" ? "" : `nameserver ${GUEST_ADDRESSES.resolver}\n`),
    ...layerSteps(plan, disk, host.paths.state, idBase),
    { op: "dir", path: at.root, mode: 0o755 },
    {
      op: "overlay",
      target: at.root,
      lower: [names, `${dir}/layer`, `${dir}/image`],
      upper: `${disk}/data`,
      work: `${disk}/work`,
      volatile: plan.layer.keep === null,
    },
    ...mountSteps(plan, instance, () => idmap),
  ];
}
