import { HELP, JSON_OUTPUT, type OptionDef } from "../options.ts";
import { SPEC_OPTIONS } from "../spec-options.ts";

export interface VerbHelp {
  readonly name: string;
  /** Other names that it answers to. */
  readonly aliases?: readonly string[];
  readonly usage: string;
  readonly summary: string;
  readonly about: string;
  readonly options: readonly OptionDef[];
  readonly examples: readonly string[];
  readonly exitCodes?: readonly (readonly [string, string])[];
}

const INSECURE_REGISTRY: OptionDef = {
  name: "insecure-registry",
  value: "HOST[:PORT]",
  repeat: true,
  help: "This registry may speak plain HTTP or have any certificate (loopback may speak plain HTTP anyway)",
};

/** How `run` and `seccomp learn` come to an image that is not in the store. */
const PULL_OPTIONS: readonly OptionDef[] = [
  { name: "pull", value: "POLICY", help: "When to ask the image's source: missing (default), always, never" },
  INSECURE_REGISTRY,
];

const INTERACTIVE: OptionDef = { name: "interactive", short: "i", help: "Send standard input to the program" };
const TTY: OptionDef = { name: "tty", short: "t", help: "Give the program a terminal" };

export const RUN_OPTIONS: readonly OptionDef[] = [
  ...SPEC_OPTIONS.filter((def) => def !== HELP),
  ...PULL_OPTIONS,
  { name: "name", value: "NAME", help: "What list, cp, exec and stop find it by while it runs" },
  INTERACTIVE,
  TTY,
  {
    name: "publish",
    short: "p",
    value: "[[HOSTIP:]HOSTPORT:]PORT",
    repeat: true,
    help: "Make a port inside reachable on this host, on 127.0.0.1 if no address is given",
  },
  { name: "publish-all", short: "P", help: "The same for every TCP port the image says it listens on, on free ports" },
  {
    name: "json",
    help: "Print events as JSON lines: start, stdout, stderr (text or base64), denied, limit, exit, error",
  },
  HELP,
];

export const LEARN_OPTIONS: readonly OptionDef[] = [
  { name: "output", short: "o", value: "FILE", help: "Where the profile goes (default: standard output)" },
  { name: "merge", value: "FILE", help: "Also allow what this learned profile allows" },
  ...RUN_OPTIONS.filter(({ name }) => !["seccomp", "json", "name"].includes(name)),
];

export const EXPLAIN_OPTIONS: readonly OptionDef[] = [...SPEC_OPTIONS.filter((def) => def !== HELP), JSON_OUTPUT, HELP];
export const DOCTOR_OPTIONS: readonly OptionDef[] = [JSON_OUTPUT, HELP];
export const VERSION_OPTIONS: readonly OptionDef[] = [JSON_OUTPUT, HELP];
export const IMAGE_OPTIONS: readonly OptionDef[] = [
  { ...INSECURE_REGISTRY, help: "pull: this registry may speak plain HTTP or have any certificate" },
  { name: "keep", value: "SIZE", help: "gc: remove images, least recently used first, down to this much disk" },
  { name: "with-node", help: "build-base: also install Node.js; the image is then named base-node" },
  { name: "force", help: "build-base: build again although the image is there" },
  JSON_OUTPUT,
  HELP,
];

export const VOLUME_OPTIONS: readonly OptionDef[] = [
  { name: "size", value: "SIZE", help: "create: its hard end, the file system's own tables included (default: 1g)" },
  { name: "inodes", value: "N", help: "create: how many files it can hold (default: one for 16k of --size)" },
  {
    name: "owner",
    value: "UID[:GID]",
    help: "create: whose its top directory is, as numbers inside (default: 1000:1000)",
  },
  JSON_OUTPUT,
  HELP,
];
export const KEPT_OPTIONS: readonly OptionDef[] = [JSON_OUTPUT, HELP];
export const COMMIT_OPTIONS: readonly OptionDef[] = [JSON_OUTPUT, HELP];

export const LIST_OPTIONS: readonly OptionDef[] = [JSON_OUTPUT, HELP];
export const CP_OPTIONS: readonly OptionDef[] = [
  {
    name: "user",
    short: "u",
    value: "USER",
    help: "Who reads and writes inside, and owns what is made there (default: the sandbox's user)",
  },
  JSON_OUTPUT,
  HELP,
];
export const EXEC_OPTIONS: readonly OptionDef[] = [
  INTERACTIVE,
  TTY,
  ...SPEC_OPTIONS.filter(({ name }) => ["env", "env-file", "workdir", "user"].includes(name)),
  HELP,
];
export const STOP_OPTIONS: readonly OptionDef[] = [
  { name: "timeout", value: "TIME", help: "Kill a program that is still there that long after its stop signal" },
  HELP,
];

export const SETUP_OPTIONS: readonly OptionDef[] = [
  {
    name: "stock-kernel",
    help: "microvm: unpack Debian's cloud kernel (seconds) instead of building our own (minutes)",
  },
  HELP,
];

