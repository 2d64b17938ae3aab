import assert from "node:assert/strict";
import { theme } from "../check.ts";
import { childrenOf, filesBelow, traces, weightOf } from "../host.ts";
import type { Outside } from "../target.ts";

const ROUNDS = 200;
/** The allocators' own slack over 200 sandboxes; a leak of one 64 KiB buffer each would be 12 MiB. */
const ENGINE_GROWTH_BYTES = 48 * 1024 * 1024;
const KEEPER_GROWTH_BYTES = 2 * 1024 * 1024;

async function state(
  outside: Outside,
): Promise<{ engine: number; engineFds: number; keeper: number; keeperFds: number; children: number; files: number }> {
  const [engine, keeper] = [await weightOf(outside.enginePid), await weightOf(outside.keeperPid())];
  const children = (await childrenOf(outside.keeperPid())).length;
  const files = (await filesBelow(outside.runDirectory)).length;
  return {
    engine: engine.rssBytes,
    engineFds: engine.descriptors,
    keeper: keeper.rssBytes,
    keeperFds: keeper.descriptors,
    children,
    files,
  };
}

export const enduranceChecks = theme("endurance", "host", (check) => {
  check(
    `${ROUNDS} sandboxes made, used and killed one after another leave nothing`,
    async ({ open }) => {
      const { outside } = open;
      assert.ok(outside !== null);
      const ids: string[] = [];
      const round = async (): Promise<void> => {
        const box = await open.create();
        ids.push(box.id);
        assert.equal((await box.run(["echo", "hi"])).stdout.toString(), "hi\n");
        await box.kill();
      };
      // The first ones load code and fill caches.
      for (let i = 0; i < 20; i++) await round();
      const before = await state(outside);
      for (let i = 0; i < ROUNDS; i++) await round();
      const after = await state(outside);
      assert.deepEqual(await traces(ids), []);
      assert.equal(new Set(ids).size, ids.length, "an id was used twice");
      assert.equal(after.children, before.children, "the keeper has more children");
      assert.equal(after.files, before.files, "the run directory has more files");
      assert.ok(
        after.engineFds <= before.engineFds + 2,
        `the engine's descriptors went from ${before.engineFds} to ${after.engineFds}`,
      );
      assert.ok(
        after.keeperFds <= before.keeperFds,
        `the keeper's descriptors went from ${before.keeperFds} to ${after.keeperFds}`,
      );
      assert.ok(
        after.engine - before.engine < ENGINE_GROWTH_BYTES,
        `the engine grew by ${after.engine - before.engine} bytes`,
      );
      assert.ok(
        after.keeper - before.keeper < KEEPER_GROWTH_BYTES,
        `the keeper grew by ${after.keeper - before.keeper} bytes`,
      );
    },
    { timeoutMs: 600_000 },
  );

  check(
    "10 sandboxes at once, each with its own files and answer",
    async ({ open }) => {
      const boxes = await Promise.all(Array.from({ length: 10 }, () => open.create()));
      try {
        await Promise.all(boxes.map((box, i) => box.files.write("/tmp/mine", String(i))));
        const answers = await Promise.all(boxes.map((box) => box.run(["cat", "/tmp/mine"])));
        assert.deepEqual(
          answers.map((a) => a.stdout.toString()),
          boxes.map((_, i) => String(i)),
        );
      } finally {
        await Promise.all(boxes.map((box) => box.kill()));
      }
      assert.deepEqual(await traces(boxes.map((box) => box.id)), []);
    },
    { timeoutMs: 120_000 },
  );

  check("a create that is aborted leaves nothing", async ({ open }) => {
    const { outside } = open;
    assert.ok(outside !== null);
    const before = await state(outside);
    for (const ms of [1, 5, 10, 20, 40]) {
      const made = await open.create({}, AbortSignal.timeout(ms)).catch((error: Error & { code?: string }) => {
        assert.equal(error.code, "ABORTED", String(error));
        return null;
      });
      await made?.kill();
    }
    const after = await state(outside);
    assert.deepEqual([after.children, after.files], [before.children, before.files]);
  });

  check("20 failing creates leave nothing", async ({ open }) => {
    const { outside } = open;
    assert.ok(outside !== null);
    const before = await state(outside);
    for (let i = 0; i < 20; i++) {
      await open.create({ image: "no-such-image" }).then(
        (box) => box.kill().then(() => assert.fail("it was made")),
        (error: Error & { code?: string }) => assert.equal(error.code, "IMAGE_NOT_FOUND"),
      );
    }
    const after = await state(outside);
    assert.deepEqual([after.children, after.files, after.keeperFds], [before.children, before.files, before.keeperFds]);
  });
});
