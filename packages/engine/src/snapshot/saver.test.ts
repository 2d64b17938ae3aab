import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseSpec, type Plan, type Spec } from "@bulkhead/contract";
import { expect, onTestFinished, test, vi } from "vitest";
import type { Checkpoint, Driver } from "../drivers/driver.ts";
import type { HostFacts } from "../host/facts.ts";
import type { Running } from "../sandbox/calls.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { restoreSnapshot } from "./restore.ts";
import { fork, type Origin, snapshot, type Workshop } from "./saver.ts";
import { SnapshotStore } from "./store.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const running = { keeper: { digest: async () => ({ bytes: 0, digest: DIGEST }) } } as unknown as Running;

async function workshop(start: Workshop["start"]): Promise<Workshop & { readonly dir: string }> {
  const dir = await mkdtemp(join(tmpdir(), "saver-"));
  onTestFinished(() => rm(dir, { recursive: true }));
  return { dir, host: {} as HostFacts, store: new SnapshotStore(dir), start };
}

function origin(checkpoint: Partial<Checkpoint> | null, plan: Partial<Plan> = {}): Origin {
  const whole: Checkpoint = {
    files: () => ({}),
    binding: async () => ({ kernel: "k" }),
    save: async () => undefined,
    from: () => driver,
    ...checkpoint,
  };
  const base = { level: "microvm", name: "microvm/qemu", capabilities: { hardware: false } } as Driver;
  const driver: Driver = checkpoint === null ? base : { ...base, checkpoint: whole };
  const made = {
    mounts: [],
    layer: { backing: "file", keep: null },
    network: "none",
    process: { hostname: "h" },
    ...plan,
  } as unknown as Plan;
  return {
    driver,
    plan: made,
    image: { digest: DIGEST } as Origin["image"],
    spec: parseSpec({ trust: "multi-tenant" }),
    secrets: [],
    filter: new Uint8Array(),
  };
}

function box(): { readonly sandbox: Sandbox; readonly kill: () => Promise<void> } {
  const kill = vi.fn<() => Promise<void>>(async () => undefined);
  return { sandbox: { kill } as unknown as Sandbox, kill };
}
const code = (name: string): Error => expect.objectContaining({ code: name }) as Error;

test("a sandbox with mounts or a network, or of a driver that cannot, is not stopped for nothing", async () => {
  const shop = await workshop(async () => box().sandbox);
  const save = vi.fn<Checkpoint["save"]>(async () => undefined);
  const mounted = origin(
    { save },
    { mounts: [{ source: "/srv", target: "/srv", readOnly: true, owner: { uid: 0, gid: 0 } }] },
  );
  const connected = origin({ save }, { network: { allow: ["a.org"], deny: [] } });
  for (const refused of [mounted, connected, origin(null)]) {
    await expect(snapshot(shop, refused, running, "one", {})).rejects.toThrow(code("NOT_SUPPORTED"));
    await expect(fork(shop, refused, running, 1, {})).rejects.toThrow(code("NOT_SUPPORTED"));
  }
  expect(save).not.toHaveBeenCalled();
  expect(await shop.store.list()).toEqual([]);
});

test("a fork that fails takes the others with it, and leaves no files", async () => {
  const kills: (() => Promise<void>)[] = [];
  const shop = await workshop(async ({ plan }) => {
    if (plan.process.hostname === "2") throw new Error("no room");
    const { sandbox, kill } = box();
    kills.push(kill);
    return sandbox;
  });
  await expect(fork(shop, origin({}), running, 3, { hostname: (i) => `${i}` })).rejects.toThrow("no room");
  expect(kills).toHaveLength(2);
  for (const kill of kills) expect(kill).toHaveBeenCalledOnce();
  expect(await readdir(join(shop.dir, "snapshots"))).toEqual([]);
  await expect(fork(shop, origin({}), running, 0, {})).rejects.toThrow(code("SPEC_INVALID"));
});

test("saving that fails or is called off leaves nothing", async () => {
  const shop = await workshop(async () => box().sandbox);
  const stop = new AbortController();
  const save = async (): Promise<void> => {
    stop.abort();
    throw new Error("whatever");
  };
  await expect(snapshot(shop, origin({ save }), running, "one", {})).rejects.toThrow("whatever");
  const called = snapshot(shop, origin({ save }), running, "one", { signal: stop.signal });
  await expect(called).rejects.toThrow(code("ABORTED"));
  expect(await readdir(join(shop.dir, "snapshots"))).toEqual([]);
});

test("a floor is asked for again: the snapshot's own and the caller's", async () => {
  const shop = await workshop(async () => box().sandbox);
  const from = origin({});
  await snapshot(shop, from, running, "one", {});
  const runtime = { name: "q", path: "/q", version: "1", digest: "" };
  const candidates = [{ driver: from.driver, availability: { ok: true, runtime, notes: ["TCG"] } as const }];
  const prepare = vi.fn<(spec: Spec) => Promise<Origin>>(async () => from);
  const by = { ...shop, candidates, keeper: async () => running.keeper, prepare };
  await restoreSnapshot(by, "one", { atLeast: "gvisor", trust: "multi-tenant", hostname: "other" });
  expect(prepare).toHaveBeenCalledWith(
    expect.objectContaining({ isolation: "microvm", trust: "multi-tenant", hostname: "other", image: DIGEST }),
  );
  await expect(restoreSnapshot(by, "one", { hardware: true })).rejects.toThrow(code("LEVEL_UNAVAILABLE"));
  await expect(restoreSnapshot(by, "one", { trust: "regulated" })).rejects.toThrow(code("LEVEL_UNAVAILABLE"));
  const other = origin({ binding: async () => ({ kernel: "newer" }) });
  const elsewhere = restoreSnapshot({ ...by, prepare: async () => other }, "one", {});
  await expect(elsewhere).rejects.toThrow(code("SNAPSHOT_MISMATCH"));
  const without = restoreSnapshot({ ...by, prepare: async () => origin(null) }, "one", {});
  await expect(without).rejects.toThrow(code("NOT_SUPPORTED"));
});
