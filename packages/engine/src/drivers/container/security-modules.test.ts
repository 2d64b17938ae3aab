import { expect, test } from "vitest";
import type { HostFacts } from "../../host/facts.ts";
import { confiningProfile, type SecurityFacts } from "../../host/security-modules.ts";
import { appArmorProfile, moduleReasons, oursIn, securityModules, withAppArmor } from "./security-modules.ts";

const host = (security: Partial<SecurityFacts>): HostFacts =>
  ({ security: { landlock: 0, appArmor: null, seLinux: null, ...security } }) as HostFacts;
const active = { confinedBy: null, parser: "/usr/sbin/apparmor_parser", policy: true } as const;
const found = { ok: true, runtime: { name: "crun", path: "/crun", version: "1", digest: "" }, notes: [] } as const;

test("a container is held to Landlock where the kernel has enough of it, and says by what it is not", () => {
  const denies = (landlock: number): number =>
    securityModules(true, host({ landlock })).flatMap((one) => (one.name === "landlock" ? one.denies : [])).length;
  expect([0, 1, 2, 4, 5, 6, 9].map(denies)).toEqual([0, 0, 3, 3, 4, 6, 6]);
  expect(moduleReasons(true, host({ landlock: 1 })).join()).toMatch(/no Landlock/);
  expect(moduleReasons(true, host({ landlock: 2 }))).toEqual([]);
  // The kernel takes a domain only from who cannot raise its privileges.
  expect(securityModules(false, host({ landlock: 7 }))).toEqual([]);
  expect(moduleReasons(false, host({ landlock: 7 })).join()).toMatch(/no_new_privs/);
  expect(moduleReasons(true, host({ landlock: 7, seLinux: "enforcing" })).join()).toMatch(/SELinux/);
});

test("our AppArmor profile is asked for where nothing else holds us, and never exchanged for another's", () => {
  const { name, text } = appArmorProfile();
  expect(oursIn(securityModules(true, host({ appArmor: active })))).toBe(name);
  expect(text).toContain(`profile ${name} `);
  const outer = host({ appArmor: { ...active, confinedBy: "docker-default" } });
  expect(oursIn(securityModules(true, outer))).toBeNull();
  expect(moduleReasons(true, outer).join()).toContain("docker-default");
});

test("where AppArmor is active and its profile cannot be loaded there is no container, with what to do", () => {
  expect(withAppArmor(found, host({}))).toBe(found);
  expect(withAppArmor(found, host({ appArmor: active }))).toBe(found);
  expect(withAppArmor(found, host({ appArmor: { ...active, parser: null, confinedBy: "outer" } }))).toBe(found);
  const remedy = (change: object): string => {
    const judged = withAppArmor(found, host({ appArmor: { ...active, ...change } }));
    return judged.ok ? "" : judged.remedy;
  };
  expect(remedy({ parser: null })).toBe("apt-get install apparmor");
  expect(remedy({ policy: false })).toMatch(/^mount -t securityfs /);
});

test.each([
  ["", null],
  ["unconfined", null],
  ["crun (unconfined)", null],
  ["tool (complain)", null],
  ["docker-default (enforce)", "docker-default"],
  ["a name//child (kill)", "a name//child"],
])("label %j is held to %j", (label, expected) => expect(confiningProfile(label)).toBe(expected));
