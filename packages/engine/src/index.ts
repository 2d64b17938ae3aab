export type { DoctorReport, DriverReport, LevelReport } from "./doctor.ts";
export { Engine, type CallOptions, type EngineOptions, type Explanation } from "./engine.ts";
export type { Denial, DenialListener } from "./egress/denials.ts";
export type { Network } from "./egress/network.ts";
export type { Outside, Resolved } from "./egress/outside.ts";
export type { Execution } from "./sandbox/exec.ts";
export type { Command, ExecOptions } from "./sandbox/exec-request.ts";
export type { ExecResult, ExitStatus } from "./sandbox/exec-result.ts";
export type { Sandbox, SandboxEnd } from "./sandbox/sandbox.ts";
