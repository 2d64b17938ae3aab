/** What the engine knows of this machine; gathered once per process, cheap, never by starting a sandbox. */
export interface HostFacts {
  readonly kernelRelease: string;
  readonly bootId: string;
  readonly arch: string;
  readonly uid: number;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly cgroup: {
    /** `hybrid` is v1 controllers with a v2 hierarchy that holds none of them. */
    readonly mode: "v1" | "hybrid" | "v2";
    readonly controllers: readonly string[];
  };
  readonly lsms: readonly string[];
  readonly namespaces: readonly string[];
  /** Hard limits of this process, by OCI name; a sandbox's rlimits cannot exceed them without CAP_SYS_RESOURCE. */
  readonly rlimits: Readonly<Record<string, { readonly soft: number; readonly hard: number }>>;
  readonly paths: {
    /** Lasting state: images, runtimes, caches. */
    readonly state: string;
    /** Run state, lost at reboot. */
    readonly run: string;
    readonly agent: string;
    readonly keeper: string;
  };
}
