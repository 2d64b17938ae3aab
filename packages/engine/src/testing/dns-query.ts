/** A DNS question as a stub sends it: id 0xabcd, recursion desired. @param edns what it takes over UDP; null: no EDNS. */
export function dnsQuery(name: string, type: number, edns: number | null = null): Buffer {
  const labels = name.split(".").flatMap((label) => [Buffer.from([label.length]), Buffer.from(label, "latin1")]);
  const question = Buffer.concat([...labels, Buffer.from([0, type >> 8, type & 0xff, 0, 1])]);
  const head = Buffer.from([0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, edns === null ? 0 : 1]);
  const opt = Buffer.alloc(11);
  opt.writeUInt16BE(41, 1);
  opt.writeUInt16BE(edns ?? 0, 3);
  return Buffer.concat([head, question, ...(edns === null ? [] : [opt])]);
}
