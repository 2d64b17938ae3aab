import { formatBytes } from "@bulkhead/contract";
import type { Copied } from "@bulkhead/engine";

const counted = (count: number, one: string, many: string): string => `${count} ${count === 1 ? one : many}`;

/** What a copy has moved, in one line. */
export function renderCopied({ files, directories, links, bytes, leftOut }: Copied): string {
  const parts = [
    counted(files, "file", "files"),
    counted(directories, "directory", "directories"),
    counted(links, "link", "links"),
    formatBytes(bytes),
  ];
  const left = leftOut === 0 ? "" : `; ${leftOut} FIFOs, sockets or devices left out`;
  return parts.join(", ") + left;
}
