import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { FileCache } from "./file-cache.ts";
import { besidePath, OWN_QEMU } from "./own-qemu.ts";
import { findRuntimes } from "./runtimes.ts";

const NAME = "qemu-system-x86_64";

describe("a QEMU that was built here", () => {
  let state: string;
  let bin: string;

  const program = (path: string, version: string): string => {
    writeFileSync(path, `#!/bin/sh\necho QEMU emulator version ${version}\n`);
    chmodSync(path, 0o755);
    return path;
  };
  const build = (): string => {
    mkdirSync(join(state, OWN_QEMU, "hash"), { recursive: true });
    symlinkSync(`hash/${NAME}`, join(state, OWN_QEMU, NAME));
    return program(join(state, OWN_QEMU, "hash", NAME), "7.2.22");
  };
  const choose = (beside: string): void => writeFileSync(besidePath(join(state, OWN_QEMU)), `${beside}\n`);
  const digest = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
  const found = async (): Promise<string> => {
    const runtimes = await findRuntimes(state, [bin], await FileCache.open(join(state, "files.json")));
    const it = runtimes[NAME];
    return it?.kind === "found" ? `${it.runtime.path} ${it.runtime.version}` : (it?.kind ?? "none");
  };

  beforeEach(() => {
    state = mkdtempSync(join(tmpdir(), "bulkhead-runtimes-"));
    bin = join(state, "bin");
    mkdirSync(bin);
  });
  afterEach(() => rmSync(state, { recursive: true }));

  test("is used while Debian's is what it was, and until it is built anew no more", async () => {
    const packaged = program(join(bin, NAME), "7.2.21");
    const own = build();
    expect(await found()).toBe(`${packaged} 7.2.21`);
    choose(digest(packaged));
    expect(await found()).toBe(`${own} 7.2.22`);
    program(packaged, "7.2.23");
    expect(await found()).toBe(`${packaged} 7.2.23`);
    choose(digest(packaged));
    expect(await found()).toBe(`${own} 7.2.22`);
  });

  test("is used where there is no other", async () => {
    expect(await found()).toBe("absent");
    const own = build();
    choose("");
    expect(await found()).toBe(`${own} 7.2.22`);
  });

  test("does not hide that Debian's was changed into one that does not run", async () => {
    const packaged = program(join(bin, NAME), "7.2.21");
    build();
    choose(digest(packaged));
    writeFileSync(packaged, "#!/bin/sh\nexit 1\n");
    expect(await found()).toBe("broken");
  });

  test("does not count while there is another that it was not chosen beside", async () => {
    build();
    choose("");
    const packaged = program(join(bin, NAME), "7.2.21");
    expect(await found()).toBe(`${packaged} 7.2.21`);
  });
});
