import type { AskedConnection, AskedDatagram, EgressHandler, Refusal } from "@bulkhead/engine";
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { buffer } from "node:stream/consumers";
import type { Box } from "../box.ts";
import { type Context, eventually, theme, within } from "../check.ts";
import type { Target } from "../target.ts";
import { probe } from "./boundary.ts";

const MIB = 1024 * 1024;
/** Documentation's addresses: nobody's, wherever this runs. */
const SOMEWHERE = "203.0.113.7";
const SOMEWHERE_6 = "2001:db8::7";
/** Several programs are started in each, which takes seconds where the processor is emulated on a busy machine. */
const TIMEOUT_MS = 180_000;
const SOON_MS = 60_000;

/** A sandbox whose programs are answered by what the check gives; by default nothing is there. */
async function boxWith({ target, defer }: Context, given: Partial<EgressHandler>): Promise<Box> {
  const egress: EgressHandler = {
    connect: (asked) => asked.refuse("unreachable"),
    query: async () => null,
    datagram: (asked) => asked.refuse("unreachable"),
    ...given,
  };
  const open = await target.open({ egress });
  defer(() => open[Symbol.asyncDispose]());
  return await open.create({ network: { allow: ["*"] } });
}

/** Sends back what came, once the other side has ended. */
async function echo(asked: AskedConnection): Promise<void> {
  const connection = await asked.accept();
  connection.end(await buffer(connection));
}

/** What fails is seen where it is waited for, if it is; a check that ended by then must not bring the run down. */
function quietly<W extends Promise<unknown>>(work: W): W {
  work.catch(() => undefined);
  return work;
}

/** A Python program that connects where its first two arguments say, with `s` the socket. */
const client = (rest: string): readonly string[] => [
  "python3",
  "-u",
  "-c",
  `import socket,sys,os,errno,time,hashlib\nsocket.setdefaulttimeout(60)\ns=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n${rest}`,
];

const SEND_AND_READ = `
data=os.urandom(${MIB})
import threading
threading.Thread(target=lambda:(s.sendall(data),s.shutdown(socket.SHUT_WR))).start()
back=b''
while True:
    d=s.recv(65536)
    if not d: break
    back+=d
print(back==data)`;

const CONNECT_ERRORS = `
import socket,sys,json,errno
out=[]
for address in sys.argv[1:]:
    host,port=address.rsplit(' ',1)
    try: socket.create_connection((host,int(port)),60); out.append('connected')
    except OSError as e: out.append(errno.errorcode.get(e.errno,str(e)))
print(json.dumps(out))`;

const SEND_UNTIL_STUCK = `
s.settimeout(3); n=0
try:
    while True: n+=s.send(b'x'*65536)
except OSError: print(n)
s.settimeout(60)
`;

/** Messages of DNS made by hand: an answer with one address to the question it was asked. */
function answerTo(query: Uint8Array): Buffer {
  const question = Buffer.from(query.subarray(12));
  const end = question.indexOf(0) + 5;
  const type = question.readUInt16BE(end - 4);
  const address = type === 28 ? Buffer.from("20010db8000000000000000000000007", "hex") : Buffer.from([203, 0, 113, 7]);
  const known = type === 1 || type === 28;
  const head = Buffer.alloc(12);
  head.set(query.subarray(0, 2));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(known ? 1 : 0, 6);
  const record = Buffer.alloc(12);
  record.writeUInt16BE(0xc00c, 0);
  record.writeUInt16BE(type, 2);
  record.writeUInt16BE(1, 4);
  record.writeUInt32BE(60, 6);
  record.writeUInt16BE(address.length, 10);
  return Buffer.concat([head, question.subarray(0, end), ...(known ? [record, address] : [])]);
}

const noNetwork = (target: Target): string | null =>
  target.traits.level === null ? "it has no network of its own" : null;

