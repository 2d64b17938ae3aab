import { targetNamed } from "./targets/index.ts";

/**
 * An engine in a process of its own, to be killed: makes sandboxes with work in them, says where it is, and waits.
 * Usage: victim.ts TARGET RUN_DIRECTORY COUNT SHARED_DIRECTORY
 */
const [name, run, count, shared] = process.argv.slice(2);
if (name === undefined || run === undefined || count === undefined || shared === undefined)
  throw new Error("usage: victim.ts TARGET RUN_DIRECTORY COUNT SHARED_DIRECTORY");
const open = await targetNamed(name).open({ run });
const boxes = await Promise.all(
  Array.from({ length: Number(count) }, () => open.create({ mounts: [{ source: shared, target: "/mnt" }] })),
);
const work = await Promise.all(
  boxes.map((box) => box.start(["sh", "-c", "sleep 1000 >> /mnt/held & setsid sleep 1001 & wait"])),
);
for (const running of work) {
  running.stdout.resume();
  running.exit.catch(() => undefined);
}
const said = { enginePid: process.pid, keeperPid: open.outside?.keeperPid(), ids: boxes.map((box) => box.id) };
process.stdout.write(`${JSON.stringify(said)}\n`);
setInterval(() => undefined, 1 << 30);
