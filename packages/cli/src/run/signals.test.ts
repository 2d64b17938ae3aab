import { afterEach, beforeEach, expect, test } from "vitest";
import { SignalForwarder, exitCodeOfSignal } from "./signals.ts";

interface Fixture {
  signals: SignalForwarder;
  sent: string[];
}

const fixture: Partial<Fixture> = {};
const it = (): Fixture => fixture as Fixture;

beforeEach(() => Object.assign(fixture, { signals: new SignalForwarder(), sent: [] }));
afterEach(() => it().signals[Symbol.dispose]());

const send = (name: NodeJS.Signals): void => void process.emit(name);
const deliver = (): void => it().signals.deliverTo((name) => void it().sent.push(name));

test("before the program runs an ending signal calls the start off", () => {
  send("SIGUSR1");
  expect(it().signals.starting.aborted).toBe(false);
  send("SIGTERM");
  expect(it().signals.starting.aborted).toBe(true);
  expect(it().signals.first).toBe("SIGTERM");
});

test("one that came during the start reaches a program that runs all the same", () => {
  send("SIGINT");
  deliver();
  expect(it().sent).toEqual(["SIGINT"]);
});

test("every signal is passed on; the third that wants an end kills", () => {
  deliver();
  for (const name of ["SIGUSR1", "SIGINT", "SIGUSR2", "SIGTERM", "SIGUSR1", "SIGINT"] as const) send(name);
  expect(it().sent).toEqual(["SIGUSR1", "SIGINT", "SIGUSR2", "SIGTERM", "SIGUSR1", "SIGKILL"]);
});

test("after disposal signals are nobody's", () => {
  deliver();
  it().signals[Symbol.dispose]();
  send("SIGUSR1");
  expect(it().sent).toEqual([]);
});

test("exit codes are a shell's", () => {
  expect(exitCodeOfSignal("SIGTERM")).toBe(143);
  expect(exitCodeOfSignal("SIGKILL")).toBe(137);
});