export const egressChecks = theme("egress", "function", (define) => {
  const check: typeof define = (name, body) => define(name, body, { timeoutMs: TIMEOUT_MS, notFor: noNetwork });

  check("TCP: 1 MiB both ways with half-close, IPv4 and IPv6", async (context) => {
    const where: string[] = [];
    const box = await boxWith(context, {
      connect: (asked) => {
        where.push(`${asked.address} ${asked.port}`);
        void quietly(echo(asked));
      },
    });
    for (const address of [SOMEWHERE, SOMEWHERE_6]) {
      const result = await box.run([...client(SEND_AND_READ), address, "8080"]);
      assert.equal(result.stdout.toString(), "True\n", result.stderr.toString());
    }
    assert.deepEqual(where, [`${SOMEWHERE} 8080`, `${SOMEWHERE_6} 8080`]);
  });

  check("refused, unreachable and prohibited fail at once, each as itself", async (context) => {
    const hows: readonly Refusal[] = ["reset", "unreachable", "prohibited"];
    const box = await boxWith(context, { connect: (asked) => asked.refuse(hows[asked.port - 1] ?? "reset") });
    const addresses = [SOMEWHERE, SOMEWHERE_6].flatMap((address) => [1, 2, 3].map((port) => `${address} ${port}`));
    // Of the resolver's ports only that of DNS is there.
    const result = await box.run(["python3", "-c", CONNECT_ERRORS, ...addresses, "192.0.0.1 80"]);
    const errors = JSON.parse(result.stdout.toString()) as string[];
    const unreachable = /^(EHOSTUNREACH|ENETUNREACH)$/;
    const prohibited = /^(EACCES|EHOSTUNREACH|ENETUNREACH)$/;
    const wanted = [/^ECONNREFUSED$/, unreachable, prohibited];
    for (const [i, error] of errors.entries()) assert.match(error, wanted[i % 3]!, `${addresses[i]}: ${errors.join()}`);
    assert.equal(errors.length, 7);
  });

  check("a reset goes through both ways, and a program's end is an end", async (context) => {
    const taken: Duplex[] = [];
    const box = await boxWith(context, {
      connect: (asked) => void quietly(asked.accept().then((connection) => taken.push(connection))),
    });
    const reset = await box.start([
      ...client("try: print(s.recv(1))\nexcept OSError as e: print(errno.errorcode[e.errno])"),
      SOMEWHERE,
      "1",
    ]);
    (await eventually("a connection", () => taken.shift(), SOON_MS)).destroy();
    assert.equal((await buffer(reset.stdout)).toString(), "ECONNRESET\n");

    const code =
      "import struct\ns.recv(1)\ns.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0))\ns.close()";
    const broken = quietly(box.run([...client(code), SOMEWHERE, "2"]));
    const connection = await eventually("a connection", () => taken.shift(), SOON_MS);
    connection.resume();
    connection.write("x");
    await within("the break", SOON_MS, new Promise((resolve) => connection.once("close", resolve)));
    assert.equal(connection.readableEnded, false);
    await broken;

    const killed = await box.start([...client("s.sendall(b'hello'); time.sleep(1000)"), SOMEWHERE, "3"]);
    const last = await eventually("a connection", () => taken.shift(), SOON_MS);
    const [hello] = (await once(last, "data")) as [Buffer];
    assert.equal(hello.toString(), "hello");
    await killed.signal("SIGKILL");
    await within("the end", SOON_MS, once(last, "end"));
    last.end();
  });

  check("200 connections at once do not mix, and one that stalls stalls itself alone", async (context) => {
    const stalled: Duplex[] = [];
    const box = await boxWith(context, {
      connect: (asked) =>
        void quietly(asked.port === 1 ? asked.accept().then((connection) => stalled.push(connection)) : echo(asked)),
    });
    const stuck = await box.start([...client(`${SEND_UNTIL_STUCK}s.close()`), SOMEWHERE, "1"]);
    const many = `
import socket,threading,os,sys
socket.setdefaulttimeout(100)
ok=[]
def one(i):
    data=os.urandom(50000)
    s=socket.create_connection(('${SOMEWHERE}',1000+i)); s.sendall(data); s.shutdown(socket.SHUT_WR)
    back=b''
    while True:
        d=s.recv(65536)
        if not d: break
        back+=d
    if back==data: ok.append(i)
threads=[threading.Thread(target=one,args=(i,)) for i in range(200)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(ok))`;
    const result = await box.run(["python3", "-c", many]);
    assert.equal(result.stdout.toString(), "200\n", result.stderr.toString().slice(-300));
    // What the host holds for a reader that does not read is its window; the rest waits in the sandbox, and that is bounded.
    const sent = Number((await buffer(stuck.stdout)).toString());
    assert.ok(sent > 0 && sent < 16 * MIB, `${sent} bytes were sent to a reader that reads none`);
    assert.equal((await buffer(stalled[0]!)).length, sent);
  });

  check("what a program does not read waits outside", async (context) => {
    const taken: Duplex[] = [];
    const box = await boxWith(context, {
      connect: (asked) => void quietly(asked.accept().then((connection) => taken.push(connection))),
    });
    const code =
      "sys.stdin.readline()\nn=0\nwhile True:\n    d=s.recv(65536)\n    if not d: break\n    n+=len(d)\nprint(n)";
    const program = await box.start([...client(code), SOMEWHERE, "1"], { stdin: true });
    const connection = await eventually("a connection", () => taken.shift(), SOON_MS);
    const piece = Buffer.alloc(64 * 1024, 7);
    let [sent, done] = [0, 0];
    // Nothing goes any more when the last of it has not gone for long.
    for (let quiet = 0; quiet < 25;) {
      if (done === sent) {
        sent += piece.length;
        connection.write(piece, () => (done = sent));
        quiet = 0;
      }
      await new Promise((resolve) => setTimeout(resolve, 40));
      quiet = done === sent ? 0 : quiet + 1;
      assert.ok(sent < 32 * MIB, `${sent} bytes went to a program that reads none`);
    }
    program.stdin.end("go\n");
    connection.end();
    assert.equal((await buffer(program.stdout)).toString(), `${sent}\n`);
  });

  check("a slow host is waited for, and a program that gives up is told of", async (context) => {
    const asked: AskedConnection[] = [];
    const box = await boxWith(context, { connect: (one) => void asked.push(one) });
    const waiting = quietly(box.run([...client("print(s.recv(5))"), SOMEWHERE, "1"]));
    const slow = await eventually("a connection", () => asked.shift(), SOON_MS);
    const giving = await box.run([...client("").map((word) => word.replace("(60)", "(0.5)")), SOMEWHERE, "2"]);
    assert.notEqual(giving.code, 0);
    const gone = await eventually("the other", () => asked.find((one) => one.port === 2), SOON_MS);
    await eventually("word that it gave up", () => gone.signal.aborted, SOON_MS);
    await assert.rejects(gone.accept());
    assert.equal(slow.signal.aborted, false);
    (await slow.accept()).end("later");
    assert.equal((await waiting).stdout.toString(), "b'later'\n");
  });

  check("names resolve through the sandbox's resolver, over UDP and TCP", async (context) => {
    const asked: string[] = [];
    const box = await boxWith(context, {
      query: async (message, transport) => (asked.push(transport), answerTo(message)),
    });
    const code = "import socket,json;print(json.dumps(sorted({a[4][0] for a in socket.getaddrinfo('name.test',443)})))";
    assert.deepEqual(await probe(box, code, "user"), [SOMEWHERE_6, SOMEWHERE].sort());
    const over = `
import socket,struct,json
q=b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4name\\4test\\0\\0\\1\\0\\1'
s=socket.create_connection(('192.0.0.1',53),20); s.sendall((struct.pack('>H',len(q))+q)*2); s.shutdown(socket.SHUT_WR)
back=b''
while True:
    d=s.recv(4096)
    if not d: break
    back+=d
n,=struct.unpack('>H',back[:2])
print(json.dumps([len(back)==2*(n+2), socket.inet_ntoa(back[n-2:n+2])]))`;
    assert.deepEqual(await probe(box, over, "user"), [true, SOMEWHERE]);
    assert.ok(asked.includes("udp") && asked.filter((transport) => transport === "tcp").length === 2, asked.join());
  });

  check("datagrams go out and come back, and a refused one is told", async (context) => {
    const seen: AskedDatagram[] = [];
    const box = await boxWith(context, {
      datagram: (asked) => {
        seen.push(asked);
        if (asked.port === 1) asked.refuse("reset");
        else asked.reply(Buffer.concat([Buffer.from("re: "), asked.payload]));
      },
    });
    const code = `
import socket,json,errno
out=[]
for family,address in ((socket.AF_INET,'${SOMEWHERE}'),(socket.AF_INET6,'${SOMEWHERE_6}')):
    s=socket.socket(family,socket.SOCK_DGRAM); s.settimeout(20); s.connect((address,5000)); s.send(b'x'*5000); out.append(len(s.recv(20000)))
    s.connect((address,1)); s.send(b'y')
    try: out.append(len(s.recv(100)))
    except OSError as e: out.append(errno.errorcode.get(e.errno,str(e)))
print(json.dumps(out))`;
    assert.deepEqual(await probe(box, code, "user"), [5004, "ECONNREFUSED", 5004, "ECONNREFUSED"]);
    assert.deepEqual(
      seen.map((one) => one.address),
      [SOMEWHERE, SOMEWHERE, SOMEWHERE_6, SOMEWHERE_6],
    );
  });

  check("a flood from inside slows neither exec nor ping", async (context) => {
    const box = await boxWith(context, { connect: () => undefined });
    const flood = `
import socket,time
end=time.time()+5; kept=[]
while time.time()<end:
    s=socket.socket(); s.setblocking(False)
    try: s.connect(('203.0.113.%d'%(len(kept)%250+1),len(kept)%60000+1))
    except OSError: pass
    u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); u.setblocking(False)
    try: u.sendto(b'z'*1000,('203.0.113.1',9))
    except OSError: pass
    u.close(); kept.append(s)
    if len(kept)>300: [k.close() for k in kept]; kept=[]
print('done')`;
    const running = quietly(box.run(["python3", "-c", flood]));
    for (let i = 0; i < 10; i += 1) {
      await box.ping();
      assert.equal((await box.run(["sh", "-c", "exit 3"])).code, 3);
    }
    assert.equal((await running).stdout.toString(), "done\n");
    await box.ping();
  });

  check("with a network there is one interface more, a resolver, and no right more", async (context) => {
    const box = await boxWith(context, {});
    const code =
      "import socket,json; print(json.dumps([sorted(n for _,n in socket.if_nameindex()),open('/etc/resolv.conf').read()]))";
    assert.deepEqual(await probe(box, code), [["eth0", "lo"], "nameserver 192.0.0.1\n"]);
    if (context.target.traits.level === "microvm") return;
    const NET_ADMIN = 12n;
    for (const process of ["self", "1"]) {
      const status = (await box.run(["cat", `/proc/${process}/status`], { user: "root" })).stdout.toString();
      for (const set of ["CapPrm", "CapEff", "CapBnd", "CapInh"]) {
        const mask = new RegExp(`${set}:\\s*([0-9a-f]+)`).exec(status)?.[1];
        assert.ok(mask !== undefined, `${set} is not told of process ${process}`);
        assert.equal((BigInt(`0x${mask}`) >> NET_ADMIN) & 1n, 0n, `${set} of process ${process} has CAP_NET_ADMIN`);
      }
    }
    // A second interface, or another address on this one, would be the way around.
    const tries = `
import fcntl,struct,os,json
out=[]
try:
    f=os.open('/dev/net/tun',os.O_RDWR); fcntl.ioctl(f,0x400454ca,struct.pack('16sH22x',b'eth1',0x1001)); out.append('made an interface')
except OSError as e: out.append('refused')
print(json.dumps(out))`;
    assert.deepEqual(await probe(box, tries), ["refused"]);
  });
});
