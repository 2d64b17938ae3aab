import type { MountPlan } from "@bulkhead/contract";
import { describe, expect, test } from "vitest";
import { JAIL_USER } from "./jail.ts";
import { jailUser, mountReasons, refuseMounts, sharingOf, shownToQemu } from "./sharing.ts";

const mount = (uid: number, readOnly = false, gid = uid): MountPlan => ({
  source: `/srv/${uid}`,
  target: `/mnt/${uid}`,
  readOnly,
  owner: { uid, gid },
});
const BASE = 1_000_000;

test("one mount that can be written to makes the guest a writer", () => {
  expect(sharingOf([])).toBe("none");
  expect(sharingOf([mount(0, true), mount(1, true)])).toBe("read");
  expect(sharingOf([mount(0, true), mount(1)])).toBe("write");
});

describe("QEMU is", () => {
  test("the owner of the mounts, whose ids are seen as they are", () => {
    const mounts = [mount(501, false, 20), mount(501, true, 20)];
    expect(jailUser(mounts)).toEqual({ uid: 501, gid: 20 });
    expect(mounts.map(shownToQemu(mounts, BASE))).toEqual([
      { inert: true, idmap: { idBase: BASE, size: 65_536 } },
      { inert: true, idmap: { idBase: BASE, size: 65_536 } },
    ]);
  });

  test("of several the first that is written to, and seen as the others' too", () => {
    const mounts = [mount(0, true), mount(501)];
    expect(jailUser(mounts)).toEqual({ uid: 501, gid: 501 });
    const pair = { file: 0, seen: 501 };
    expect(mounts.map(shownToQemu(mounts, BASE))[0]?.idmap).toMatchObject({ uid: pair, gid: pair });
  });

  test("its usual self for an owner beyond the range, and seen as that one", () => {
    const mounts = [mount(100_500, false, 7)];
    expect(jailUser(mounts)).toEqual({ uid: JAIL_USER.uid, gid: 7 });
    expect(shownToQemu(mounts, BASE)(mount(100_500, false, 7)).idmap).toEqual({
      idBase: BASE,
      size: 65_536,
      uid: { file: 100_500, seen: JAIL_USER.uid },
    });
  });

  test("its usual self where nothing is mounted", () => {
    expect(jailUser([])).toEqual(JAIL_USER);
    expect(mountReasons([])).toEqual([]);
  });
});

test("mounts are refused where the guest's kernel cannot have them, and only there", () => {
  const kernel = { vmlinux: "/k", modules: null, release: "6.1-cloud", hash: "h" };
  const stock = { guestKernel: { ...kernel, kind: "stock" } } as const;
  expect(() => refuseMounts([mount(0)], stock)).toThrow(/Debian's kernel/);
  expect(() => refuseMounts([], stock)).not.toThrow();
  expect(() => refuseMounts([mount(0)], { guestKernel: { ...kernel, kind: "own" } })).not.toThrow();
});
