import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { BulkheadError } from "@bulkhead/contract";
import { describe, expect, test } from "vitest";
import type { ImageLimits } from "../../packages/engine/src/image/limits.ts";
import { composeLayers, unpackLayer } from "../../packages/engine/src/image/unpack.ts";
import { sha256 } from "../images/support/layout.ts";
import { pullingInto } from "../images/support/scene.ts";
import { lack, missing, openDirectory } from "./support/boxes.ts";
import { makeTrap, type Trap } from "./support/trap.ts";

const TIMEOUT_MS = 120_000;
const ATTACKER = join(import.meta.dirname, "support/layers.py");
/** What the bomb is measured by: a tenth of what it becomes. */
const BOMB_RATIO = 100;
const BOMB_BYTES = 80 * 1024 * 1024;
/** What stat counts in. */
const BLOCK_BYTES = 512;
const MAX_ENTRIES = 5000;
const NOBODY = "65534";
/** Exit code 1 when the file has no such attribute. */
const HAS_ATTRIBUTE = "import os, sys; os.getxattr(sys.argv[1], sys.argv[2], follow_symlinks=False)";

/** Verdicts on layers: the kind of the refusal, or null for an image that is allowed and harms nobody. */
const ATTACKS: Readonly<Record<string, string | null>> = {
  "climbing-path": "traversal",
  "absolute-path": null,
  "through-link": "traversal",
  "through-climbing-link": "traversal",
  "directory-becomes-link": "traversal",
  "over-link": null,
  "over-link-of-lower-layer": null,
  "through-link-of-lower-layer": null,
  "hard-link-out": "bad-link",
  "climbing-hard-link": "traversal",
  "hard-link-through-link": "traversal",
  "over-hard-link": null,
  "climbing-whiteout": "traversal",
  "whiteout-through-link": null,
  "opaque-through-link": null,
  "device-node": null,
  "set-user-id": null,
  "file-capability": null,
  "overlay-attribute": "xattr",
  "names-that-fold": null,
  bomb: "bomb",
  "sparse-bomb": "bomb",
  "larger-than-fits": "too-large",
  "too-many-entries": "too-many-entries",
};

/** Bounds that the attacks exceed by little, so that the careless program falls to them within a moment. */
const LIMITS: Readonly<Record<string, Partial<ImageLimits>>> = {
  "larger-than-fits": { unpackedBytes: 16 * 1024 * 1024 },
  "too-many-entries": { entries: MAX_ENTRIES },
};

interface Scene extends Disposable {
  readonly path: string;
  readonly trap: Trap;
  readonly layers: readonly string[];
}

function sceneOf(attack: string): Scene {
  const base = openDirectory();
  for (const name of ["trap", "layers", "root"]) mkdirSync(join(base.path, name));
  const trap = makeTrap(join(base.path, "trap"));
  execFileSync("python3", [ATTACKER, "make", attack, trap.path, join(base.path, "layers")]);
  const layers = [0, 1].map((number) => join(base.path, "layers", `${number}.tar`)).filter((path) => existsSync(path));
  return { path: base.path, trap, layers, [Symbol.dispose]: () => base[Symbol.dispose]() };
}

/** What of the host the attack has changed or got hold of, judged by what is in `root` and in the trap; empty when nothing. */
function harm(root: string, trap: Trap, before: readonly string[]): string {
  if (JSON.stringify(trap.state()) !== JSON.stringify(before)) return "it changed files outside";
  const at = (name: string): string => join(root, name);
  const stats = (name: string) => lstatSync(at(name), { throwIfNoEntry: false });
  if (stats("a")?.isFile() === true && readFileSync(at("a"), "utf8").includes(trap.secret)) return "it has the secret";
  if (stats("disk")?.isBlockDevice() === true) return "it has a device of the host";
  if (existsSync(at("su")) && isPossible(["test", "-u", at("su")])) return "users of the host reach a set-user-id file";
  if (hasAttribute(at("able"), "security.capability") && isPossible(["test", "-x", at("able")]))
    return "users of the host reach a file with capabilities";
  if (hasAttribute(at("etc"), "trusted.overlay.redirect")) return "an overlay over it is led elsewhere";
  if (existsSync(at("many")) && readdirSync(at("many")).length > MAX_ENTRIES) return "it made more files than it may";
  // A hole takes none.
  return (stats("zeros")?.blocks ?? 0) * BLOCK_BYTES >= BOMB_BYTES ? "it took all the room it wanted" : "";
}

/** For a user of the host who is nobody. */
function isPossible(program: readonly string[]): boolean {
  return spawnSync("setpriv", ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", ...program]).status === 0;
}

function hasAttribute(path: string, name: string): boolean {
  return existsSync(path) && spawnSync("python3", ["-c", HAS_ATTRIBUTE, path, name]).status === 0;
}

/** @returns the refusal's kind, or null */
async function unpackAll({ path, layers }: Scene, attack: string): Promise<string | null> {
  const pulling = pullingInto(join(path, "state"));
  const limits = { ...pulling.limits, ratio: BOMB_RATIO, ...LIMITS[attack] };
  const program = { path: pulling.layersProgram, image: "hostile", limits };
  const unpacked: string[] = [];
  try {
    for (const layer of layers) {
      const tar = readFileSync(layer);
      const blob = gzipSync(tar);
      writeFileSync(`${layer}.gz`, blob);
      const expected = { digest: sha256(blob), diffId: sha256(tar) };
      await unpackLayer(program, `${layer}.gz`, `${layer}.unpacked`, expected, () => {});
      unpacked.push(`${layer}.unpacked`);
    }
    mkdirSync(join(path, "image"), { mode: 0o700 });
    await composeLayers(program, join(path, "image"), unpacked);
    return null;
  } catch (error) {
    if (!(error instanceof BulkheadError) || error.code !== "IMAGE_REFUSED") throw error;
    return String(error.details["kind"]);
  }
}

// Owners and devices are root's to give, and the program has to be built.
describe.skipIf(missing.length > 0)(`layers that attack whoever unpacks them${lack}`, { timeout: TIMEOUT_MS }, () => {
  describe.each(Object.entries(ATTACKS))("%s", (attack, verdict) => {
    test("control: who unpacks by joined names falls to it", () => {
      using scene = sceneOf(attack);
      const before = scene.trap.state();
      execFileSync("python3", [ATTACKER, "control", attack, join(scene.path, "root"), ...scene.layers]);
      expect(harm(join(scene.path, "root"), scene.trap, before)).not.toBe("");
    });

    test(verdict === null ? "it is unpacked and harms nobody" : `it is refused: ${verdict}`, async () => {
      using scene = sceneOf(attack);
      const before = scene.trap.state();
      expect(await unpackAll(scene, attack)).toBe(verdict);
      expect(harm(join(scene.path, "image/rootfs"), scene.trap, before)).toBe("");
      for (const layer of scene.layers) {
        expect(harm(`${layer}.unpacked/tree`, scene.trap, before)).toBe("");
      }
    });
  });
});
