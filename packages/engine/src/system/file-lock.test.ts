import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { lockFile } from "./file-lock.ts";

test("one holder at a time; a waiter is told, can be aborted, and gets the lock when it is free", async () => {
  const path = join(mkdtempSync(join(tmpdir(), "bulkhead-lock-")), "lock");
  const order: string[] = [];
  const first = await lockFile(path);
  const stop = AbortSignal.timeout(500);
  await expect(lockFile(path, { signal: stop, onWait: () => order.push("waiting") })).rejects.toMatchObject({
    code: "ABORTED",
  });
  const second = lockFile(path).then(async (lock) => {
    order.push("second");
    await lock[Symbol.asyncDispose]();
  });
  order.push("release");
  await first[Symbol.asyncDispose]();
  await second;
  expect(order).toEqual(["waiting", "release", "second"]);
});

test("a file that cannot be opened is a typed error", async () => {
  await expect(lockFile("/proc/no/such/lock")).rejects.toMatchObject({ code: "HOST_RESOURCE" });
});
