import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

/** As long as nothing is carried either way; clouds' load balancers give up after minutes, databases' pools after hours. */
const IDLE_MS = 7_200_000;

/**
 * Resets a connection. While the end of its sending is on its way the kernel's handle cannot be reset, and Node would never
 * close it: such a connection is closed instead. So is one with TLS on it, whose handle is not the kernel's.
 */
export function reset(socket: Socket): void {
  if ("encrypted" in socket || (socket.writableEnded && !socket.writableFinished)) socket.destroy();
  else socket.resetAndDestroy();
}

/**
 * Carries bytes both ways until both have ended. Either side's reset resets the other: so does every end that was not an end of
 * its sending and its receiving both.
 */
export function splice(inside: Duplex, upstream: Socket): void {
  inside.pipe(upstream);
  upstream.pipe(inside);
  upstream.on("error", () => inside.destroy());
  inside.on("error", () => reset(upstream));
  upstream.on("close", () => {
    if (!upstream.readableEnded || !upstream.writableFinished) inside.destroy();
  });
  inside.on("close", () => {
    if (!inside.readableEnded || !inside.writableFinished) reset(upstream);
  });
  upstream.setTimeout(IDLE_MS, () => reset(upstream));
}
