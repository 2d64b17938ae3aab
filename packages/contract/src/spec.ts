import { z } from "zod";
import { LEVELS, TRUSTS } from "./level.ts";

const KIB = 1024;
const MIN_MEMORY_BYTES = 16 * KIB * KIB;

const level = z.enum(LEVELS);

export const mountSchema = z.strictObject({
  source: z.string().min(1).startsWith("/"),
  target: z.string().min(1).startsWith("/"),
  readOnly: z.boolean().default(false),
});

/** What the user asked for. Nothing in it depends on a machine. Sizes in bytes, times in milliseconds. */
export const specSchema = z.strictObject({
  isolation: z.union([level, z.strictObject({ atLeast: level })]).optional(),
  trust: z.enum(TRUSTS).optional(),
  hardware: z.boolean().default(false),
  image: z.string().min(1).max(512).default("base"),
  user: z.string().min(1).max(64).optional(),
  workdir: z.string().startsWith("/").max(4095).optional(),
  env: z.record(z.string().regex(/^[^=\0]+$/), z.string().regex(/^[^\0]*$/)).default({}),
  cpus: z.number().positive().max(1024).optional(),
  memoryBytes: z.int().min(MIN_MEMORY_BYTES).optional(),
  pids: z.int().min(1).max(4_194_304).optional(),
  diskBytes: z
    .int()
    .min(KIB * KIB)
    .optional(),
  timeoutMs: z.int().min(1).optional(),
  mounts: z.array(mountSchema).max(64).default([]),
  network: z.literal("none").default("none"),
  allowSetuid: z.boolean().default(false),
  hostname: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)
    .optional(),
});

/** As given by a caller: defaults may be left out. */
export type SpecInput = z.input<typeof specSchema>;
/** After validation: every default filled in. */
export type Spec = z.output<typeof specSchema>;
