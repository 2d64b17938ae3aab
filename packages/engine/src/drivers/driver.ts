import type { Level, Plan, Step } from "@bulkhead/contract";
import type { ResolvedSpec } from "../policy/resolve.ts";
import type { HostFacts } from "../host/facts.ts";
import type { Inside, Running } from "../sandbox/calls.ts";
import type { Keeper, KeeperEnded } from "../system/keeper.ts";

/** What differs between levels is declared here; code outside a driver's folder asks these and never the level. */
export interface DriverCapabilities {
  /**
   * How a user inside becomes root without weakening the boundary: by a set-user-id program (sudo), by asking the agent
   * where the sandbox's kernel ignores set-user-id bits, or not at all.
   */
  readonly elevation: "setuid" | "agent" | "none";
  /** The sandbox's kernel is not the host's. */
  readonly ownKernel: boolean;
  /** Boundary is drawn by the CPU's virtualisation. */
  readonly hardware: boolean;
  /** Who holds disk traffic to a limit: the host's control groups, or the virtual machine's monitor. */
  readonly diskThrottle: "cgroup" | "monitor";
  /** Whose kernel writes the file that the writable layer is in, and so whose may read it later. */
  readonly layerWriter: "host" | "guest";
  /** A sandbox can be paused and goes on where it stood. */
  readonly freeze: boolean;
  /** A sandbox can be saved with its memory, and others can go on from that; `Driver.checkpoint` is there. */
  readonly checkpoint: boolean;
  /** The agent may put a filter also on a program that can raise its privileges: it is privileged in a kernel of the sandbox's own. */
  readonly filtersRaisedPrivileges: boolean;
  /** The kernel tells which system calls a program makes, and they are those of a container. */
  readonly recordsCalls: boolean;
  /** Host tasks the runtime itself needs; added to the pids limit so that the user gets what was asked for. */
  readonly hostTaskOverhead: number;
}

export interface Runtime {
  readonly name: string;
  readonly path: string;
  readonly version: string;
  /** sha256 of the binary, hex. */
  readonly digest: string;
}

export type Availability =
  | { readonly ok: true; readonly runtime: Runtime; readonly notes: readonly string[] }
  /** `reason` and `remedy` are one line each, for people. */
  | { readonly ok: false; readonly reason: string; readonly remedy: string };

/** Where one sandbox lives on this host; handed out by the keeper before the steps are made. */
export interface Instance {
  readonly id: string;
  /** Private directory of this sandbox, on the run directory's file system. */
  readonly dir: string;
  /** First host id of this sandbox's own range of 65,536 user and group ids. */
  readonly idBase: number;
  /** This sandbox's control group, by its path below each controller. */
  readonly cgroup: string;
}

/** Host paths the image store hands to a driver. */
export interface ImageFiles {
  readonly reference: string;
  readonly digest: string;
  /** Unpacked root file system, owned by host uid 0.., never written to. */
  readonly rootfs: string;
  /** /usr/bin is a directory there, with no symbolic link on the way: a layer above may add to it and hides nothing. */
  readonly usrBin: boolean;
}

/** What a driver may use to find out or make what a start needs. */
export interface Help {
  readonly host: HostFacts;
  readonly keeper: () => Promise<Keeper>;
  readonly signal?: AbortSignal;
  /** Told what takes long, one line each, for people. */
  readonly onProgress?: (text: string) => void;
}

/** Why a sandbox ended, where the end of its first process alone does not say so. */
export interface EndReason {
  readonly cause: "guest-panic" | "monitor-out-of-memory" | "guest-off" | "monitor-failed";
  /** One line, for people; may hold what the guest said, which is untrusted. */
  readonly why: string;
  readonly next?: string;
  /** The last lines of the guest's console. Untrusted. */
  readonly console: readonly string[];
}

/** What makes a sandbox that goes on from saved state another than the one it was saved from. */
export interface NewIdentity {
  readonly hostname: string;
}

/** Saving running sandboxes with their memory. A saved one is some files in a directory of root's alone. */
export interface Checkpoint {
  /** Names of these files, and how many bytes each has at most. */
  files(plan: Plan): Readonly<Record<string, number>>;
  /** All that saved state is bound to, by name: where anything differs it is of no use. */
  binding(plan: Plan, image: ImageFiles, host: HostFacts): Promise<Readonly<Record<string, string>>>;
  /**
   * Stops the sandbox, writes its files into `dir`, which holds none of them, and lets it go on.
   *
   * @throws BulkheadError RUNTIME_FAILED, HOST_RESOURCE, TIMEOUT, ABORTED: it goes on all the same. SANDBOX_GONE: it cannot
   * be made to go on and is of no use.
   */
  save(running: Running, dir: string, signal?: AbortSignal): Promise<void>;
  /** As the driver itself, but its sandboxes go on from the files in `dir`; their agents have been attached to before. */
  from(dir: string, identity: NewIdentity): Driver;
}

/** A layer that is kept as a disk of its sandbox, which uses nothing of it by itself and writes to its memory. */
export interface LayerAside {
  /** As the driver itself, but for that. */
  readonly driver: Driver;
  /** What the disk is called inside. */
  readonly device: string;
}

/**
 * One isolation level made by one runtime. A driver is pure: it turns a validated request into a plan, and a plan into
 * steps. The keeper carries the steps out and undoes them; nothing else in the engine knows about runtimes.
 */
export interface Driver {
  readonly level: Level;
  /** Unique: `container/crun`, `container/runc`, `gvisor/runsc`. */
  readonly name: string;
  readonly capabilities: DriverCapabilities;
  /** Memory of a sandbox whose spec names none; without it the engine's own default holds. */
  readonly defaultMemoryBytes?: number;
  /** Finds the runtime without running it. */
  locate(host: HostFacts): Availability;
  /**
   * Finds out what only trying tells; remembered until the next boot. The driver it returns knows it and is the one that
   * makes plans; it has no `survey`, and its capabilities are what was found.
   */
  survey?(help: Help): Promise<Driver>;
  plan(spec: ResolvedSpec, runtime: Runtime, image: ImageFiles, host: HostFacts): Plan;
  /**
   * Steps that end with a running agent whose channel is the FIFOs `<dir>/in` (host writes) and `<dir>/out` (host
   * reads); the agent's own diagnostics go to `<dir>/log`.
   */
  steps(plan: Plan, instance: Instance, image: ImageFiles, host: HostFacts): readonly Step[];
  /** Makes what the steps name and is not there yet. */
  provide?(plan: Plan, image: ImageFiles, help: Help): Promise<void>;
  /**
   * Whether another host has been attached to the agent of a sandbox that was just started, and whether all that one had
   * written was answered. Absent: none has.
   */
  attachedBefore?(plan: Plan): "no" | "answered" | "yes";
  /** What has to be said to the agent before anything else. */
  afterAttach?(plan: Plan, inside: Inside, signal?: AbortSignal): Promise<void>;
  readonly checkpoint?: Checkpoint;
  /** Of one whose layers a guest writes: nobody but a guest reads them. */
  readonly layerAside?: LayerAside;
  explainEnd?(ended: KeeperEnded): EndReason | null;
}
