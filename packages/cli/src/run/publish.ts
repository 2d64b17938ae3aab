import { isIP } from "node:net";
import type { PublishOptions } from "@bulkhead/engine";
import { usageError } from "../options.ts";

/** A port inside and where on the host it is to be found. */
export interface Publish {
  readonly port: number;
  readonly options: PublishOptions;
}

const PORT = /^\d{1,5}$/;
const MAX_PORT = 65_535;

function invalid(text: string): Error {
  return usageError(
    `--publish ${JSON.stringify(text)} is not valid`,
    "it is PORT, HOSTPORT:PORT or HOSTIP:HOSTPORT:PORT; ports are 1 to 65535, HOSTPORT 0 is a free one",
    "write it like --publish 8080, --publish 80:8080 or --publish 0.0.0.0:80:8080",
  );
}

/** TCP ports of an image's list (`8080/tcp`, `53/udp`, `80`), each on a free port of this host. UDP cannot be published. */
export function exposedPorts(exposed: readonly string[]): readonly Publish[] {
  const ports = exposed.flatMap((text) => /^(\d{1,5})(?:\/tcp)?$/.exec(text)?.[1] ?? []).map(Number);
  return [...new Set(ports)]
    .filter((port) => port > 0 && port <= MAX_PORT)
    .map((port) => ({ port, options: { hostPort: 0 } }));
}

/**
 * `8080` is that port on both sides, `80:8080`, `192.0.2.1:80:8080`, `[::]:80:8080`. Without an address 127.0.0.1.
 * @throws BulkheadError SPEC_INVALID
 */
export function parsePublish(text: string): Publish {
  const bracketed = /^\[([^\]]+)\]:(.*)$/.exec(text);
  const parts = (bracketed?.[2] ?? text).split(":");
  if (bracketed !== null) parts.unshift(bracketed[1]!);
  const [inside, outside = inside, address, ...more] = parts.toReversed();
  const number = (part: string | undefined, least: number): number => {
    const value = part !== undefined && PORT.test(part) ? Number(part) : -1;
    if (value < least || value > MAX_PORT) throw invalid(text);
    return value;
  };
  if (more.length > 0 || (address !== undefined && isIP(address) === 0)) throw invalid(text);
  const options = { hostPort: number(outside, 0), ...(address !== undefined && { hostAddress: address }) };
  return { port: number(inside, 1), options };
}
