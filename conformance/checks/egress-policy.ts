import assert from "node:assert/strict";
import { buffer } from "node:stream/consumers";
import type { SpecInput } from "@bulkhead/contract";
import type { Box } from "../box.ts";
import { type Context, eventually, theme } from "../check.ts";
import {
  BANNER_PORT,
  ECHO_PORT,
  EVIL,
  GOOD,
  type Internet,
  makeInternet,
  METADATA,
  NAMELESS,
  REBOUND,
  SHARED,
  SHARED_6,
  SINK_PORT,
  STALL_PORT,
  WILD,
} from "../internet.ts";
import type { BoxSpec, Target } from "../target.ts";

type Policy = Exclude<SpecInput["network"], "none" | undefined>;

export interface Place {
  readonly box: Box;
  readonly internet: Internet;
}

export const CA = "/tmp/authority.pem";
export const PATIENT = { timeoutMs: 180_000 };

export async function place({ target, defer }: Context, network: Policy, more: BoxSpec = {}): Promise<Place> {
  const internet = await makeInternet();
  defer(() => internet[Symbol.asyncDispose]());
  const open = await target.open({ internet: internet.net });
  defer(() => open[Symbol.asyncDispose]());
  const box = await open.create({ network, ...more });
  await box.files.write(CA, internet.ca);
  return { box, internet };
}

export async function ok(box: Box, argv: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const result = await box.run(argv, { env, cwd: "/tmp" });
  assert.equal(result.code, 0, `${argv.join(" ")}: ${result.stderr.toString().slice(-2000)}`);
  return result.stdout.toString();
}

/**
 * Ways out, each by itself: what comes back when it is open is `out`, when it is not, the error. Names are resolved again for
 * each, so that a name that is not allowed fails where it does for every program.
 */
const ATTEMPTS = `
import json,socket,ssl,sys,http.client
socket.setdefaulttimeout(30)
def tls(address,name):
    context=ssl.create_default_context(cafile='${CA}'); context.check_hostname=False
    with context.wrap_socket(socket.create_connection((address,443)),server_hostname=name) as s:
        s.sendall(b'GET /who HTTP/1.1\\r\\nHost: x.example\\r\\nConnection: close\\r\\n\\r\\n'); return s.recv(12)==b'HTTP/1.1 200'
def http_(address,host):
    c=http.client.HTTPConnection(address,80); c.request('GET','/who',headers={'Host':host}); r=c.getresponse(); body=r.read().decode()
    if r.status==403: raise Exception('403 '+body)
    return r.status==200
def keep():
    c=http.client.HTTPConnection('${GOOD}',80); c.request('GET','/who'); c.getresponse().read()
    c.request('GET','/who',headers={'Host':'${EVIL}'}); r=c.getresponse(); body=r.read().decode()
    if r.status==403: raise Exception('403 '+body)
    return r.status==200
def raw(address,port,send=b'hello'):
    with socket.create_connection((address,port)) as s:
        s.sendall(send); s.shutdown(socket.SHUT_WR); return s.recv(100)==send
def udp(address):
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(10); s.connect((address,53)); s.send(b'x'); return s.recv(10)==b'x'
def banner(name):
    with socket.create_connection((name,${BANNER_PORT})) as s: return s.recv(100).startswith(b'SSH')
def six():
    with socket.create_connection(('${SHARED_6}',${ECHO_PORT})) as s: s.sendall(b'six'); return s.recv(10)==b'six'
attempts={
 'name': lambda: tls('${EVIL}','${EVIL}'),
 'sni': lambda: tls('${GOOD}','${EVIL}'),
 'no sni': lambda: tls('${GOOD}',None),
 'host': lambda: http_('${GOOD}','${EVIL}'),
 'later host': keep,
 'address': lambda: tls('${NAMELESS}','${GOOD}'),
 'plain': lambda: raw('${GOOD}',${ECHO_PORT}),
 'banner': lambda: banner('${GOOD}'),
 'ipv6': six,
 'udp': lambda: udp('${SHARED}'),
 'metadata': lambda: http_('${METADATA}','${METADATA}'),
 'rebinding': lambda: http_('${REBOUND}','${REBOUND}'),
}
out={}
for name,attempt in attempts.items():
    try: out[name]='out' if attempt() else 'something else'
    except Exception as e: out[name]=type(e).__name__+' '+str(e)
print(json.dumps(out))`;

export const noNetwork = (target: Target): string | null =>
  target.traits.level === null ? "it has no network of its own" : null;

async function attempts(box: Box): Promise<Record<string, string>> {
  return JSON.parse(await ok(box, ["python3", "-c", ATTEMPTS])) as Record<string, string>;
}

