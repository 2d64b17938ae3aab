import { formatDuration } from "@bulkhead/contract";
import type { DoctorReport, DriverReport } from "@bulkhead/engine";
import { columns, printable, type Style } from "./style.ts";

function detail(report: DriverReport): string {
  switch (report.state) {
    case "works":
      return [
        `${report.runtime.name} ${report.runtime.version}, started a sandbox in ${formatDuration(report.startMs)}`,
        ...report.notes,
      ].join("; ");
    case "unavailable":
    case "failed":
      return report.reason;
  }
}

/** A table of what each driver can do, then what to do about those that cannot. */
export function renderDoctor(report: DoctorReport, style: Style): string {
  const rows: string[][] = [["LEVEL", "DRIVER", "STATE", "DETAIL"]];
  const remedies: string[] = [];
  for (const level of report.levels) {
    for (const driver of level.drivers) {
      rows.push([level.level, driver.driver, driver.state, printable(detail(driver))]);
      if (driver.state !== "works") remedies.push(`${driver.driver}: ${printable(driver.remedy)}`);
    }
    if (level.drivers.length > 0) continue;
    rows.push([level.level, "-", "unavailable", level.reason ?? ""]);
    if (level.remedy !== null) remedies.push(`${level.level}: ${level.remedy}`);
  }
  const paint = (text: string, row: number, column: number): string => {
    if (row === 0) return style.bold(text);
    if (column !== 2) return text;
    return text === "works" ? style.green(text) : style.red(text);
  };
  const { host } = report;
  const about = `Linux ${host.kernelRelease} ${host.arch}, ${host.cpus} CPUs, control groups ${host.cgroup}`;
  const parts = [about, columns(rows, paint)];
  if (remedies.length > 0)
    parts.push(`${style.bold("To change that")}\n${remedies.map((line) => `  ${line}`).join("\n")}`);
  return parts.join("\n\n");
}
