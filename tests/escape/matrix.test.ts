import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lacking } from "../e2e/cli-process.ts";
import { ALL_ATTACKS, ATTACKS, CONTROL, DRIVERS, type Attack } from "./support/catalogue.ts";
import { table, titleOf, verdict, type Report, type Run } from "./support/report.ts";

const RUN = fileURLToPath(new URL("support/run.ts", import.meta.url));
/** Four sandboxes and the control one after the other, on a machine that does other things too. */
const RUN_TIMEOUT_MS = 900_000;
const MAX_REPORT_BYTES = 64 * 1024 * 1024;

const missing = lacking(process.env);
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

/** Runs in namespaces of its own, which are the host's for the attacks; they and all in them end with this process. */
async function attackEverything(): Promise<Report> {
  const argv = ["--pdeathsig", "KILL", "unshare", "--net", "--ipc", process.execPath, RUN];
  const options = { timeout: RUN_TIMEOUT_MS, maxBuffer: MAX_REPORT_BYTES, env: { ...process.env } };
  const { stdout, stderr } = await promisify(execFile)("setpriv", argv, options);
  if (stderr.trim() !== "") console.warn(stderr.trim());
  return JSON.parse(stdout) as Report;
}

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`attacks from inside, as root${lack}`, { timeout: RUN_TIMEOUT_MS }, () => {
  let report: Report = { secrets: [], runs: [] };
  const runAt = (place: string): Run => {
    const run = report.runs.find((one) => one.place === place);
    if (run === undefined) throw new Error(`nothing was run at ${place}`);
    return run;
  };
  beforeAll(async () => {
    report = await attackEverything();
  }, RUN_TIMEOUT_MS);
  afterAll(() => {
    if (report.runs.length > 0) console.log(table(report));
  });

  test("the control falls to all that this kernel has, and every attack ran to its end", () => {
    expect(report.secrets.length).toBeGreaterThan(8);
    for (const run of report.runs.filter(({ unavailable }) => unavailable === null)) {
      expect(Object.keys(run.told).toSorted(), run.place).toEqual(ALL_ATTACKS.toSorted());
      const broken = ALL_ATTACKS.filter((attack) => verdict(report, run, attack) === "broken");
      expect(
        broken.map((attack) => run.told[attack]),
        run.place,
      ).toEqual([]);
    }
    // These need nothing of the kernel that one built for sandboxes could lack.
    const always: readonly Attack[] = ["host-file", "cwd-leak", "fd-leak", "self-exe", "proc-root"];
    expect(always.filter((attack) => verdict(report, runAt(CONTROL), attack) !== "came-back")).toEqual([]);
  });

  describe.each(DRIVERS)("%s", (driver) => {
    for (const attack of ALL_ATTACKS) {
      test(titleOf(attack), ({ skip }) => {
        const run = runAt(driver);
        if (run.unavailable !== null) return skip(`NOT TESTED, no ${driver} here: ${run.unavailable}`);
        const found = verdict(report, run, attack);
        const without = runAt(CONTROL).told[attack]?.slice(0, 200);
        if (found === "uncalibrated") return skip(`UNCALIBRATED, it fails without a boundary as well: ${without}`);
        expect(found, `${ATTACKS[attack]}\n${run.told[attack]?.slice(0, 1000)}`).toBe("held");
      });
    }
  });
});
