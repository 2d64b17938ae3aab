import assert from "node:assert/strict";
import type { Box } from "../box.ts";
import { eventually, theme } from "../check.ts";
import { heldInMemory, processesInCgroup } from "../host.ts";
import { EVIL, GOOD, UNISSUED } from "../internet.ts";
import { CA, GIT, noNetwork, ok, PATIENT, place, serveRepository } from "./egress-policy.ts";

const SECRET = "s3cr3t-0f-th3-3dg3-4711";
/** What programs inside may well have, to show that the search finds what is there. */
const PLANTED = "pl4nt3d-1ns1d3-th3-b0x-4712";
const SECRETS = [GOOD, UNISSUED].map((host) => ({ host, header: "x-api-key", value: SECRET }));

/** Patterns come reversed: the program that looks for them must not be what it finds. */
const reversed = (text: string): string => [...text].toReversed().join("");

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

export const egressEdgeChecks = theme("egress edge", "function", (define) => {
  const check: typeof define = (name, body, options = {}) =>
    define(name, body, { ...PATIENT, ...options, notFor: noNetwork });

  check("a header added outside arrives, and what is in it is nowhere inside", async (context) => {
    const { box, internet } = await place(context, { allow: [GOOD, EVIL, UNISSUED] }, { secrets: SECRETS });
    const curl = ["curl", "-sS", "--fail"];
    // Without an option: the edge is trusted as any server is. What the program says itself never arrives.
    assert.equal(await ok(box, [...curl, "-H", "X-API-Key: mine", `https://${GOOD}/who`]), GOOD);
    assert.deepEqual(
      internet.seen.map(({ host, headers }) => [host, headers["x-api-key"]]),
      [[GOOD, SECRET]],
    );
    // Others' TLS is end to end: what is seen is the server's own certificate, and nothing is added.
    assert.equal(await ok(box, [...curl, "--cacert", CA, `https://${EVIL}/who`]), EVIL);
    assert.equal(internet.seen.at(-1)!.headers["x-api-key"], undefined);
    const alone = ["--capath", "/nowhere", "--cacert"];
    const own = await box.run([...curl, ...alone, "/.bulkhead/trust/edge.pem", `https://${EVIL}/who`]);
    assert.match(own.stderr.toString(), /certificate/i);
    const edge = await box.run([...curl, ...alone, CA, `https://${GOOD}/who`]);
    assert.match(edge.stderr.toString(), /certificate/i);
    await eventually("what it means to be told", () =>
      box.network.denials().some(({ name, why }) => name === GOOD && /not trust the edge/.test(why)),
    );
    // Nor does it go along to where the host redirects, or to a server that is not shown to be the host's.
    const before = internet.seen.length;
    const redirected = await box.run([...curl, "-L", `https://${GOOD}/redirect`]);
    assert.notEqual(redirected.code, 0);
    assert.match(
      await ok(box, ["curl", "-sS", "-H", `Host: ${EVIL}`, `https://${GOOD}/who`]),
      /a request on it names evil/,
    );
    assert.match(await ok(box, ["curl", "-sS", `https://${UNISSUED}/who`]), /could not be verified/);
    assert.deepEqual(
      internet.seen.slice(before).map(({ path }) => path),
      ["/redirect"],
    );

    await box.files.write("/tmp/planted", PLANTED);
    const kept = await box.start(["cat"], { stdin: true, user: "root", env: { PLANTED } });
    const [secret, planted] = await search(box, [SECRET, PLANTED]);
    assert.ok(planted.includes("file") && planted.includes("environ"), `the search finds too little: ${planted.join()}`);
    assert.deepEqual(secret, []);
    // And from outside, in the memory of all that makes up the sandbox: its programs and its agent, its kernel where it has one.
    const held = await Promise.all(
      (await processesInCgroup(box.id)).map(({ pid }) => heldInMemory(pid, [SECRET, PLANTED])),
    );
    assert.ok(held.some(([, there]) => there), "the search does not find in memory what a program holds");
    assert.ok(!held.some(([there]) => there), "the secret is in the sandbox's memory");
    kept.stdin.end();
    await kept.exit;
  });

  check(
    "programs that know nothing of it trust the edge: curl, git and Python, with and without its variables",
    async (context) => {
      const { box, internet } = await place(context, { allow: [GOOD, UNISSUED] }, { secrets: SECRETS });
      await ok(box, ["sh", "-c", GIT]);
      await serveRepository(box, internet);
      const fetch = [
        "python3",
        "-c",
        `import urllib.request as u;print(u.urlopen('https://${GOOD}/who').read().decode())`,
      ];
      const programs = [
        ["git", "clone", "-q", `https://${GOOD}/repo.git`],
        ["curl", "-sS", "--fail", "-o", "/dev/null", `https://${GOOD}/who`],
        fetch,
      ];
      for (const [i, program] of programs.entries()) {
        const clone = program[0] === "git";
        await ok(box, [...program, ...(clone ? ["/tmp/told"] : [])]);
        const before = internet.seen.length;
        // As under sudo, which passes no variables on.
        await ok(box, ["env", "-i", "PATH=/usr/bin:/bin", ...program, ...(clone ? ["/tmp/untold"] : [])]);
        assert.ok(internet.seen.length > before, `${i}`);
      }
      assert.ok(internet.seen.every(({ headers }) => headers["x-api-key"] === SECRET));
      assert.deepEqual(box.network.denials(), []);
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
