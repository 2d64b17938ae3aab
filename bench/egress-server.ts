import { createServer } from "node:http";
import { parentPort } from "node:worker_threads";

/** Answers `GET /N` with N bytes, and takes whatever is sent. In a thread of its own: who carries the bytes is measured, not who makes them. */
const BLOCK = Buffer.alloc(256 * 1024, "x");

const server = createServer((request, response) => {
  if (request.method === "PUT") {
    request.resume().on("end", () => response.end());
    return;
  }
  let left = Number(request.url?.slice(1));
  response.setHeader("content-length", left);
  const more = (): void => {
    while (left > 0) {
      const part = BLOCK.subarray(0, Math.min(left, BLOCK.length));
      left -= part.length;
      if (!response.write(part)) return void response.once("drain", more);
    }
    response.end();
  };
  more();
});
server.listen(0, "127.0.0.1", () => parentPort?.postMessage(server.address()));
