import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { SpecInput } from "@bulkhead/contract";
import { Engine } from "@bulkhead/engine";
import { lacking, start } from "./cli-process.ts";

const missing = lacking(process.env);
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";
const dir = mkdtempSync(join(tmpdir(), "bulkhead-network-"));
chmodSync(dir, 0o755);
const run = join(dir, "run");
const env = { ...process.env, BULKHEAD_RUN: run, NO_COLOR: "1" };

afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Tries a name and an address that no rule allows. */
const TRIES = `
import socket
for where in ('evil.example.org',443),('93.184.216.34',443):
    try: socket.create_connection(where,30); print('open')
    except OSError as e: print('closed')`;

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`a network by the command line${lack}`, { timeout: 120_000 }, () => {
  const words = ["run", "--isolation", "container", "--network", "allow:pypi.org"];
  const program = ["--", "python3", "-c", TRIES];

  test("what was denied is said at the end, with the option that would allow it", async () => {
    expect(await start([...words, ...program], env).outcome).toEqual({
      code: 0,
      signal: null,
      stdout: "closed\nclosed\n",
      stderr:
        "bulkhead: denied: no rule allows evil.example.org; to allow it: --network allow:evil.example.org\n" +
        "bulkhead: denied: no rule allows 93.184.216.34 port 443, and no allowed name was resolved to it; " +
        "to allow it: --network allow:93.184.216.34:443\n",
    });
  });

  test("and as events with --json", async () => {
    const { stdout, stderr } = await start([...words, "--json", ...program], env).outcome;
    const lines = stdout.trim().split("\n");
    const events = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(events.filter(({ type }) => type === "denied")).toMatchObject([
      { kind: "dns", name: "evil.example.org", rule: null, next: "--network allow:evil.example.org" },
      { kind: "tcp", address: "93.184.216.34", port: 443, next: "--network allow:93.184.216.34:443" },
    ]);
    expect(events.at(-1)).toMatchObject({ type: "exit", code: 0 });
    expect(stderr).toBe("");
  });
});

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`a network by the library${lack}`, { timeout: 120_000 }, () => {
  test("is refused where the engine gives none", async () => {
    await using engine = await Engine.open({ run, network: false });
    const asked: SpecInput = { isolation: "container", network: { allow: ["pypi.org"] } };
    await expect(engine.create(asked)).rejects.toMatchObject({ code: "POLICY_REFUSED" });
    await expect(engine.explain(asked)).rejects.toMatchObject({ code: "POLICY_REFUSED" });
    await using box = await engine.create({ isolation: "container" });
    expect(box.network.policy).toBe("none");
    expect(() => box.network.update({ allow: [] })).toThrow(/cannot be changed/);
  });

  test("stands in the plan, and can be changed", async () => {
    await using engine = await Engine.open({ run });
    await using box = await engine.create({ isolation: "container", network: { allow: ["PyPI.org."] } });
    expect(box.plan.network).toEqual({ allow: ["pypi.org"], deny: [] });
    box.network.update({ allow: ["a.example.com"] });
    expect(box.network.policy).toEqual({ allow: ["a.example.com"], deny: [] });
    expect(() => box.network.update({ allow: ["*.com"] })).toThrow(/"\*\.com"/);
    expect(box.network.policy).toEqual({ allow: ["a.example.com"], deny: [] });
  });
});
