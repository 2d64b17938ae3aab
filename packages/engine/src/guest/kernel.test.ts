import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { kernelInputsDigest, unfulfilled } from "./kernel.ts";

const fragment = readFileSync(new URL("../../../../guest/kernel.config", import.meta.url), "utf8");

describe("the guest kernel's configuration", () => {
  test("names each option once", () => {
    const names = fragment.split("\n").flatMap((line) => /^(CONFIG_\w+)=/.exec(line)?.[1] ?? []);
    expect(names.length).toBeGreaterThan(100);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });

  test("has only assignments and comments", () => {
    expect(fragment.split("\n").filter((line) => !/^(#.*|CONFIG_\w+=\S.*|)$/.test(line))).toEqual([]);
  });

  test.each(["MODULES", "KEXEC", "DEBUG_FS", "DEVMEM", "IO_URING", "BPF_SYSCALL", "VIRTIO_BALLOON", "IA32_EMULATION"])(
    "leaves out %s",
    (name) => expect(fragment).toContain(`\nCONFIG_${name}=n\n`),
  );
});

describe("unfulfilled", () => {
  test("tells what was lost and what came back", () => {
    const config = '# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C="x"\n';
    expect(unfulfilled('CONFIG_A=y\nCONFIG_B=n\nCONFIG_C="x"\nCONFIG_D=n\n# text', config)).toEqual([
      "CONFIG_A=y",
      "CONFIG_B=n",
    ]);
  });
});

test("every input changes the digest", () => {
  const inputs = { config: "a", sourceVersion: "b", compiler: "c", linker: "d" };
  const all = [inputs, ...Object.keys(inputs).map((key) => ({ ...inputs, [key]: "other" }))].map(kernelInputsDigest);
  expect(new Set(all).size).toBe(5);
});
