import assert from "node:assert/strict";
import { chown, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../check.ts";
import { fails, theme } from "../check.ts";
import { freshDirectory, hostCommand } from "../host.ts";

async function hostDirectory({ defer }: Context): Promise<string> {
  const directory = await freshDirectory("conformance-mount-");
  defer(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, "given"), "from the host\n");
  return directory;
}

export const storageChecks = theme("storage", "host", (check) => {
  check("the writable layer is thrown away, the image stays as it was", async ({ fresh, open }) => {
    const first = await fresh();
    await first.run(
      [
        "sh",
        "-c",
        "echo changed > /etc/motd; echo new > /usr/bin/added; rm -f /etc/hostname; rm -rf /usr/share/doc; chmod 777 /etc/passwd",
      ],
      { user: "root" },
    );
    assert.equal((await first.files.read("/usr/bin/added", { user: "root" })).toString(), "new\n");
    const second = await fresh();
    const beside = await second.run([
      "sh",
      "-c",
      "ls /usr/bin/added; stat -c %a /etc/passwd; cat /etc/motd 2>/dev/null | grep -c changed",
    ]);
    assert.match(beside.stdout.toString(), /^644\n0?\n?$/);
    await first.kill();
    assert.ok(open.outside !== null);
  });

  check("files of the image belong to root inside, and the user cannot write to them", async ({ box }) => {
    const entry = await box.files.stat("/usr/bin/env");
    assert.deepEqual([entry.uid, entry.gid, entry.owner], [0, 0, "root"]);
    assert.equal((await box.files.stat("/home/user")).uid, 1000);
    await fails("FILE_PERMISSION", () => box.files.write("/usr/bin/env", "x"));
  });

  check("root inside can change owners and install files, as package managers do", async ({ fresh }) => {
    const own = await fresh();
    const script =
      "touch /usr/bin/tool && chown 33:33 /usr/bin/tool && chmod 4755 /usr/bin/tool && mkdir -p /opt/a && chown -R 1000:1000 /opt/a && stat -c '%u %g %a' /usr/bin/tool";
    const result = await own.run(["sh", "-c", script], { user: "root" });
    assert.equal(result.stdout.toString(), "33 33 4755\n", result.stderr.toString());
  });

  check("a read-only mount can be read and not written, not by root", async (context) => {
    const source = await hostDirectory(context);
    const own = await context.fresh({ mounts: [{ source, target: "/mnt/given", readOnly: true }] });
    assert.equal((await own.files.read("/mnt/given/given")).toString(), "from the host\n");
    const write =
      "echo x > /mnt/given/new || echo x >> /mnt/given/given || rm /mnt/given/given || chmod 777 /mnt/given";
    for (const user of ["root", "user"]) assert.notEqual((await own.run(["sh", "-c", write], { user })).code, 0, user);
    // In a kernel of its own root may change what that kernel forbids; what is refused outside stays so.
    for (const how of ["remount,rw", "remount,bind,rw"]) {
      const result = await own.run(["sh", "-c", `mount -o ${how} /mnt/given; ${write}`], { user: "root" });
      assert.notEqual(result.code, 0, how);
    }
    assert.deepEqual(await readdir(source), ["given"]);
    assert.equal(await readFile(join(source, "given"), "utf8"), "from the host\n");
  });

  check("a writable mount is written through, with tame owners outside", async (context) => {
    const source = await hostDirectory(context);
    await chown(source, 1000, 1000);
    const own = await context.fresh({ mounts: [{ source, target: "/home/user/work", readOnly: false }] });
    await own.files.write("/home/user/work/made", "inside\n");
    assert.equal(await readFile(join(source, "made"), "utf8"), "inside\n");
    await own.run(["sh", "-c", "echo x > /home/user/work/by-root; chmod 4755 /home/user/work/by-root"], {
      user: "root",
    });
    const outside = await stat(join(source, "made"));
    assert.equal(outside.uid, 1000, "a file of the user inside belongs to someone else outside");
    await own.kill();
    assert.equal(await readFile(join(source, "made"), "utf8"), "inside\n");
  });

  check("a device on a mount cannot be opened, and a set-user-id file there raises nothing", async (context) => {
    const source = await hostDirectory(context);
    await hostCommand(["mknod", "-m", "666", join(source, "full"), "c", "1", "7"]);
    await hostCommand(["cp", "/usr/bin/id", join(source, "id")]);
    await hostCommand(["chmod", "4755", join(source, "id")]);
    const own = await context.fresh({ mounts: [{ source, target: "/mnt/given", readOnly: false }] });
    assert.notEqual((await own.run(["sh", "-c", "head -c 1 /mnt/given/full"])).code, 0);
    assert.equal((await own.run(["/mnt/given/id", "-u"])).stdout.toString(), "1000\n");
  });

  check("a mount whose source is not there is refused by name", async ({ open }) => {
    const error = await fails("MOUNT_INVALID", () =>
      open.create({ mounts: [{ source: "/no/such/source", target: "/mnt/x" }] }),
    );
    assert.match(error.message, /\/no\/such\/source/);
  });

  check("an image, a user and a working directory that are not there", async ({ open, fresh }) => {
    const image = await fails("IMAGE_NOT_FOUND", () => open.create({ image: "no-such-image" }));
    assert.match(image.message, /no-such-image/);
    await fails("USER_NOT_FOUND", async () => {
      const own = await fresh({ user: "no-such-user" });
      await own.run(["true"]);
    });
    await fails("WORKDIR_NOT_FOUND", async () => {
      const own = await fresh({ workdir: "/no/such/place" });
      await own.run(["true"]);
    });
  });

  check("user and working directory of the spec are the defaults", async ({ fresh }) => {
    const own = await fresh({ user: "root", workdir: "/usr" });
    assert.equal((await own.run(["sh", "-c", "id -u; pwd"])).stdout.toString(), "0\n/usr\n");
  });

  check("root is to be had by asking for it, at every level", async ({ box }) => {
    assert.equal((await box.run(["id", "-u"], { user: "root" })).stdout.toString(), "0\n");
  });

  check("/tmp, /dev/shm and /dev are as programs expect", async ({ box, target }) => {
    const script =
      "stat -c %a /tmp; test -w /dev/shm && echo shm; test -c /dev/null -a -c /dev/zero -a -c /dev/urandom && echo dev; readlink /dev/fd; ls /dev/ptmx; echo x > /dev/null && echo null";
    assert.equal(
      (await box.run(["sh", "-c", script])).stdout.toString(),
      "1777\nshm\ndev\n/proc/self/fd\n/dev/ptmx\nnull\n",
    );
    // A guest's disks are files that are its own.
    if (target.traits.level === "microvm") return;
    const devices = await box.run(["sh", "-c", "find /dev -type b | wc -l"], { user: "root" });
    assert.equal(devices.stdout.toString().trim(), "0");
  });
});
