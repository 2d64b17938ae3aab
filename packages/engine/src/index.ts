export type { DoctorReport, DriverReport, LevelReport } from "./doctor.ts";
export { Engine, type CallOptions, type CreateOptions, type EngineOptions, type Explanation } from "./engine.ts";
export type { Execution } from "./sandbox/exec.ts";
export type { Command, ExecOptions } from "./sandbox/exec-request.ts";
export type { ExecResult, ExitStatus } from "./sandbox/exec-result.ts";
export type { Sandbox, SandboxEnd } from "./sandbox/sandbox.ts";