/** Serves /tmp/repo at /repo.git of every name. */
export async function serveRepository(box: Box, internet: Internet): Promise<void> {
  for (const entry of await box.files.list("/tmp/repo/.git", { depth: 10 })) {
    if (entry.kind !== "file") continue;
    const path = entry.path.toString();
    internet.files.set(path.replace("/tmp/repo/.git", "/repo.git"), await box.files.read(path));
  }
}

/** A wheel, made where the tools are. */
const WHEEL = `
import zipfile
with zipfile.ZipFile('/tmp/demo-1.0-py3-none-any.whl','w') as z:
    z.writestr('demo.py','VALUE=42\\n'); z.writestr('demo-1.0.dist-info/METADATA','Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n')
    z.writestr('demo-1.0.dist-info/WHEEL','Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    z.writestr('demo-1.0.dist-info/RECORD','')`;

/** Makes /tmp/repo, with a file, as plain files can serve it. */
export const GIT = `set -e; cd /tmp; git init -q --template= repo; cd repo; echo content > file; git add file
git -c user.name=x -c user.email=x@example.com commit -qm first; git update-server-info`;

export const egressPolicyChecks = theme("egress policy", "function", (define) => {
  const check: typeof define = (name, body, options = {}) =>
    define(name, body, { ...PATIENT, ...options, notFor: noNetwork });

  check("curl and git reach allowed names over TLS as on any machine, and no other", async (context) => {
    const { box, internet } = await place(context, { allow: [GOOD] });
    await ok(box, ["sh", "-c", GIT]);
    await serveRepository(box, internet);
    const curl = ["curl", "-sS", "--fail", "--cacert", CA];
    assert.equal(await ok(box, [...curl, `https://${GOOD}/who`]), GOOD);
    assert.equal(await ok(box, [...curl, `http://${GOOD}/who`]), GOOD);
    await ok(box, ["git", "clone", "-q", `https://${GOOD}/repo.git`, "/tmp/clone"], { GIT_SSL_CAINFO: CA });
    assert.equal((await box.files.read("/tmp/clone/file")).toString(), "content\n");
    assert.deepEqual(box.network.denials(), []);

    const redirected = await box.run([...curl, "-L", `https://${GOOD}/redirect`]);
    assert.match(redirected.stderr.toString(), /resolve host: evil/i);
    box.network.update({ allow: [GOOD, EVIL] });
    assert.equal(await ok(box, [...curl, `https://${EVIL}/who`]), EVIL);
  });

  define(
    "pip installs from allowed names as on any machine",
    async (context) => {
      const { box, internet } = await place(context, { allow: [GOOD, "*.cdn.example.net"] });
      await ok(box, ["python3", "-c", WHEEL]);
      const wheel = "demo-1.0-py3-none-any.whl";
      internet.files.set("/simple/demo/", Buffer.from(`<a href="https://${WILD}/${wheel}">${wheel}</a>`));
      internet.files.set(`/${wheel}`, await box.files.read(`/tmp/${wheel}`));
      const pip = ["pip", "install", "-q", "--target", "/tmp/lib", "--index-url", `https://${GOOD}/simple`, "demo"];
      await ok(box, pip, { PIP_CERT: CA, PIP_DISABLE_PIP_VERSION_CHECK: "1" });
      assert.equal(
        await ok(box, ["python3", "-c", "import demo;print(demo.VALUE)"], { PYTHONPATH: "/tmp/lib" }),
        "42\n",
      );
      assert.deepEqual(box.network.denials(), []);
    },
    {
      ...PATIENT,
      // What it does on the network is what curl does.
      notFor: (target) =>
        noNetwork(target) ?? (target.traits.level === "microvm" ? "an emulated processor takes minutes for pip" : null),
    },
  );

  check("each way around the policy is closed and told of, and open when it is allowed", async (context) => {
    const { box, internet } = await place(context, { allow: [GOOD, REBOUND] });
    const closed = await attempts(box);
    for (const [way, outcome] of Object.entries(closed)) assert.notEqual(outcome, "out", `${way} is open`);
    // What a person or an agent reads inside says why.
    assert.match(closed["host"]!, new RegExp(`403 Bulkhead .*no rule allows ${EVIL}:80`));
    assert.match(closed["later host"]!, new RegExp(`403 Bulkhead .*no rule allows ${EVIL}:80`));
    assert.match(closed["sni"]!, /access denied/i);
    assert.match(closed["name"]!, /gaierror/);
    const asked = new Set(internet.net.asked.map((question) => question.split(" ")[1]));
    assert.deepEqual(asked, new Set([GOOD, REBOUND]));
    const told = box.network.denials();
    const options = told.map(({ allow }) => allow);
    for (const wanted of [
      EVIL,
      `${EVIL}:443`,
      `${EVIL}:80`,
      `${NAMELESS}:443`,
      `${SHARED}:53/udp`,
      `[${SHARED_6}]:${ECHO_PORT}`,
      `${METADATA}:80`,
      METADATA,
    ]) {
      assert.ok(options.includes(wanted), `nothing says that ${wanted} would allow it: ${options.join()}`);
    }

    box.network.update({ allow: [GOOD, EVIL, REBOUND, SHARED, SHARED_6, NAMELESS, METADATA, `${SHARED}:53/udp`] });
    const open = await attempts(box);
    for (const [way, outcome] of Object.entries(open)) assert.equal(outcome, "out", `${way} stays closed`);
  });

  check("a policy that changes ends what it no longer allows, and nothing else", async (context) => {
    const { box } = await place(context, { allow: [SHARED, NAMELESS] });
    const talk = (address: string): readonly string[] => [
      "python3",
      "-uc",
      `import socket,sys\ns=socket.create_connection(('${address}',${ECHO_PORT}),60)\ns.sendall(b'one'); print(s.recv(10))\nsys.stdin.readline()\ntry: s.sendall(b'two'); print(s.recv(10))\nexcept OSError as e: print('reset')`,
    ];
    const [stays, ends] = await Promise.all([SHARED, NAMELESS].map((one) => box.start(talk(one), { stdin: true })));
    const said = { stays: "", ends: "" };
    stays!.stdout.on("data", (piece: Buffer) => (said.stays += piece.toString()));
    ends!.stdout.on("data", (piece: Buffer) => (said.ends += piece.toString()));
    const heard = (): boolean => said.stays.includes("one") && said.ends.includes("one");
    await eventually("both to talk", heard, 60_000);
    box.network.update({ allow: [SHARED] });
    for (const one of [stays!, ends!]) one.stdin.end("go\n");
    await Promise.all([stays!.exit, ends!.exit]);
    await eventually("all they said", () => said.stays.endsWith("two'\n") && /^b'one'\n(reset|b'')\n$/.test(said.ends));
    assert.equal(said.stays, "b'one'\nb'two'\n");
    assert.deepEqual(
      box.network.denials().map(({ address }) => address),
      [NAMELESS],
    );
  });

  check("200 requests at once by name, and a server that stalls", async (context) => {
    const { box, internet } = await place(context, { allow: [GOOD, `${SHARED}:${STALL_PORT}`] });
    internet.files.set("/large", Buffer.alloc(100_000, "x"));
    const many = `
import socket,threading,urllib.request,ssl
socket.setdefaulttimeout(120)
stalled=[socket.create_connection(('${SHARED}',${STALL_PORT})) for _ in range(5)]
for s in stalled: s.setblocking(False); s.send(b'x'*60000)
context=ssl.create_default_context(cafile='${CA}')
# One question for all: what is asked here is how many connections there can be.
known=socket.getaddrinfo('${GOOD}',None,type=socket.SOCK_STREAM)
socket.getaddrinfo=lambda host,port,*_: [(f,t,p,n,(a[0],port)+a[2:]) for f,t,p,n,a in known]
ok=[]
def one(i):
    url=('https' if i%20==0 else 'http')+'://${GOOD}/large'
    try:
        with urllib.request.urlopen(url,context=context if i%20==0 else None) as r: ok.append(len(r.read())==100000)
    except Exception as e: ok.append(str(i)+repr(e))
threads=[threading.Thread(target=one,args=(i,)) for i in range(200)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(ok),set(ok))`;
    assert.equal(await ok(box, ["python3", "-c", many]), "200 {True}\n");
  });

  check("a rate holds both ways; without it the same takes less", async (context) => {
    const { box, internet } = await place(context, { allow: [SHARED], rateBytesPerSecond: 65_536 });
    internet.files.set("/file", Buffer.alloc(2 << 20, "x"));
    const move = `
import socket,sys,urllib.request
socket.setdefaulttimeout(150)
print(len(urllib.request.urlopen('http://${SHARED}/file').read()))
s=socket.create_connection(('${SHARED}',${SINK_PORT})); s.sendall(b'y'*(2<<20)); s.shutdown(socket.SHUT_WR); print(s.recv(10))`;
    const slow = await box.start(["python3", "-uc", move]);
    let over = false;
    void slow.exit.then(() => (over = true));
    const other = await place(context, { allow: [SHARED] });
    other.internet.files.set("/file", Buffer.alloc(2 << 20, "x"));
    const expected = `${2 << 20}\nb'done'\n`;
    assert.equal(await ok(other.box, ["python3", "-uc", move]), expected);
    assert.equal(over, false, "2 MiB went both ways at 64 KiB a second as fast as without a limit");
    box.network.update({ allow: [SHARED] });
    assert.equal((await buffer(slow.stdout)).toString(), expected);
  });
});