export const RUN_EXIT_CODES: readonly (readonly [string, string])[] = [
  ["0–119", "the program's own exit code (as are all others when the program chose them)"],
  ["120", "the boundary asked for cannot be had, or the request contradicts its own floor"],
  ["121", "the request is not valid: option, image, user, working directory, mount"],
  ["123", "the output limit ended the program"],
  ["124", "a time limit ended the program or the sandbox"],
  ["125", "Bulkhead or this host failed"],
  ["126", "the program is there but cannot be run"],
  ["127", "the program does not exist"],
  ["128+n", "signal n ended the program"],
];

export const VERB_HELP: readonly VerbHelp[] = [
  {
    name: "run",
    usage: "bulkhead run [OPTIONS] [--] [COMMAND [ARGUMENTS]]",
    summary: "Run a command behind the boundary asked for",
    about:
      "Starts a new sandbox, runs COMMAND in it in the foreground and throws the sandbox away at the end.\n" +
      "Options stand before COMMAND; what follows is the command's own. Without COMMAND the image's own runs; an image's\n" +
      "entrypoint gets COMMAND as its arguments. SIGTERM ends the program by its stop signal. With neither --isolation,\n" +
      "--at-least nor --trust the code counts as untrusted, which needs at least gvisor.",
    options: RUN_OPTIONS,
    examples: [
      "bulkhead run --isolation gvisor -- python3 -c 'import platform; print(platform.release())'",
      "bulkhead run --trust trusted --memory 512m --cpus 1 --mount /srv/data:/data:ro -- ls /data",
      "tar c . | bulkhead run -i --timeout 60s -- tar t",
      "bulkhead run -it -- bash",
      "bulkhead run --publish 8080 -- python3 -m http.server 8080",
    ],
    exitCodes: RUN_EXIT_CODES,
  },
  {
    name: "list",
    aliases: ["ls", "ps"],
    usage: "bulkhead list [--json]",
    summary: "List the sandboxes that run on this host",
    about: "Whoever started them, under the same run directory (BULKHEAD_RUN). ls and ps are the same.",
    options: LIST_OPTIONS,
    examples: ["bulkhead list", "bulkhead list --json"],
  },
  {
    name: "cp",
    usage: "bulkhead cp [--user USER] SOURCE SANDBOX:TARGET | SANDBOX:SOURCE TARGET",
    summary: "Copy files into and out of a running sandbox",
    about:
      "SANDBOX is a name, an id or the beginning of an id; a relative path inside starts at the user's home. Into a\n" +
      "directory that is there goes what is copied, under its own name (with SOURCE/. what is in it); elsewhere it becomes\n" +
      "TARGET. A file replaces a file. Links are copied as links. Out of a sandbox a directory replaces nothing, and what\n" +
      "is made is whole or not there. A path of the host's with a colon is written ./a:b.",
    options: CP_OPTIONS,
    examples: [
      "bulkhead cp ./data web:/home/user",
      "bulkhead cp --user root ./nginx.conf web:/etc/nginx/nginx.conf",
      "bulkhead cp web:/var/log/app.log .",
      "tar c . | bulkhead exec -i web -- tar x -C /tmp",
    ],
  },
  {
    name: "exec",
    usage: "bulkhead exec [OPTIONS] SANDBOX [--] COMMAND [ARGUMENTS]",
    summary: "Run a command in a sandbox that runs",
    about:
      "Options stand before SANDBOX, which is a name, an id or the beginning of an id. Output, exit code and signals come\n" +
      "through as for run. The command ends when this one ends; the sandbox goes on.",
    options: EXEC_OPTIONS,
    examples: ["bulkhead exec web -- ps", "bulkhead exec -it web bash"],
    exitCodes: RUN_EXIT_CODES,
  },
  {
    name: "stop",
    usage: "bulkhead stop [--timeout TIME] SANDBOX…",
    summary: "End sandboxes that run",
    about:
      "Each one's program gets its stop signal, and is killed when it has not ended in time; then nothing is left.",
    options: STOP_OPTIONS,
    examples: ["bulkhead stop web", "bulkhead stop --timeout 1s web"],
  },
  {
    name: "explain",
    usage: "bulkhead explain [OPTIONS] [-- COMMAND [ARG...]]",
    summary: "Say what would be enforced, without running anything",
    about: "Prints the plan that run would carry out with the same options on this host, and the digest that names it.",
    options: EXPLAIN_OPTIONS,
    examples: [
      "bulkhead explain --isolation container --allow-setuid -- make",
      "bulkhead explain --trust untrusted --json",
    ],
  },
  {
    name: "doctor",
    usage: "bulkhead doctor [--json]",
    summary: "Say what each isolation level can do on this host",
    about: "Starts a real sandbox with every driver that is installed. Exit code 0 when at least one level works.",
    options: DOCTOR_OPTIONS,
    examples: ["bulkhead doctor"],
  },
  {
    name: "image",
    usage:
      "bulkhead image pull REFERENCE… | list | inspect NAME | prepare NAME… | verify [NAME…] | remove NAME… | gc | build-base",
    summary: "Pull, build, check and remove images",
    about:
      "A reference is NAME[:TAG] at Docker Hub, REGISTRY/NAME[:TAG], either with @sha256:DIGEST, oci:DIR[:TAG],\n" +
      "oci-archive:FILE, docker-archive:FILE or rootfs:DIR; run pulls what is missing. prepare makes ahead what microVMs\n" +
      "need of an image, verify reads all of it again, gc removes what no image is made of. The base image is made from\n" +
      "this host's Debian packages and needs no registry.",
    options: IMAGE_OPTIONS,
    examples: [
      "bulkhead image pull python:3.12-slim",
      "bulkhead image pull registry.example:5000/team/app@sha256:…",
      "bulkhead image gc --keep 20g",
      "bulkhead image build-base",
    ],
  },
  {
    name: "volume",
    usage: "bulkhead volume create NAME [--size SIZE] | list | copy SOURCE TARGET | remove NAME…",
    summary: "Make, list, fill and remove volumes, which outlive sandboxes",
    about:
      "A volume is a file system with a hard end, attached with run --volume NAME:PATH at every level. Who writes to one is\n" +
      "alone, unless all others read it (:ro) or write to it as well (:shared). One that is in use is not removed.\n" +
      "copy takes a path of the host's and NAME:/PATH; out of a volume it makes what is not there yet.",
    options: VOLUME_OPTIONS,
    examples: [
      "bulkhead volume create cache --size 2g",
      "bulkhead run --volume cache:/home/user/.cache -- make",
      "bulkhead volume copy ./model cache:/model",
      "bulkhead volume remove cache",
    ],
  },
  {
    name: "commit",
    usage: "bulkhead commit NAME IMAGE",
    summary: "Make an image of a kept layer and the image under it",
    about:
      "NAME is that of a layer that run --keep left; it stays as it is. Other sandboxes may then use the image, at every\n" +
      "level. What a guest wrote at microvm is read by a guest that is started for it.",
    options: COMMIT_OPTIONS,
    examples: ["bulkhead commit work work-image", "bulkhead run --image work-image -- ./program"],
  },
  {
    name: "kept",
    usage: "bulkhead kept list | remove NAME…",
    summary: "List and remove the writable layers that run --keep left",
    about:
      "A layer goes on over the image it was made with, at the levels whose kernel wrote it: container and gvisor, or\n" +
      "microvm. One sandbox has it at a time.",
    options: KEPT_OPTIONS,
    examples: ["bulkhead run --keep work -- pip install ./pkg", "bulkhead kept list", "bulkhead kept remove work"],
  },
  {
    name: "seccomp",
    usage: "bulkhead seccomp learn [-o FILE] [--merge FILE] [OPTIONS] -- COMMAND [ARGUMENTS]",
    summary: "Record a command's system calls and write the profile that allows them",
    about:
      "Runs COMMAND as run does, at container, and writes a seccomp profile (OCI) with the system calls it and its\n" +
      "children made. What the container's own profile refuses is never in it. Without -o the profile is printed and\n" +
      "the command's own output goes to standard error. Use it with run --seccomp FILE, at every level.",
    options: LEARN_OPTIONS,
    examples: [
      "bulkhead seccomp learn --isolation container -o job.json -- python3 job.py",
      "bulkhead seccomp learn --isolation container --merge job.json -o job.json -- python3 job.py --other",
      "bulkhead run --isolation container --seccomp job.json -- python3 job.py",
    ],
    exitCodes: RUN_EXIT_CODES,
  },
  {
    name: "setup",
    usage: "bulkhead setup [microvm [--stock-kernel]]",
    summary: "Install what is missing, without running anything",
    about:
      "Commands do it by themselves when something they need is missing. With microvm also QEMU and the guest\n" +
      "kernel, built again when Debian has a newer source; otherwise that waits until a microVM is asked for.\n" +
      "Our own kernel is used when both are there: it starts in half the time.",
    options: SETUP_OPTIONS,
    examples: ["bulkhead setup", "bulkhead setup microvm", "bulkhead setup microvm --stock-kernel"],
  },
  {
    name: "version",
    usage: "bulkhead version [--json]",
    summary: "Print the versions of Bulkhead, Node.js and the runtimes",
    about: "Runtimes are those found on this host; doctor says whether they work.",
    options: VERSION_OPTIONS,
    examples: ["bulkhead version --json"],
  },
  {
    name: "help",
    usage: "bulkhead help [COMMAND]",
    summary: "Show this help, or that of a command",
    about: "",
    options: [],
    examples: ["bulkhead help run"],
  },
];
