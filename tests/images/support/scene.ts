import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore, pullingOf, type Pulling } from "@bulkhead/engine/images";
import { onTestFinished } from "vitest";

/** Of a busy disk. */
const REMOVE_WITHIN_MS = 120_000;

/**
 * A test's own directory, gone when the test has ended.
 *
 * @param finished the test's own; has to be given where tests run side by side
 */
export function scratch(finished: typeof onTestFinished = onTestFinished): string {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-images-"));
  finished(() => rmSync(dir, { recursive: true, force: true }), REMOVE_WITHIN_MS);
  return dir;
}

/** What is needed to pull into an empty store, with what a user would have in the environment. */
export function pullingInto(
  state: string,
  extra: Readonly<Record<string, string>> = {},
  insecureRegistries: readonly string[] = [],
): Pulling {
  const pulling = pullingOf({ state }, insecureRegistries);
  const { HTTP_PROXY: _a, HTTPS_PROXY: _b, http_proxy: _c, https_proxy: _d, ...own } = pulling.environment;
  return { ...pulling, environment: { ...own, ...extra }, store: new ImageStore(state) };
}

/** Names below the store's directories: what is whole, and what is not. */
export function contents(state: string): {
  readonly images: readonly string[];
  readonly layers: readonly string[];
  readonly blobs: readonly string[];
  readonly unfinished: readonly string[];
} {
  const dir = join(state, "images");
  const names = (path: string): readonly string[] => (existsSync(path) ? readdirSync(path) : []);
  return {
    images: names(dir).filter((name) => name.startsWith("sha256-")),
    layers: names(join(dir, "layers")),
    blobs: names(join(dir, "blobs/sha256")),
    unfinished: names(dir).filter((name) => /^\.(?:new|trash)-/.test(name)),
  };
}
