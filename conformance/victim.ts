import { join } from "node:path";
import { eventually } from "./check.ts";
import { targetNamed } from "./targets/index.ts";

/**
 * An engine in a process of its own, to be killed: makes sandboxes with work in them, says where it is, and waits. Every
 * sandbox has SHARED, a host directory, as a mount and writes to it, or - for none. With a directory for snapshots it saves
 * its first sandbox there over and over. A volume takes the place of SHARED. With a name to keep it has one sandbox, which has
 * synced a file to its layer.
 * Usage: victim.ts TARGET RUN_DIRECTORY COUNT SHARED [paused | SNAPSHOTS | volume=NAME | keep=NAME]
 */
const [name, run, count, shared, then] = process.argv.slice(2);
if (name === undefined || run === undefined || count === undefined || shared === undefined)
  throw new Error("usage: victim.ts TARGET RUN_DIRECTORY COUNT SHARED [paused | SNAPSHOTS | volume=NAME | keep=NAME]");
const mounts = shared === "-" ? [] : [{ source: shared, target: "/mnt" }];
const volume = then?.startsWith("volume=") === true ? then.slice("volume=".length) : null;
const volumes = volume === null ? [] : [{ name: volume, target: "/mnt", shared: true }];
const held = mounts.length + volumes.length === 0 ? "/tmp/held" : "/mnt/held";
const open = await targetNamed(name).open({ run });
const keep = then?.startsWith("keep=") === true ? { keep: then.slice("keep=".length) } : {};
const boxes = await Promise.all(Array.from({ length: Number(count) }, () => open.create({ mounts, volumes, ...keep })));
if (then?.startsWith("keep=") === true) await boxes[0]?.run(["sh", "-c", "echo synced > /home/user/synced; sync"]);
const work = await Promise.all(
  boxes.map((box) => box.start(["sh", "-c", `sleep 1000 >> ${held} & setsid sleep 1001 & wait`])),
);
for (const running of work) {
  running.stdout.resume();
  running.exit.catch(() => undefined);
}
// Started is not yet at work: who looks for what they hold must find it.
await Promise.all(boxes.map((box) => eventually("the work", () => box.files.stat(held).catch(() => null), 60_000)));
if (then === "paused") await Promise.all(boxes.map((box) => box.pause()));
const said = { enginePid: process.pid, keeperPid: open.outside?.keeperPid(), ids: boxes.map((box) => box.id) };
process.stdout.write(`${JSON.stringify(said)}\n`);
setInterval(() => undefined, 1 << 30);
if (then?.startsWith("/") === true) for (let i = 0; ; i += 1) await boxes[0]?.snapshot(join(then, `${i}`));
