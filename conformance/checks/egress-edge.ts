import assert from "node:assert/strict";
import type { Box } from "../box.ts";
import { eventually, theme } from "../check.ts";
import { heldInMemory, processesInCgroup } from "../host.ts";
import { EVIL, GOOD, UNISSUED } from "../internet.ts";
import { CA, GIT, noNetwork, ok, PATIENT, type Place, place, serveRepository } from "./egress-policy.ts";

const SECRET = "s3cr3t-0f-th3-3dg3-4711";
/** What programs inside may well have, to show that the search finds what is there. */
const PLANTED = "pl4nt3d-1ns1d3-th3-b0x-4712";
const SECRETS = [GOOD, UNISSUED].map((host) => ({ host, header: "x-api-key", value: SECRET }));

/** Patterns come reversed: the program that looks for them must not be what it finds. */
const reversed = (text: string): string => text.split("").toReversed().join("");

/** Root inside looks for two texts in what programs were started with and in files. Prints where each was found. */
const SEARCH = `
import os,sys,json
wanted=[w[::-1].encode() for w in sys.argv[1:3]]
found=[[],[]]
def look(kind,path):
    try: data=open(path,'rb').read(16<<20)
    except OSError: return
    for i,w in enumerate(wanted):
        if w in data: found[i].append(kind)
for pid in filter(str.isdigit,os.listdir('/proc')):
    for name in 'environ','cmdline': look(name,f'/proc/{pid}/{name}')
for top in '/etc','/run','/tmp','/home','/root','/.bulkhead','/var/tmp','/dev/shm':
    for at,_,names in os.walk(top):
        for path in (os.path.join(at,name) for name in names):
            if os.path.isfile(path) and not os.path.islink(path): look('file',path)
print(json.dumps(found))`;

/** Where two texts are, of what root inside can read. */
async function search(box: Box, texts: readonly [string, string]): Promise<readonly [string[], string[]]> {
  const result = await box.run(["python3", "-c", SEARCH, ...texts.map(reversed)], { user: "root" });
  assert.equal(result.code, 0, result.stderr.toString());
  return JSON.parse(result.stdout.toString()) as [string[], string[]];
}

/** As under sudo, which passes no variables on. */
const UNTOLD = ["env", "-i", "PATH=/usr/bin:/bin"];
const PYTHON = ["python3", "-c", `import urllib.request as u;print(u.urlopen('https://${GOOD}/who').read().decode())`];
const CURL = ["curl", "-sS", "--fail"];

/** Others' TLS is end to end: what is seen is the server's own certificate, and nothing is added. */
async function staysEndToEnd({ box, internet }: Place): Promise<void> {
  assert.equal(await ok(box, [...CURL, "--cacert", CA, `https://${EVIL}/who`]), EVIL);
  assert.equal(internet.seen.at(-1)!.headers["x-api-key"], undefined);
  const alone = ["--capath", "/nowhere", "--cacert"];
  const own = await box.run([...CURL, ...alone, "/.bulkhead/trust/edge.pem", `https://${EVIL}/who`]);
  assert.match(own.stderr.toString(), /certificate/i);
  const edge = await box.run([...CURL, ...alone, CA, `https://${GOOD}/who`]);
  assert.match(edge.stderr.toString(), /certificate/i);
  await eventually("what it means to be told", () =>
    box.network.denials().some(({ name, why }) => name === GOOD && /not trust the edge/.test(why)),
  );
}

/** It goes neither along to where the host redirects, nor to a server that is not shown to be the host's. */
async function goesNowhereElse({ box, internet }: Place): Promise<void> {
  const before = internet.seen.length;
  const redirected = await box.run([...CURL, "-L", `https://${GOOD}/redirect`]);
  assert.notEqual(redirected.code, 0);
  const fronted = await ok(box, ["curl", "-sS", "-H", `Host: ${EVIL}`, `https://${GOOD}/who`]);
  assert.match(fronted, /a request on it names evil/);
  assert.match(await ok(box, ["curl", "-sS", `https://${UNISSUED}/who`]), /could not be verified/);
  assert.deepEqual(
    internet.seen.slice(before).map(({ path }) => path),
    ["/redirect"],
  );
}

