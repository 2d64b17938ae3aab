import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readdirSync, readSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { erofsPath } from "../../packages/engine/src/guest/erofs.ts";
import { engineOf, lack, missing, openDirectory } from "./support/boxes.ts";

const TIMEOUT_MS = 300_000;
const MIB = 1024 * 1024;
/** Where the mark goes; not the first block, so that a file system can still be told apart. */
const OFFSET = 4096;
const MARK_BYTES = 16;

/** Takes the write protection off the disks named, or all, and writes the mark to each. Prints those that took it. */
const WRITE_DISKS = `
import fcntl, glob, json, os, struct, sys
mark = bytes.fromhex(sys.argv[1])
took = []
for path in sys.argv[2:] or ['/dev/' + os.path.basename(p) for p in glob.glob('/sys/block/*')]:
    for unlock in (False, True):
        try:
            if unlock:
                handle = os.open(path, os.O_RDONLY)
                fcntl.ioctl(handle, 0x125d, struct.pack('i', 0))
                os.close(handle)
            handle = os.open(path, os.O_RDWR | os.O_SYNC)
            os.pwrite(handle, mark, ${OFFSET})
            os.fsync(handle)
            took.append(path)
        except OSError: pass
print(json.dumps(sorted(set(took))))`;

function marked(path: string, mark: string): boolean {
  const bytes = Buffer.alloc(MARK_BYTES);
  const file = openSync(path, "r");
  readSync(file, bytes, 0, MARK_BYTES, OFFSET);
  closeSync(file);
  return bytes.toString("hex") === mark;
}

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`a guest whose kernel is the attacker's${lack}`, { timeout: TIMEOUT_MS }, () => {
  test("control: what the monitor does not write-protect is written to", () => {
    using base = openDirectory();
    const [disk, mark] = [join(base.path, "disk"), randomBytes(MARK_BYTES).toString("hex")];
    writeFileSync(disk, Buffer.alloc(MIB));
    execFileSync("python3", ["-c", WRITE_DISKS, mark, disk]);
    expect(marked(disk, mark)).toBe(true);
  });

  test("write-protected disks that all guests share", async ({ skip }) => {
    using base = openDirectory();
    const engine = await engineOf("microvm/qemu", join(base.path, "run"));
    if (typeof engine === "string") return skip(engine);
    await using _engine = engine;
    const mark = randomBytes(MARK_BYTES).toString("hex");
    await using box = await engine.create({ isolation: "microvm" });
    const { text } = await box.exec(["python3", "-c", WRITE_DISKS, mark], { user: "root" });
    // Its own writable layer takes it: the program gets through to disks.
    expect(JSON.parse(text)).not.toEqual([]);
    const image = erofsPath(engine.images.resolve("base"));
    const { state } = engine.host.paths;
    const scratch = readdirSync(join(state, "scratch")).map((name) => join(state, "scratch", name));
    const shared = [image, ...scratch.filter((path) => statSync(path).isFile())];
    expect(shared.length).toBeGreaterThan(1);
    expect(shared.filter((path) => marked(path, mark))).toEqual([]);
    await using next = await engine.create({ isolation: "microvm" });
    expect((await next.exec(["echo", "whole"])).text).toBe("whole\n");
  });
});
