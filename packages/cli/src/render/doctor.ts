import { formatDuration } from "@bulkhead/contract";
import type { DoctorReport, DriverReport } from "@bulkhead/engine";
import { columns, printable, type Style } from "./style.ts";

function detail(report: DriverReport): string {
  switch (report.state) {
    case "works":
      return `${report.runtime.name} ${report.runtime.version}, started a sandbox in ${formatDuration(report.startMs)}`;
    case "unavailable":
    case "failed":
      return report.reason;
  }
}

/** A table of what each driver can do, what is to be known of it, then what to do about those that cannot. */
export function renderDoctor(report: DoctorReport, style: Style): string {
  const rows: string[][] = [["LEVEL", "DRIVER", "STATE", "DETAIL"]];
  const remedies: string[] = [];
  const notes: string[] = [];
  for (const level of report.levels) {
    for (const driver of level.drivers) {
      rows.push([level.level, driver.driver, driver.state, printable(detail(driver))]);
      if (driver.state !== "works") remedies.push(`${driver.driver}: ${printable(driver.remedy)}`);
      else notes.push(...driver.notes.map((note) => `${driver.driver}: ${printable(note)}`));
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
  const modules = host.securityModules.length === 0 ? "none" : host.securityModules.join(", ");
  const about = `Linux ${host.kernelRelease} ${host.arch}, ${host.cpus} CPUs, control groups ${host.cgroup}, security modules: ${modules}`;
  const parts = [about, columns(rows, paint)];
  const section = (title: string, lines: readonly string[]): void => {
    if (lines.length > 0) parts.push(`${style.bold(title)}\n${lines.map((line) => `  ${line}`).join("\n")}`);
  };
  section("Worth knowing", notes);
  section("To change that", remedies);
  return parts.join("\n\n");
}