async function isNowhereInside(box: Box): Promise<void> {
  await box.files.write("/tmp/planted", PLANTED);
  const kept = await box.start(["cat"], { stdin: true, user: "root", env: { PLANTED } });
  // From outside, in the memory of all that makes up the sandbox: its programs and its agent, its kernel where it has one. Before
  // the search inside, whose program puts the texts together.
  const members = await processesInCgroup(box.id);
  const held = await Promise.all(members.map(({ pid }) => heldInMemory(pid, [SECRET, PLANTED])));
  assert.ok(
    held.some(([, there]) => there),
    "the search does not find in memory what a program holds",
  );
  assert.ok(!held.some(([there]) => there), "the secret is in the sandbox's memory");
  const [secret, planted] = await search(box, [SECRET, PLANTED]);
  assert.ok(planted.includes("file") && planted.includes("environ"), `the search finds too little: ${planted.join()}`);
  assert.deepEqual(secret, []);
  kept.stdin.end();
  await kept.exit;
}

export const egressEdgeChecks = theme("egress edge", "function", (define) => {
  const check: typeof define = (name, body, options = {}) =>
    define(name, body, { ...PATIENT, notFor: noNetwork, ...options });

  check("a header added outside arrives, and what is in it is nowhere inside", async (context) => {
    const there = await place(context, { allow: [GOOD, EVIL, UNISSUED] }, { secrets: SECRETS });
    const { box, internet } = there;
    // Without an option: the edge is trusted as any server is. What the program says itself never arrives.
    assert.equal(await ok(box, [...CURL, "-H", "X-API-Key: mine", `https://${GOOD}/who`]), GOOD);
    assert.equal(await ok(box, [...UNTOLD, ...PYTHON]), `${GOOD}\n`);
    assert.deepEqual(
      internet.seen.map(({ host, headers }) => [host, headers["x-api-key"]]),
      [
        [GOOD, SECRET],
        [GOOD, SECRET],
      ],
    );
    await staysEndToEnd(there);
    await goesNowhereElse(there);
    await isNowhereInside(box);
  });

  check(
    "curl, git and Python trust the edge unasked, with and without its variables",
    async (context) => {
      const { box, internet } = await place(context, { allow: [GOOD, UNISSUED] }, { secrets: SECRETS });
      await ok(box, ["sh", "-c", GIT]);
      await serveRepository(box, internet);
      const clone = ["git", "clone", "-q", `https://${GOOD}/repo.git`];
      for (const [i, how] of [[], UNTOLD].entries()) {
        await ok(box, [...how, ...clone, `/tmp/clone-${i}`]);
        await ok(box, [...how, ...CURL, `https://${GOOD}/who`]);
        await ok(box, [...how, ...PYTHON]);
      }
      assert.ok(internet.seen.length >= 6);
      assert.ok(internet.seen.every(({ headers }) => headers["x-api-key"] === SECRET));
      assert.deepEqual(box.network.denials(), []);
    },
    {
      // Its programs' files are written as everywhere; the check above has two of them use those.
      notFor: (target) =>
        noNetwork(target) ??
        (target.traits.level === "microvm" ? "an emulated processor takes a minute for so many programs" : null),
    },
  );

  check("variables name a proxy where that is asked for, under the same rules", async (context) => {
    const { box } = await place(context, { allow: [GOOD] }, { proxyVariables: true });
    assert.equal(
      await ok(box, ["sh", "-c", "echo $HTTPS_PROXY $no_proxy"]),
      "http://192.0.0.1:3128 localhost,127.0.0.1,::1\n",
    );
    const curl = ["curl", "-sS", "-v", "--cacert", CA];
    for (const scheme of ["https", "http"]) {
      const result = await box.run([...curl, `${scheme}://${GOOD}/who`]);
      assert.equal(result.stdout.toString(), GOOD, result.stderr.toString());
      assert.match(result.stderr.toString(), /192\.0\.0\.1/);
    }
    const denied = await box.run([...curl, `http://${EVIL}/`]);
    assert.match(denied.stdout.toString(), new RegExp(`no rule allows ${EVIL}:80.*--network allow:${EVIL}:80`, "s"));
    const tunnel = await box.run([...curl, `https://${EVIL}/`]);
    assert.match(tunnel.stderr.toString(), /403/);
    const options = box.network.denials().map(({ allow }) => allow);
    assert.deepEqual(options, [`${EVIL}:80`, `${EVIL}:443`]);
  });
});
