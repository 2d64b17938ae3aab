import { renameSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

/**
 * Puts the command line with all it imports into one file, which Node.js loads in a third of the time that a hundred files
 * take: half of what a short run costs. It is as deep in the repository as the sources, so that paths relative to
 * import.meta.url lead to the same places. The launcher uses it while no source is newer.
 */
const HOME = fileURLToPath(new URL("../", import.meta.url));
const BUNDLE = join(HOME, "packages/cli/dist/bundle/main.js");

/** Loaded from their own files by the few runs that need them. */
const external = [/^@peculiar\//, "reflect-metadata"];
const input = join(HOME, "packages/cli/src/main.ts");
await using build = await rolldown({ input, platform: "node", external });
const draft = `${BUNDLE}.${process.pid}.new`;
await build.write({ file: draft, format: "esm", codeSplitting: false, sourcemap: false });
// By one rename: a run that starts meanwhile sees the old file or the new one.
renameSync(draft, BUNDLE);
