import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { VolumeStore } from "@bulkhead/engine/volumes";
import type { Box } from "../box.ts";
import type { Context } from "../check.ts";
import { eventually, fails, theme } from "../check.ts";
import { hostCommand } from "../host.ts";
import { ended, nextEngineWorks, nothingLeft, runDirectory, standing, victim } from "./crash.ts";

const MIB = 1024 * 1024;
const SIZE_BYTES = 16 * MIB;
const INODES = 128;
const PLACE = "/mnt/volume";
const FILL = `
import os,errno
def full(action):
    try:
        while True: action()
    except OSError as e: print(errno.errorcode[e.errno])
f=os.open('big',os.O_WRONLY|os.O_CREAT); full(lambda: os.write(f,bytes(1<<20))); print(os.fstat(f).st_size>0)
os.close(f); os.unlink('big')
n=[0]
def touch(): open(f'f{n[0]}','w').close(); n[0]+=1
full(touch); print(n[0])
for i in range(n[0]): os.unlink(f'f{i}')
open('after','w').write('usable')`;

interface Volume {
  readonly name: string;
  readonly store: VolumeStore;
  /** Its directory. */
  readonly path: string;
}

async function volume({ open, defer }: Context): Promise<Volume> {
  const state = open.outside?.stateDirectory ?? "";
  const store = new VolumeStore(state);
  const name = `conformance-${randomBytes(6).toString("hex")}`;
  await store.create(name, { sizeBytes: SIZE_BYTES, inodes: INODES });
  // A sandbox that has just been killed lets go of it a moment later.
  defer(() => eventually("the volume's removal", () => store.remove(name).then(() => true, refused), 20_000));
  return { name, store, path: join(state, "volumes", name) };
}

const refused = (error: unknown): boolean => {
  if (!(error instanceof BulkheadError) || error.code !== "VOLUME_IN_USE") throw error;
  return false;
};

/** Loop devices with the volume's file behind them. */
async function devicesOf({ path }: Volume): Promise<readonly string[]> {
  const loops = (await readdir("/sys/block")).filter((name) => name.startsWith("loop"));
  const files = await Promise.all(
    loops.map((name) => readFile(`/sys/block/${name}/loop/backing_file`, "utf8").catch(() => "")),
  );
  return files.filter((file) => file.startsWith(`${path}/`));
}

async function inside(box: Box, script: string, user = "user"): Promise<string> {
  const result = await box.run(["sh", "-c", script], { cwd: PLACE, user });
  assert.equal(result.code, 0, result.stderr.toString());
  return result.stdout.toString();
}

/** Several sandboxes one after another, where an emulated guest with mounts may first have to be booted. */
const TIMEOUT_MS = 180_000;

