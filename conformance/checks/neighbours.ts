import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Box } from "../box.ts";
import { theme, within } from "../check.ts";
import { hostCommand } from "../host.ts";

const SCRIPT = new URL("../neighbours.py", import.meta.url).pathname;
/** More of each than any user of any kernel may have, but for what only memory bounds. */
const ALL = "300";
/** What a neighbour needs while somebody else has taken all there is. */
const SOME = "8";

/** How many of each kind were had; null where the boundary or the kernel has no such thing. */
type Counts = Readonly<Record<string, number | null>>;

async function takenInside(box: Box, script: string): Promise<Counts> {
  const result = await box.run(["python3", "-c", script, "take", SOME], { user: "user" });
  assert.equal(result.code, 0, result.stderr.toString());
  return JSON.parse(result.stdout.toString()) as Counts;
}

async function takenOnHost(): Promise<Counts> {
  return JSON.parse(await hostCommand(["python3", SCRIPT, "take", SOME])) as Counts;
}

async function firstLine(stream: NodeJS.ReadableStream): Promise<string> {
  for await (const line of createInterface({ input: stream })) return line;
  return "";
}

export const neighbourChecks = theme("neighbours", "host", (check) => {
  check(
    "one that takes all of what control groups do not count leaves a neighbour and the host theirs",
    async ({ fresh, target }) => {
      const script = await readFile(SCRIPT, "utf8");
      const [greedy, neighbour] = [await fresh(), await fresh()];
      const before = [await takenInside(neighbour, script), await takenOnHost()];
      for (const had of before) {
        const counts = Object.values(had).filter((count) => count !== null);
        assert.ok(counts.length > 0 && counts.every((count) => count > 0), JSON.stringify(had));
      }
      const holding = await greedy.start(["python3", "-c", script, "hold", ALL], { user: "user", stdin: true });
      const taken = JSON.parse(await within("taking all", 60_000, firstLine(holding.stdout))) as Counts;
      // Inside gVisor there are no such quotas: what is taken is the sandbox's own memory.
      if (target.traits.level !== "gvisor") {
        assert.ok(Number(taken["inotify"]) < Number(ALL) && Number(taken["pipe"]) < Number(ALL), JSON.stringify(taken));
      }
      assert.deepEqual([await takenInside(neighbour, script), await takenOnHost()], before);
      holding.stdin.end();
      await within("giving back", 30_000, holding.exit);
    },
    { timeoutMs: 180_000 },
  );

  check(
    "without namespaces and ids of their own neighbours do starve each other",
    async () => {
      const seen = JSON.parse(await hostCommand(["python3", SCRIPT, "control"])) as Record<string, unknown>;
      for (const kind of ["inotify", "pipe", "key", "segment"]) {
        const [first, sharing, apart] = (Array.isArray(seen[kind]) ? seen[kind] : []) as number[];
        assert.ok(Number(first) > 0 && sharing === 0 && Number(apart) > 0, `${kind}: ${JSON.stringify(seen[kind])}`);
      }
    },
    {
      notFor: (t) => (t.traits.level === "container" ? null : "it is about the host's kernel, which containers share"),
    },
  );
});
