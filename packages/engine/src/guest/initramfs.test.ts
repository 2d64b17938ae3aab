import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { agentInitramfs } from "./initramfs.ts";

test("holds the agent as init and a console, whatever the agent's length", () => {
  for (const length of [0, 1, 2, 3, 4, 5, 70_001]) {
    const archive = agentInitramfs(new Uint8Array(length).fill(7));
    expect(archive.length % 4).toBe(0);
    const text = Buffer.from(archive).toString("latin1");
    expect(text.startsWith("070701")).toBe(true);
    expect(text).toContain("TRAILER!!!");
  }
});

test("equal agents give equal archives", () => {
  const agent = new Uint8Array(1000).fill(3);
  expect(agentInitramfs(agent)).toEqual(agentInitramfs(agent));
});

function hasCpio(): boolean {
  try {
    execFileSync("cpio", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

// A machine that only runs sandboxes has no cpio; the format itself is tested above.
test.skipIf(!hasCpio())("cpio reads it", () => {
  const archive = agentInitramfs(new Uint8Array(4097).fill(7));
  const listing = execFileSync("cpio", ["-itv", "--quiet"], { input: archive }).toString();
  expect(listing).toMatch(/^drwxr-xr-x .* dev$/m);
  expect(listing).toMatch(/^crw------- .* 5, +1 .* dev\/console$/m);
  expect(listing).toMatch(/^crw-rw-rw- .* 1, +3 .* dev\/null$/m);
  expect(listing).toMatch(/^-rwxr-xr-x .* 4097 .* init$/m);
  expect(listing).not.toContain("modules");
});

// As above.
test.skipIf(!hasCpio())("cpio finds the modules and their order", () => {
  const modules = ["b", "a"].map((name) => ({ name, data: Buffer.from(name) }));
  const archive = agentInitramfs(new Uint8Array(1), modules);
  const listing = execFileSync("cpio", ["-it", "--quiet"], { input: archive }).toString();
  expect(listing).toContain("\nmodules\nmodules/load\nmodules/b.ko\nmodules/a.ko\n");
  const list = execFileSync("cpio", ["-i", "--quiet", "--to-stdout", "modules/load"], { input: archive });
  expect(list.toString()).toBe("b.ko\na.ko\n");
});
