import { expect, onTestFinished, test, vi } from "vitest";
import { Stopper } from "./stopper.ts";

test("the signal at once, SIGKILL when the time is over, and nothing once it is disposed of", () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const sent: string[] = [];
  const program = { signal: (name: string) => void sent.push(name) };
  {
    using stopper = new Stopper(program, { signal: "SIGQUIT", timeoutMs: 1000 });
    stopper.stop();
    expect(sent).toEqual(["SIGQUIT"]);
    vi.advanceTimersByTime(600);
    stopper.stop();
    vi.advanceTimersByTime(399);
    expect(sent).toEqual(["SIGQUIT", "SIGQUIT"]);
    vi.advanceTimersByTime(1);
    expect(sent).toEqual(["SIGQUIT", "SIGQUIT", "SIGKILL"]);
  }
  {
    using stopper = new Stopper(program, { signal: "SIGTERM", timeoutMs: 1000 });
    stopper.stop();
  }
  vi.advanceTimersByTime(10_000);
  expect(sent).toEqual(["SIGQUIT", "SIGQUIT", "SIGKILL", "SIGTERM"]);
});