export const volumeChecks = theme("volumes", "host", (register) => {
  const check = (name: string, body: (context: Context) => Promise<void>): void =>
    register(name, body, { timeoutMs: TIMEOUT_MS });

  check("what is written to a volume is there for the next sandbox, as it was", async (context) => {
    const { name } = await volume(context);
    const attached = { volumes: [{ name, target: PLACE }] };
    const first = await context.fresh(attached);
    await inside(first, "mkdir deep && echo kept > deep/file && chmod 640 deep/file && ln -s file deep/link");
    await first.kill();
    const second = await context.fresh(attached);
    assert.equal(await inside(second, "ls; cat deep/link; stat -c '%a %u' deep/file"), "deep\nkept\n640 1000\n");
    await inside(second, "echo more >> deep/file; cp /bin/true run; ./run");
    assert.equal(await inside(second, "cat deep/file", "root"), "kept\nmore\n");
  });

  check("a volume has a hard end in bytes and files, and beyond it nothing is worse than ENOSPC", async (context) => {
    const made = await volume(context);
    const box = await context.fresh({ volumes: [{ name: made.name, target: PLACE }] });
    const result = await box.run(["python3", "-c", FILL], { cwd: PLACE });
    const [bytes, wrote, files, count] = result.stdout.toString().split("\n");
    assert.deepEqual([bytes, wrote, files], ["ENOSPC", "True", "ENOSPC"], result.stderr.toString());
    assert.ok(Number(count) > INODES / 2 && Number(count) <= INODES, `${count} files`);
    assert.equal(await inside(box, "cat after"), "usable");
    assert.equal((await stat(join(made.path, "data.ext4"))).size, SIZE_BYTES);
    assert.equal((await box.run(["echo", "alive"])).stdout.toString(), "alive\n");
  });

  check("a full volume is told by its name and size, and is not the layer", async (context) => {
    const { name } = await volume(context);
    const box = await context.fresh({ volumes: [{ name, target: PLACE }] });
    const filled = await box.run(["sh", "-c", "cat /dev/zero > fill"], { cwd: PLACE });
    assert.notEqual(filled.code, 0);
    const told = (await box.limitsReached()).map((hit) => [hit.limit, hit.volume, hit.value, hit.killed, hit.toldBy]);
    assert.deepEqual(told, [["disk", name, SIZE_BYTES, null, "host"]], filled.stderr.toString());
    await inside(box, "rm fill; sync; echo fits > fill");
    assert.notEqual((await box.run(["false"])).code, 0);
    assert.equal((await box.limitsReached()).length, 1);
  });

  check(
    "who writes to a volume is alone; readers and sharers are together and see each other's changes",
    async (context) => {
      const { name } = await volume(context);
      const attach = (how: { readOnly?: boolean; shared?: boolean }): Promise<Box> =>
        context.fresh({ volumes: [{ name, target: PLACE, ...how }] });
      const writer = await attach({});
      await inside(writer, "echo one > file");
      for (const how of [{}, { readOnly: true }, { shared: true }]) {
        const error = await fails("VOLUME_IN_USE", () => attach(how));
        assert.match(error.message, new RegExp(name));
      }
      await writer.kill();
      const [first, second, reader] = [
        await attach({ shared: true }),
        await attach({ shared: true }),
        await attach({ readOnly: true }),
      ];
      await fails("VOLUME_IN_USE", () => attach({}));
      await inside(first, "echo two >> file");
      await inside(second, "echo three >> file");
      for (const box of [first, second, reader]) assert.equal(await inside(box, "cat file"), "one\ntwo\nthree\n");
      for (const user of ["root", "user"]) {
        const script = `echo x > ${PLACE}/new || rm ${PLACE}/file || chmod 777 ${PLACE}`;
        assert.notEqual((await reader.run(["sh", "-c", script], { user })).code, 0, user);
      }
      assert.equal(await inside(first, "cat file; ls | wc -l"), "one\ntwo\nthree\n1\n");
    },
  );

  check(
    "one device is behind a volume however many use it, none when nobody does; in use it is not removed",
    async (context) => {
      const made = await volume(context);
      const use = { volumes: [{ name: made.name, target: PLACE, shared: true }] };
      const boxes = await Promise.all([context.fresh(use), context.fresh(use), context.fresh(use)]);
      assert.equal((await devicesOf(made)).length, 1);
      assert.equal((await made.store.list()).find(({ name }) => name === made.name)?.users.readers, 3);
      await fails("VOLUME_IN_USE", () => made.store.remove(made.name));
      await Promise.all(boxes.map((box) => box.kill()));
      await eventually("the device's end", async () => (await devicesOf(made)).length === 0, 20_000);
      await hostCommand(["/usr/sbin/e2fsck", "-f", "-n", join(made.path, "data.ext4")]);
    },
  );

  check("a device in a volume cannot be opened, and a set-user-id file there raises nothing", async (context) => {
    const { name } = await volume(context);
    const box = await context.fresh({
      volumes: [{ name, target: PLACE }],
      allowSetuid: context.target.traits.level === "container",
    });
    const made = await box.run(
      ["sh", "-c", "cp /usr/bin/id id; chown 0:0 id; chmod 4755 id; mknod full c 1 7; chmod 666 full; true"],
      {
        cwd: PLACE,
        user: "root",
      },
    );
    assert.equal(made.code, 0);
    assert.equal(await inside(box, "./id -u"), "1000\n");
    assert.notEqual((await box.run(["head", "-c", "1", `${PLACE}/full`])).code, 0);
  });

  check("a volume that is not there is refused by name", async ({ open }) => {
    const error = await fails("VOLUME_NOT_FOUND", () =>
      open.create({ volumes: [{ name: "no-such-volume", target: "/mnt/x" }] }),
    );
    assert.match(error.message, /no-such-volume/);
  });

  check(
    "engine and keeper killed with -9: no device and no mount of a volume stays, and what was written does",
    async (context) => {
      const made = await volume(context);
      const run = await runDirectory(context);
      const found = await victim(context, run, 2, `volume=${made.name}`);
      await standing(found, run);
      assert.equal((await devicesOf(made)).length, 1);
      process.kill(found.keeperPid, "SIGKILL");
      process.kill(found.enginePid, "SIGKILL");
      for (const pid of [found.keeperPid, found.enginePid]) await eventually("its end", () => ended(pid), 20_000);
      await nextEngineWorks(context, run);
      await nothingLeft(found, run);
      await eventually("the device's end", async () => (await devicesOf(made)).length === 0, 20_000);
      const box = await context.fresh({ volumes: [{ name: made.name, target: PLACE }] });
      assert.equal(await inside(box, "ls; echo again >> held"), "held\n");
    },
  );
});
