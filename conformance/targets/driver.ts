import { Engine, type EngineOptions } from "@bulkhead/engine";
import type { Level, SpecInput } from "@bulkhead/contract";
import { rm } from "node:fs/promises";
import { freshDirectory, keeperOf } from "../host.ts";
import type { BoxSpec, OpenTarget, Target, Traits } from "../target.ts";
import { boxOf } from "./adapt.ts";
import { config } from "./config.ts";

/** A driver of the engine, asked for by name: another one of the same level in its place would be tested twice. */
export function driver(
  name: string,
  traits: Traits & { readonly level: Level },
  variant?: { readonly name: string } & Pick<EngineOptions, "templates">,
): Target {
  const { name: title = name, ...engineOptions } = variant ?? {};
  const options = { ...engineOptions, ...(config.state === undefined ? {} : { state: config.state }), drivers: [name] };
  const full = (spec: BoxSpec): SpecInput => ({ ...spec, isolation: traits.level });
  return {
    name: title,
    traits,
    available: async () => {
      await using engine = await Engine.open(options);
      const [candidate] = engine.candidates;
      if (candidate === undefined) return { ok: false, reason: `the engine has no driver ${name}` };
      const { availability } = candidate;
      return availability.ok ? { ok: true } : { ok: false, reason: `${availability.reason}; ${availability.remedy}` };
    },
    open: async ({ run: given, egress, internet } = {}): Promise<OpenTarget> => {
      const run = given ?? (await freshDirectory("conformance-run-"));
      const engine = await Engine.open({
        ...options,
        run,
        ...(egress !== undefined && { egress: () => egress }),
        ...(internet !== undefined && { outside: internet }),
      });
      return {
        create: async (spec = {}, signal) => {
          const sandbox = await engine.create(full(spec), {
            // What an image that is not there leads to must not depend on what a network answers.
            pull: "never",
            ...(signal !== undefined && { signal }),
          });
          if (sandbox.plan.driver !== name) throw new Error(`${sandbox.plan.driver} made the sandbox, not ${name}`);
          return boxOf(sandbox);
        },
        restore: async (where, restoring = {}) => boxOf(await engine.restore(where, restoring)),
        removeKept: (name) => engine.kept.remove(name),
        removeSnapshot: (where) => engine.snapshots.remove(where),
        can: async () => (await engine.explain(full({}))).can,
        outside: {
          enginePid: process.pid,
          keeperPid: () => keeperOf(process.pid, run),
          runDirectory: run,
          stateDirectory: engine.host.paths.state,
        },
        plan: async (spec = {}) => (await engine.explain(full(spec))).plan,
        [Symbol.asyncDispose]: async () => {
          await engine[Symbol.asyncDispose]();
          if (given === undefined) await rm(run, { recursive: true, force: true });
        },
      };
    },
  };
}
