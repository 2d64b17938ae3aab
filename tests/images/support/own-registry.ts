import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Made } from "./layout.ts";

const MANIFEST = "application/vnd.oci.image.manifest.v1+json";

/** Answers in place of the registry; true when it did. */
export type Answer = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface OwnRegistry extends AsyncDisposable {
  /** `localhost:40123` */
  readonly host: string;
  /** Method and path of every request so far. */
  readonly requests: readonly string[];
}

/** What a registry answers that serves one image from a layout as any repository's `latest`; other tags are its digest. */
function honest(layout: string, made: Made): Answer {
  const blob = (digest: string): Buffer => readFileSync(join(layout, "blobs/sha256", digest.replace(/^sha256:/, "")));
  return (request, response) => {
    const [, kind, reference = ""] = /\/(manifests|blobs)\/(.+)$/.exec(request.url ?? "") ?? [];
    if (kind === undefined) return response.end("{}") !== undefined;
    const digest = reference.startsWith("sha256:") ? reference : made.digest;
    try {
      const bytes = blob(digest);
      response.setHeader("content-type", kind === "manifests" ? MANIFEST : "application/octet-stream");
      response.setHeader("content-length", bytes.length);
      if (kind === "manifests") response.setHeader("docker-content-digest", digest);
      response.end(request.method === "HEAD" ? undefined : bytes);
    } catch {
      response.writeHead(404).end();
    }
    return true;
  };
}

/**
 * A registry of the tests' own, which counts what is asked of it and can be made to lie.
 *
 * @param lie asked before each honest answer
 */
export async function ownRegistry(layout: string, made: Made, lie: Answer = () => false): Promise<OwnRegistry> {
  const requests: string[] = [];
  const answer = honest(layout, made);
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    if (!lie(request, response)) answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  const { port } = server.address() as AddressInfo;
  return { host: `localhost:${port}`, requests, [Symbol.asyncDispose]: close };
}
