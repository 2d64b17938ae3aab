import { z } from "zod";
import { BulkheadError } from "./errors.ts";
import { combineRules } from "./network.ts";
import { SPEC_RULES as R } from "./rules.ts";
import { parseSecrets } from "./secrets.ts";

const level = z.enum(R.levels);
const path = z.string().startsWith("/").max(R.pathMaxChars).regex(R.envValue);

export const mountSchema = z.strictObject({
  source: path,
  target: path,
  readOnly: z.boolean().default(false),
});

export const volumeSchema = z.strictObject({
  name: z.string().regex(R.volumeName),
  target: path,
  readOnly: z.boolean().default(false),
  /** Writable beside others who say so too, and beside readers; without it who writes is alone. */
  shared: z.boolean().default(false),
});

const rate = z.int().min(R.networkRateMin).optional();

/** What the parser makes of it, or its refusal as an issue. */
function judged<T>(context: { addIssue(issue: { code: "custom"; message: string }): void }, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof BulkheadError)) throw error;
    context.addIssue({ code: "custom", message: `${error.message}: ${error.why}; ${error.next}` });
    return z.NEVER;
  }
}

const rules = z.array(z.string().max(R.networkRuleMaxChars)).max(R.networkRulesMax).default([]);

export const networkPolicySchema = z
  .strictObject({
    allow: rules,
    deny: rules,
    rateBytesPerSecond: rate,
    sendBytesPerSecond: rate,
    receiveBytesPerSecond: rate,
  })
  .transform((policy, context) =>
    judged(context, () => ({ ...policy, ...combineRules(policy.allow, policy.deny, "network") })),
  );

/** A header for a host, put on its requests outside of the sandbox. */
export const secretSchema = z.strictObject({ host: z.string(), header: z.string(), value: z.string() });

const secretsSchema = z
  .array(secretSchema)
  .transform((secrets, context) => judged(context, () => parseSecrets(secrets, "secrets")));

/** A seccomp profile's file: what to call it, and its text. What it says is judged by the engine. */
export const seccompSchema = z.strictObject({
  name: z.string().min(1).max(R.seccompNameMaxChars),
  json: z.string().min(1).max(R.seccompMaxChars),
});

/**
 * What the user asked for, for API documents and clients. Nothing in it depends on a machine. Sizes in bytes, times in
 * milliseconds. Not imported by the package's door: zod takes 30 ms to load, a third of a whole `bulkhead run`.
 */
export const specSchema = z.strictObject({
  isolation: z.union([level, z.strictObject({ atLeast: level })]).optional(),
  trust: z.enum(R.trusts).optional(),
  hardware: z.boolean().default(false),
  image: z.string().min(1).max(R.imageMaxChars).default("base"),
  user: z.string().min(1).max(R.userMaxChars).optional(),
  workdir: path.optional(),
  env: z
    .record(z.string().regex(R.envName), z.string().regex(R.envValue))
    .refine((env) => Object.keys(env).length <= R.envMax)
    .default({}),
  cpus: z.number().min(R.cpusMin).max(R.cpusMax).optional(),
  memoryBytes: z.int().min(R.memoryMinBytes).optional(),
  pids: z.int().min(1).max(R.pidsMax).optional(),
  diskBytes: z.int().min(R.diskMinBytes).optional(),
  timeoutMs: z.int().min(1).optional(),
  cpuWeight: z.int().min(R.cpuWeightMin).max(R.cpuWeightMax).optional(),
  diskInodes: z.int().min(R.diskInodesMin).max(R.diskInodesMax).optional(),
  diskIops: z.int().min(1).optional(),
  diskBytesPerSecond: z.int().min(R.diskBytesPerSecondMin).optional(),
  diskBacking: z.enum(R.diskBackings).optional(),
  keep: z.string().regex(R.keepName).optional(),
  openFiles: z.int().min(R.openFilesMin).max(R.openFilesMax).optional(),
  idleTimeoutMs: z.int().min(1).optional(),
  outputMaxBytes: z.int().min(1).optional(),
  mounts: z.array(mountSchema).max(R.mountsMax).default([]),
  volumes: z.array(volumeSchema).max(R.volumesMax).default([]),
  network: z.union([z.literal("none"), networkPolicySchema]).default("none"),
  allowSetuid: z.boolean().default(false),
  hostname: z.string().regex(R.hostname).optional(),
  seccomp: seccompSchema.optional(),
  entrypoint: z.array(z.string().max(R.argumentMaxChars).regex(R.envValue)).max(R.argumentsMax).optional(),
  stopSignal: z.string().regex(R.signal).optional(),
  stopTimeoutMs: z.int().min(0).max(R.stopTimeoutMaxMs).optional(),
  secrets: secretsSchema.optional(),
  /** Programs are told by variables of a proxy that is judged as everything else is. */
  proxyVariables: z.boolean().optional(),
});
