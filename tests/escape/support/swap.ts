import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Exchanges two names (renameat2) for as long as it lives: one is a directory, the other a link. Argument: their directory. */
const SWAP = `
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
print("ready", flush=True)
while os.getppid() == int(sys.argv[2]):
    libc.renameat2(-100, b"asked", -100, b"link", 2)`;

/** `asked` in `base`, and a link beside it to `hidden`, which holds the secret. */
export function prepare(base: string, hidden: string): string {
  const secret = randomBytes(16).toString("hex");
  for (const path of [join(base, "asked"), hidden]) mkdirSync(path);
  writeFileSync(join(base, "asked/own"), "own");
  writeFileSync(join(hidden, "secret"), secret);
  symlinkSync(hidden, join(base, "link"));
  return secret;
}

/** For as long as it is not disposed of. */
export async function swapping(base: string): Promise<AsyncDisposable> {
  const child = spawn("python3", ["-c", SWAP, base, `${process.pid}`], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
  return {
    [Symbol.asyncDispose]: async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
  };
}
