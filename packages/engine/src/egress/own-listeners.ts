import { readdirSync, readFileSync, readlinkSync } from "node:fs";

const LISTEN = "0A";

function socketsOfThisProcess(): ReadonlySet<string> {
  const links = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // The descriptor of the directory listing itself.
      return "";
    }
  });
  return new Set(links.flatMap((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []));
}

/**
 * Whether this process itself listens on a TCP port: such a port answers no sandbox, also where a rule opens the host's
 * addresses, or a sandbox could speak to what controls it.
 */
export function isOwnListener(port: number): boolean {
  const own = socketsOfThisProcess();
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return ["/proc/self/net/tcp", "/proc/self/net/tcp6"].some((table) =>
    readFileSync(table, "latin1")
      .split("\n")
      .some((line) => {
        const fields = line.trim().split(/\s+/);
        return fields[3] === LISTEN && fields[1]?.endsWith(`:${hex}`) === true && own.has(fields[9] ?? "");
      }),
  );
}
