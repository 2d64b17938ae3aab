import { expect, test } from "vitest";
import { pumpInput, pumpOutput } from "./pump.ts";

const never = new Promise<never>(() => {});
const bytes = (text: string) => new TextEncoder().encode(text);

test("everything arrives in order, one chunk at a time", async () => {
  let open = 0;
  const seen: string[] = [];
  async function* source() {
    yield bytes("a");
    yield bytes("b");
  }
  const write = async (chunk: Uint8Array) => {
    expect(++open).toBe(1);
    await new Promise((r) => setTimeout(r, 5));
    seen.push(Buffer.from(chunk).toString());
    open--;
  };
  await pumpOutput(source(), write, never);
  expect(seen).toEqual(["a", "b"]);
});

test("a descendant that writes for ever does not hold us", async () => {
  let total = 0;
  async function* source() {
    for (;;) yield new Uint8Array(65_536);
  }
  await pumpOutput(source(), async (chunk) => void (total += chunk.length), Promise.resolve());
  expect(total).toBeLessThan(2 * 1024 * 1024);
});

test("a slow reader loses nothing after the program's end", async () => {
  const seen: number[] = [];
  async function* source() {
    for (let i = 0; i < 3; i++) yield Uint8Array.of(i);
  }
  const slow = async (chunk: Uint8Array) => {
    await new Promise((r) => setTimeout(r, 150));
    seen.push(...chunk);
  };
  await pumpOutput(source(), slow, Promise.resolve());
  expect(seen).toEqual([0, 1, 2]);
});

test("input ends the program's input, and a program that reads no more is no failure", async () => {
  async function* source() {
    yield bytes("x");
  }
  let ended = false;
  await pumpInput(
    source(),
    async () => {},
    async () => void (ended = true),
  );
  expect(ended).toBe(true);
  await pumpInput(source(), () => Promise.reject(new Error("EPIPE")), never as never);
});
