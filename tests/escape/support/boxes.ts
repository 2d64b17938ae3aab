import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "@bulkhead/engine";
import { lacking } from "../../e2e/cli-process.ts";

export const missing = lacking(process.env);
/** To be appended to a suite's title: why nothing in it ran, or nothing. */
export const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

/** A directory that other users can pass through: what keeps them from a secret in it must be the boundary. */
export function openDirectory(): { readonly path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "bulkhead-escape-"));
  chmodSync(path, 0o755);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** An engine with one driver; a text when this machine cannot have it. */
export async function engineOf(driver: string, run: string): Promise<Engine | string> {
  const engine = await Engine.open({ run, drivers: [driver] });
  const [candidate] = engine.candidates;
  if (candidate?.availability.ok === true) return engine;
  await engine[Symbol.asyncDispose]();
  return `NOT TESTED, no ${driver} here: ${candidate?.availability.reason ?? "no driver"}`;
}
