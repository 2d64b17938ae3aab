import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { blockDevicesOf, mountOf, parseMounts } from "./block-devices.ts";

const TABLE = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=10%
31 22 0:40 /@home /home rw - btrfs /dev/sdb rw
32 22 0:44 / /srv/with\\040space rw master:2 - nfs4 host:/export rw
33 30 254:2 / /run/disk rw - ext4 /dev/vdb rw`;

describe("the mount table", () => {
  const mounts = parseMounts(TABLE);

  test("is read with its escapes and optional fields", () => {
    expect(mounts).toHaveLength(5);
    expect(mounts[3]).toEqual({ point: "/srv/with space", device: "0:44", type: "nfs4", source: "host:/export" });
  });

  test.each([
    ["/etc/passwd", "/"],
    ["/run", "/run"],
    ["/runner", "/"],
    ["/run/disk/a", "/run/disk"],
    ["/home/user", "/home"],
  ])("%s lies on %s", (path, point) => expect(mountOf(path, mounts)?.point).toBe(point));

  test("a later mount on the same place covers an earlier one", () => {
    const twice = parseMounts(`${TABLE}\n40 22 8:16 / /run rw - ext4 /dev/sdb rw`);
    expect(mountOf("/run/x", twice)?.type).toBe("ext4");
  });
});

test("what is in memory is on no device, and a path of the host's is on one of its own", async () => {
  expect(await blockDevicesOf([{ path: "/dev/shm", writable: true }], false)).toEqual([]);
  const place = await mkdtemp(join(tmpdir(), "bulkhead-block-"));
  try {
    const found = await blockDevicesOf([{ path: place, writable: false }], false).catch((error: unknown) => error);
    // Where the temporary files are in memory there is none; on an overlay or a share it is refused by name.
    if (Array.isArray(found)) for (const { major, holds } of found) expect([major > 0, holds]).toEqual([true, [place]]);
    else expect(found).toMatchObject({ code: "LIMIT_UNSUPPORTED", details: { path: place } });
  } finally {
    await rm(place, { recursive: true });
  }
});
