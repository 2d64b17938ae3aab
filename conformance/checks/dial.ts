import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
import type { Box, Running } from "../box.ts";
import { fails, theme, within } from "../check.ts";

const MIB = 1024 * 1024;

/** Answers each connection with what it read, but only after the other side said it is done: half-close or hang. */
const ECHO_AFTER_END = `
import socket,sys,threading,hashlib
kind,where=sys.argv[1],sys.argv[2]
s=socket.socket(socket.AF_UNIX if kind=='unix' else (socket.AF_INET6 if kind=='tcp6' else socket.AF_INET))
s.bind(where if kind=='unix' else ('::1' if kind=='tcp6' else '127.0.0.1',0)); s.listen(64)
print(0 if kind=='unix' else s.getsockname()[1],flush=True)
def serve(c):
    data=b''
    while True:
        d=c.recv(65536)
        if not d: break
        data+=d
    c.sendall(hashlib.sha256(data).hexdigest().encode()+data); c.close()
while True:
    c,_=s.accept(); threading.Thread(target=serve,args=(c,)).start()
`;

async function serve(box: Box, kind: string, where: string): Promise<{ port: number; server: Running }> {
  const server = await box.start(["python3", "-u", "-c", ECHO_AFTER_END, kind, where]);
  const [line] = (await within("server", 15_000, once(server.stdout, "data"))) as [Buffer];
  server.stdout.resume();
  return { port: Number(line.toString()), server };
}

async function roundTrip(socket: Duplex, data: Buffer): Promise<void> {
  const parts: Buffer[] = [];
  const reading = (async () => {
    for await (const part of socket) parts.push(part as Buffer);
  })();
  socket.end(data);
  await within("echo", 20_000, reading);
  const all = Buffer.concat(parts);
  assert.equal(all.subarray(0, 64).toString(), createHash("sha256").update(data).digest("hex"));
  assert.ok(all.subarray(64).equals(data), `${all.length - 64} of ${data.length} bytes came back`);
}

async function stop(server: Running): Promise<void> {
  await server.signal("SIGKILL");
  await server.exit;
}

export const dialChecks = theme("dial", "function", (check) => {
  check("TCP: 1 MiB both ways with half-close", async ({ box, defer }) => {
    const { port, server } = await serve(box, "tcp", "");
    defer(() => stop(server));
    await roundTrip(await box.dialTcp(port), randomBytes(MIB));
    await roundTrip(await box.dialTcp(port), Buffer.alloc(0));
  });

  check("Unix socket: 1 MiB both ways with half-close", async ({ box, scratch, defer }) => {
    const { server } = await serve(box, "unix", `${scratch}/s`);
    defer(() => stop(server));
    await roundTrip(await box.dialUnix(`${scratch}/s`), randomBytes(MIB));
  });

  check("20 connections at once do not mix", async ({ box, defer }) => {
    const { port, server } = await serve(box, "tcp", "");
    defer(() => stop(server));
    await Promise.all(Array.from({ length: 20 }, async () => roundTrip(await box.dialTcp(port), randomBytes(100_000))));
  });

  check("a port nobody listens on", async ({ box }) => {
    const error = await fails("PORT_CLOSED", () => box.dialTcp(1));
    assert.match(error.message, /\b1\b/);
  });

  check("a socket path that is not there, or is no socket", async ({ box, scratch }) => {
    await fails(["FILE_NOT_FOUND", "PORT_CLOSED"], () => box.dialUnix(`${scratch}/missing`));
    await box.files.write(`${scratch}/file`, "x");
    await fails(["PORT_CLOSED", "FILE_FAILED"], () => box.dialUnix(`${scratch}/file`));
  });

  check("a Unix socket is dialled with the user's permissions", async ({ box, scratch, defer }) => {
    const { server } = await serve(box, "unix", `${scratch}/s`);
    defer(() => stop(server));
    await box.files.chmod(`${scratch}/s`, 0o600);
    await box.files.chown(`${scratch}/s`, "root", "root", { user: "root" });
    await fails("FILE_PERMISSION", () => box.dialUnix(`${scratch}/s`));
  });

  check("the peer's end arrives as end", async ({ box, defer }) => {
    const code =
      "import socket;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);c,_=s.accept();c.sendall(b'bye');c.close()";
    const server = await box.start(["python3", "-c", code]);
    defer(() => stop(server));
    const [line] = (await once(server.stdout, "data")) as [Buffer];
    const socket = await box.dialTcp(Number(line.toString()));
    const parts: Buffer[] = [];
    socket.on("data", (part: Buffer) => parts.push(part));
    await within("end", 10_000, once(socket, "end"));
    assert.equal(Buffer.concat(parts).toString(), "bye");
    socket.destroy();
  });

  check("a closed connection is closed inside too", async ({ box, defer }) => {
    const code =
      "import socket;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);c,_=s.accept()\ntry:\n  print('end',c.recv(1),flush=True)\nexcept OSError: print('end',flush=True)";
    const server = await box.start(["python3", "-c", code]);
    defer(() => stop(server).catch(() => undefined));
    const [line] = (await once(server.stdout, "data")) as [Buffer];
    const socket = await box.dialTcp(Number(line.toString()));
    socket.on("error", () => undefined);
    socket.destroy();
    const [end] = (await within("the server sees the end", 10_000, once(server.stdout, "data"))) as [Buffer];
    assert.match(end.toString(), /^end/);
  });

  check("a port inside is published on the host's loopback, and gone with the sandbox", async (context) => {
    const own = await context.fresh();
    const { port } = await serve(own, "tcp", "");
    const { hostname, port: outside } = new URL(await own.url(port));
    assert.equal(hostname, "127.0.0.1");
    await roundTrip(connect({ port: Number(outside), host: hostname, allowHalfOpen: true }), randomBytes(MIB));
    await own.kill();
    const socket = connect(Number(outside), hostname);
    const [error] = (await within("the refusal", 10_000, once(socket, "error"))) as [NodeJS.ErrnoException];
    assert.equal(error.code, "ECONNREFUSED");
  });
});
