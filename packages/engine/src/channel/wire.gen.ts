// Written by scripts/wire.ts from agent/wire/generation-1.json. Do not edit.
import type { WireReader, WireWriter } from "./codec.ts";

export const GENERATION = 1;
export const MAGIC_ATTACH = "62756c6b686561642e61747461636831";
export const MAGIC_ATTACHED = "62756c6b686561642e61747461636864";
export const MAX_PAYLOAD_BYTES = 65536;
export const MAX_STREAMS = 1024;
export const INITIAL_CREDIT_BYTES = 262144;
export const MAX_LIST_ITEMS = 4096;
export const MAX_RECORD_BYTES = 65536;
export const MAX_CONNECTIONS = 256;
export const MAX_QUERIES = 512;
export const MAX_QUERY_BYTES = 4096;
export const MAX_DATAGRAM_BYTES = 16336;
export const LANE = {"in":0,"out":1,"err":2} as const;
export const EntryKind = {"file":1,"directory":2,"symlink":3,"fifo":4,"socket":5,"block":6,"character":7} as const;
export const WatchKind = {"create":1,"write":2,"remove":3,"rename":4,"chmod":5,"overflow":6} as const;
export const StdinMode = {"null":0,"pipe":1} as const;
export const HostGone = {"exit":0,"keep":1} as const;
export const LimitKind = {"memory":1,"pids":2,"disk":3} as const;
export const WriteMode = {"truncate":0,"append":1,"exclusive":2,"atomic":3} as const;
export const EgressRequestKind = {"connect":1,"gone":2,"query":3,"datagram":4} as const;
export const EgressReplyKind = {"refuse":1,"answer":2,"datagram":3,"refuseDatagram":4} as const;
export const Refusal = {"reset":1,"unreachable":2,"prohibited":3} as const;
export const ErrorKind = {"invalid":1,"notFound":2,"exists":3,"notDirectory":4,"isDirectory":5,"permission":6,"noSpace":7,"io":8,"userNotFound":9,"workdirNotFound":10,"commandNotFound":11,"commandNotExecutable":12,"processNotFound":13,"refused":14,"limit":15,"unsupported":16,"notEmpty":17} as const;

export interface Rlimit {
  readonly resource: number;
  readonly soft: bigint;
  readonly hard: bigint;
}
export function writeRlimit(w: WireWriter, m: Rlimit): void {
  w.u8(m.resource);
  w.u64(m.soft);
  w.u64(m.hard);
}
export function readRlimit(r: WireReader): Rlimit {
  return {
    resource: r.u8(),
    soft: r.u64(),
    hard: r.u64(),
  };
}
export interface Entry {
  readonly path: Uint8Array;
  readonly kind: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly owner: string;
  readonly group: string;
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly target: Uint8Array;
}
export function writeEntry(w: WireWriter, m: Entry): void {
  w.bytes(m.path);
  w.u8(m.kind);
  w.u32(m.mode);
  w.u32(m.uid);
  w.u32(m.gid);
  w.str(m.owner);
  w.str(m.group);
  w.u64(m.size);
  w.i64(m.mtimeNs);
  w.bytes(m.target);
}
export function readEntry(r: WireReader): Entry {
  return {
    path: r.bytes(),
    kind: r.u8(),
    mode: r.u32(),
    uid: r.u32(),
    gid: r.u32(),
    owner: r.str(),
    group: r.str(),
    size: r.u64(),
    mtimeNs: r.i64(),
    target: r.bytes(),
  };
}
export interface WatchEvent {
  readonly kind: number;
  readonly path: Uint8Array;
  readonly isDirectory: boolean;
}
export function writeWatchEvent(w: WireWriter, m: WatchEvent): void {
  w.u8(m.kind);
  w.bytes(m.path);
  w.bool(m.isDirectory);
}
export function readWatchEvent(r: WireReader): WatchEvent {
  return {
    kind: r.u8(),
    path: r.bytes(),
    isDirectory: r.bool(),
  };
}
export interface SharedMount {
  readonly name: string;
  readonly target: Uint8Array;
  readonly readOnly: boolean;
}
export function writeSharedMount(w: WireWriter, m: SharedMount): void {
  w.str(m.name);
  w.bytes(m.target);
  w.bool(m.readOnly);
}
export function readSharedMount(r: WireReader): SharedMount {
  return {
    name: r.str(),
    target: r.bytes(),
    readOnly: r.bool(),
  };
}
export interface RecordedCall {
  readonly number: number;
  readonly argument: bigint;
}
export function writeRecordedCall(w: WireWriter, m: RecordedCall): void {
  w.u32(m.number);
  w.u64(m.argument);
}
export function readRecordedCall(r: WireReader): RecordedCall {
  return {
    number: r.u32(),
    argument: r.u64(),
  };
}
export interface Process {
  readonly pid: number;
  readonly ppid: number;
  readonly uid: number;
  readonly state: number;
  readonly rssBytes: bigint;
  readonly cpuMs: bigint;
  readonly startedMs: bigint;
  readonly managed: boolean;
  readonly command: Uint8Array;
}
export function writeProcess(w: WireWriter, m: Process): void {
  w.u32(m.pid);
  w.u32(m.ppid);
  w.u32(m.uid);
  w.u8(m.state);
  w.u64(m.rssBytes);
  w.u64(m.cpuMs);
  w.u64(m.startedMs);
  w.bool(m.managed);
  w.bytes(m.command);
}
export function readProcess(r: WireReader): Process {
  return {
    pid: r.u32(),
    ppid: r.u32(),
    uid: r.u32(),
    state: r.u8(),
    rssBytes: r.u64(),
    cpuMs: r.u64(),
    startedMs: r.u64(),
    managed: r.bool(),
    command: r.bytes(),
  };
}
export interface EgressRequest {
  readonly kind: number;
  readonly id: number;
  readonly address: Uint8Array;
  readonly port: number;
  readonly sourcePort: number;
  readonly payload: Uint8Array;
}
export function writeEgressRequest(w: WireWriter, m: EgressRequest): void {
  w.u8(m.kind);
  w.u32(m.id);
  w.bytes(m.address);
  w.u16(m.port);
  w.u16(m.sourcePort);
  w.bytes(m.payload);
}
export function readEgressRequest(r: WireReader): EgressRequest {
  return {
    kind: r.u8(),
    id: r.u32(),
    address: r.bytes(),
    port: r.u16(),
    sourcePort: r.u16(),
    payload: r.bytes(),
  };
}
export interface EgressReply {
  readonly kind: number;
  readonly id: number;
  readonly refusal: number;
  readonly address: Uint8Array;
  readonly port: number;
  readonly sourcePort: number;
  readonly payload: Uint8Array;
}
export function writeEgressReply(w: WireWriter, m: EgressReply): void {
  w.u8(m.kind);
  w.u32(m.id);
  w.u8(m.refusal);
  w.bytes(m.address);
  w.u16(m.port);
  w.u16(m.sourcePort);
  w.bytes(m.payload);
}
export function readEgressReply(r: WireReader): EgressReply {
  return {
    kind: r.u8(),
    id: r.u32(),
    refusal: r.u8(),
    address: r.bytes(),
    port: r.u16(),
    sourcePort: r.u16(),
    payload: r.bytes(),
  };
}
export interface Hello {
  readonly agentVersion: string;
  readonly kernelRelease: string;
  readonly bootId: string;
  readonly pid: number;
  readonly reattached: boolean;
}
export function writeHello(w: WireWriter, m: Hello): void {
  w.str(m.agentVersion);
  w.str(m.kernelRelease);
  w.str(m.bootId);
  w.u32(m.pid);
  w.bool(m.reattached);
}
export function readHello(r: WireReader): Hello {
  return {
    agentVersion: r.str(),
    kernelRelease: r.str(),
    bootId: r.str(),
    pid: r.u32(),
    reattached: r.bool(),
  };
}
export interface Ping {
  readonly token: bigint;
}
export function writePing(w: WireWriter, m: Ping): void {
  w.u64(m.token);
}
export function readPing(r: WireReader): Ping {
  return {
    token: r.u64(),
  };
}
export interface Pong {
  readonly token: bigint;
}
export function writePong(w: WireWriter, m: Pong): void {
  w.u64(m.token);
}
export function readPong(r: WireReader): Pong {
  return {
    token: r.u64(),
  };
}
export interface Configure {
  readonly hostGone: number;
  readonly defaultUser: string;
  readonly allowSetuid: boolean;
  readonly env: readonly Uint8Array[];
  readonly hostname: string;
  readonly elevate: boolean;
  readonly openFiles: bigint;
  readonly filter: Uint8Array;
}
export function writeConfigure(w: WireWriter, m: Configure): void {
  w.u8(m.hostGone);
  w.str(m.defaultUser);
  w.bool(m.allowSetuid);
  w.list(m.env, (v) => w.bytes(v));
  w.str(m.hostname);
  w.bool(m.elevate);
  w.u64(m.openFiles);
  w.bytes(m.filter);
}
export function readConfigure(r: WireReader): Configure {
  return {
    hostGone: r.u8(),
    defaultUser: r.str(),
    allowSetuid: r.bool(),
    env: r.list(() => r.bytes()),
    hostname: r.str(),
    elevate: r.bool(),
    openFiles: r.u64(),
    filter: r.bytes(),
  };
}
export interface Shutdown {
  readonly graceMs: number;
}
export function writeShutdown(w: WireWriter, m: Shutdown): void {
  w.u32(m.graceMs);
}
export function readShutdown(r: WireReader): Shutdown {
  return {
    graceMs: r.u32(),
  };
}
export interface LimitHit {
  readonly limit: number;
  readonly pid: number;
  readonly command: Uint8Array;
}
export function writeLimitHit(w: WireWriter, m: LimitHit): void {
  w.u8(m.limit);
  w.u32(m.pid);
  w.bytes(m.command);
}
export function readLimitHit(r: WireReader): LimitHit {
  return {
    limit: r.u8(),
    pid: r.u32(),
    command: r.bytes(),
  };
}
export type End = Record<never, never>;
export function writeEnd(_w: WireWriter, _m: End): void {
}
export function readEnd(_r: WireReader): End {
  return {

  };
}
export interface Credit {
  readonly bytes: number;
}
export function writeCredit(w: WireWriter, m: Credit): void {
  w.u32(m.bytes);
}
export function readCredit(r: WireReader): Credit {
  return {
    bytes: r.u32(),
  };
}
export type Cancel = Record<never, never>;
export function writeCancel(_w: WireWriter, _m: Cancel): void {
}
export function readCancel(_r: WireReader): Cancel {
  return {

  };
}
export interface Failed {
  readonly kind: number;
  readonly errno: number;
  readonly message: string;
}
export function writeFailed(w: WireWriter, m: Failed): void {
  w.u16(m.kind);
  w.u32(m.errno);
  w.str(m.message);
}
export function readFailed(r: WireReader): Failed {
  return {
    kind: r.u16(),
    errno: r.u32(),
    message: r.str(),
  };
}
export type Done = Record<never, never>;
export function writeDone(_w: WireWriter, _m: Done): void {
}
export function readDone(_r: WireReader): Done {
  return {

  };
}
export interface Exec {
  readonly argv: readonly Uint8Array[];
  readonly env: readonly Uint8Array[];
  readonly cwd: Uint8Array;
  readonly user: string;
  readonly stdin: number;
  readonly pty: boolean;
  readonly rows: number;
  readonly cols: number;
  readonly rlimits: readonly Rlimit[];
  readonly killOnCancel: boolean;
  readonly record: boolean;
}
export function writeExec(w: WireWriter, m: Exec): void {
  w.list(m.argv, (v) => w.bytes(v));
  w.list(m.env, (v) => w.bytes(v));
  w.bytes(m.cwd);
  w.str(m.user);
  w.u8(m.stdin);
  w.bool(m.pty);
  w.u16(m.rows);
  w.u16(m.cols);
  w.list(m.rlimits, (v) => writeRlimit(w, v));
  w.bool(m.killOnCancel);
  w.bool(m.record);
}
export function readExec(r: WireReader): Exec {
  return {
    argv: r.list(() => r.bytes()),
    env: r.list(() => r.bytes()),
    cwd: r.bytes(),
    user: r.str(),
    stdin: r.u8(),
    pty: r.bool(),
    rows: r.u16(),
    cols: r.u16(),
    rlimits: r.list(() => readRlimit(r)),
    killOnCancel: r.bool(),
    record: r.bool(),
  };
}
export interface Connect {
  readonly pid: number;
}
export function writeConnect(w: WireWriter, m: Connect): void {
  w.u32(m.pid);
}
export function readConnect(r: WireReader): Connect {
  return {
    pid: r.u32(),
  };
}
export interface Started {
  readonly pid: number;
  readonly stdoutOffset: bigint;
  readonly stderrOffset: bigint;
}
export function writeStarted(w: WireWriter, m: Started): void {
  w.u32(m.pid);
  w.u64(m.stdoutOffset);
  w.u64(m.stderrOffset);
}
export function readStarted(r: WireReader): Started {
  return {
    pid: r.u32(),
    stdoutOffset: r.u64(),
    stderrOffset: r.u64(),
  };
}
export interface Signal {
  readonly signal: number;
  readonly group: boolean;
}
export function writeSignal(w: WireWriter, m: Signal): void {
  w.u8(m.signal);
  w.bool(m.group);
}
export function readSignal(r: WireReader): Signal {
  return {
    signal: r.u8(),
    group: r.bool(),
  };
}
export interface Resize {
  readonly rows: number;
  readonly cols: number;
}
export function writeResize(w: WireWriter, m: Resize): void {
  w.u16(m.rows);
  w.u16(m.cols);
}
export function readResize(r: WireReader): Resize {
  return {
    rows: r.u16(),
    cols: r.u16(),
  };
}
export interface Exited {
  readonly code: number;
  readonly signal: number;
  readonly coreDumped: boolean;
  readonly userMs: bigint;
  readonly systemMs: bigint;
  readonly maxRssBytes: bigint;
}
export function writeExited(w: WireWriter, m: Exited): void {
  w.i32(m.code);
  w.u8(m.signal);
  w.bool(m.coreDumped);
  w.u64(m.userMs);
  w.u64(m.systemMs);
  w.u64(m.maxRssBytes);
}
export function readExited(r: WireReader): Exited {
  return {
    code: r.i32(),
    signal: r.u8(),
    coreDumped: r.bool(),
    userMs: r.u64(),
    systemMs: r.u64(),
    maxRssBytes: r.u64(),
  };
}
export interface SignalProcess {
  readonly pid: number;
  readonly signal: number;
  readonly group: boolean;
}
export function writeSignalProcess(w: WireWriter, m: SignalProcess): void {
  w.u32(m.pid);
  w.u8(m.signal);
  w.bool(m.group);
}
export function readSignalProcess(r: WireReader): SignalProcess {
  return {
    pid: r.u32(),
    signal: r.u8(),
    group: r.bool(),
  };
}
export type ListProcesses = Record<never, never>;
export function writeListProcesses(_w: WireWriter, _m: ListProcesses): void {
}
export function readListProcesses(_r: WireReader): ListProcesses {
  return {

  };
}
export type GetUsage = Record<never, never>;
export function writeGetUsage(_w: WireWriter, _m: GetUsage): void {
}
export function readGetUsage(_r: WireReader): GetUsage {
  return {

  };
}
export interface Usage {
  readonly processes: number;
  readonly memoryUsedBytes: bigint;
  readonly memoryTotalBytes: bigint;
  readonly cpus: number;
  readonly cpuMs: bigint;
  readonly uptimeMs: bigint;
  readonly diskUsedBytes: bigint;
  readonly diskTotalBytes: bigint;
  readonly agentRssBytes: bigint;
}
export function writeUsage(w: WireWriter, m: Usage): void {
  w.u32(m.processes);
  w.u64(m.memoryUsedBytes);
  w.u64(m.memoryTotalBytes);
  w.u32(m.cpus);
  w.u64(m.cpuMs);
  w.u64(m.uptimeMs);
  w.u64(m.diskUsedBytes);
  w.u64(m.diskTotalBytes);
  w.u64(m.agentRssBytes);
}
export function readUsage(r: WireReader): Usage {
  return {
    processes: r.u32(),
    memoryUsedBytes: r.u64(),
    memoryTotalBytes: r.u64(),
    cpus: r.u32(),
    cpuMs: r.u64(),
    uptimeMs: r.u64(),
    diskUsedBytes: r.u64(),
    diskTotalBytes: r.u64(),
    agentRssBytes: r.u64(),
  };
}
export interface PrepareGuest {
  readonly rootDevice: string;
  readonly upperDevice: string;
  readonly upperBytes: bigint;
  readonly upperInodes: bigint;
  readonly hostname: string;
  readonly machineId: string;
  readonly seed: Uint8Array;
  readonly realtimeNs: bigint;
  readonly pids: bigint;
  readonly memoryBytes: bigint;
  readonly resolver: string;
}
export function writePrepareGuest(w: WireWriter, m: PrepareGuest): void {
  w.str(m.rootDevice);
  w.str(m.upperDevice);
  w.u64(m.upperBytes);
  w.u64(m.upperInodes);
  w.str(m.hostname);
  w.str(m.machineId);
  w.bytes(m.seed);
  w.i64(m.realtimeNs);
  w.u64(m.pids);
  w.u64(m.memoryBytes);
  w.str(m.resolver);
}
export function readPrepareGuest(r: WireReader): PrepareGuest {
  return {
    rootDevice: r.str(),
    upperDevice: r.str(),
    upperBytes: r.u64(),
    upperInodes: r.u64(),
    hostname: r.str(),
    machineId: r.str(),
    seed: r.bytes(),
    realtimeNs: r.i64(),
    pids: r.u64(),
    memoryBytes: r.u64(),
    resolver: r.str(),
  };
}
export interface ReadFile {
  readonly path: Uint8Array;
  readonly offset: bigint;
  readonly length: bigint;
  readonly user: string;
}
export function writeReadFile(w: WireWriter, m: ReadFile): void {
  w.bytes(m.path);
  w.u64(m.offset);
  w.u64(m.length);
  w.str(m.user);
}
export function readReadFile(r: WireReader): ReadFile {
  return {
    path: r.bytes(),
    offset: r.u64(),
    length: r.u64(),
    user: r.str(),
  };
}
export interface WriteFile {
  readonly path: Uint8Array;
  readonly mode: number;
  readonly how: number;
  readonly makeParents: boolean;
  readonly user: string;
}
export function writeWriteFile(w: WireWriter, m: WriteFile): void {
  w.bytes(m.path);
  w.u32(m.mode);
  w.u8(m.how);
  w.bool(m.makeParents);
  w.str(m.user);
}
export function readWriteFile(r: WireReader): WriteFile {
  return {
    path: r.bytes(),
    mode: r.u32(),
    how: r.u8(),
    makeParents: r.bool(),
    user: r.str(),
  };
}
export interface Stat {
  readonly path: Uint8Array;
  readonly follow: boolean;
  readonly user: string;
}
export function writeStat(w: WireWriter, m: Stat): void {
  w.bytes(m.path);
  w.bool(m.follow);
  w.str(m.user);
}
export function readStat(r: WireReader): Stat {
  return {
    path: r.bytes(),
    follow: r.bool(),
    user: r.str(),
  };
}
export interface StatResult {
  readonly entry: Entry;
}
export function writeStatResult(w: WireWriter, m: StatResult): void {
  writeEntry(w, m.entry);
}
export function readStatResult(r: WireReader): StatResult {
  return {
    entry: readEntry(r),
  };
}
export interface ListDirectory {
  readonly path: Uint8Array;
  readonly depth: number;
  readonly user: string;
}
export function writeListDirectory(w: WireWriter, m: ListDirectory): void {
  w.bytes(m.path);
  w.u16(m.depth);
  w.str(m.user);
}
export function readListDirectory(r: WireReader): ListDirectory {
  return {
    path: r.bytes(),
    depth: r.u16(),
    user: r.str(),
  };
}
export interface MakeDirectory {
  readonly path: Uint8Array;
  readonly mode: number;
  readonly parents: boolean;
  readonly user: string;
}
export function writeMakeDirectory(w: WireWriter, m: MakeDirectory): void {
  w.bytes(m.path);
  w.u32(m.mode);
  w.bool(m.parents);
  w.str(m.user);
}
export function readMakeDirectory(r: WireReader): MakeDirectory {
  return {
    path: r.bytes(),
    mode: r.u32(),
    parents: r.bool(),
    user: r.str(),
  };
}
export interface Move {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
  readonly overwrite: boolean;
  readonly user: string;
}
export function writeMove(w: WireWriter, m: Move): void {
  w.bytes(m.from);
  w.bytes(m.to);
  w.bool(m.overwrite);
  w.str(m.user);
}
export function readMove(r: WireReader): Move {
  return {
    from: r.bytes(),
    to: r.bytes(),
    overwrite: r.bool(),
    user: r.str(),
  };
}
export interface Remove {
  readonly path: Uint8Array;
  readonly recursive: boolean;
  readonly user: string;
}
export function writeRemove(w: WireWriter, m: Remove): void {
  w.bytes(m.path);
  w.bool(m.recursive);
  w.str(m.user);
}
export function readRemove(r: WireReader): Remove {
  return {
    path: r.bytes(),
    recursive: r.bool(),
    user: r.str(),
  };
}
export interface ChangeMode {
  readonly path: Uint8Array;
  readonly mode: number;
  readonly user: string;
}
export function writeChangeMode(w: WireWriter, m: ChangeMode): void {
  w.bytes(m.path);
  w.u32(m.mode);
  w.str(m.user);
}
export function readChangeMode(r: WireReader): ChangeMode {
  return {
    path: r.bytes(),
    mode: r.u32(),
    user: r.str(),
  };
}
export interface ChangeOwner {
  readonly path: Uint8Array;
  readonly owner: string;
  readonly group: string;
  readonly user: string;
}
export function writeChangeOwner(w: WireWriter, m: ChangeOwner): void {
  w.bytes(m.path);
  w.str(m.owner);
  w.str(m.group);
  w.str(m.user);
}
export function readChangeOwner(r: WireReader): ChangeOwner {
  return {
    path: r.bytes(),
    owner: r.str(),
    group: r.str(),
    user: r.str(),
  };
}
export interface Watch {
  readonly path: Uint8Array;
  readonly recursive: boolean;
  readonly user: string;
}
export function writeWatch(w: WireWriter, m: Watch): void {
  w.bytes(m.path);
  w.bool(m.recursive);
  w.str(m.user);
}
export function readWatch(r: WireReader): Watch {
  return {
    path: r.bytes(),
    recursive: r.bool(),
    user: r.str(),
  };
}
export type Opened = Record<never, never>;
export function writeOpened(_w: WireWriter, _m: Opened): void {
}
export function readOpened(_r: WireReader): Opened {
  return {

  };
}
export interface Written {
  readonly bytes: bigint;
}
export function writeWritten(w: WireWriter, m: Written): void {
  w.u64(m.bytes);
}
export function readWritten(r: WireReader): Written {
  return {
    bytes: r.u64(),
  };
}
export interface MakeSymlink {
  readonly path: Uint8Array;
  readonly target: Uint8Array;
  readonly user: string;
}
export function writeMakeSymlink(w: WireWriter, m: MakeSymlink): void {
  w.bytes(m.path);
  w.bytes(m.target);
  w.str(m.user);
}
export function readMakeSymlink(r: WireReader): MakeSymlink {
  return {
    path: r.bytes(),
    target: r.bytes(),
    user: r.str(),
  };
}
export interface ChangeTime {
  readonly path: Uint8Array;
  readonly mtimeNs: bigint;
  readonly user: string;
}
export function writeChangeTime(w: WireWriter, m: ChangeTime): void {
  w.bytes(m.path);
  w.i64(m.mtimeNs);
  w.str(m.user);
}
export function readChangeTime(r: WireReader): ChangeTime {
  return {
    path: r.bytes(),
    mtimeNs: r.i64(),
    user: r.str(),
  };
}
export interface DialTcp {
  readonly address: string;
  readonly port: number;
}
export function writeDialTcp(w: WireWriter, m: DialTcp): void {
  w.str(m.address);
  w.u16(m.port);
}
export function readDialTcp(r: WireReader): DialTcp {
  return {
    address: r.str(),
    port: r.u16(),
  };
}
export interface DialUnix {
  readonly path: Uint8Array;
  readonly user: string;
}
export function writeDialUnix(w: WireWriter, m: DialUnix): void {
  w.bytes(m.path);
  w.str(m.user);
}
export function readDialUnix(r: WireReader): DialUnix {
  return {
    path: r.bytes(),
    user: r.str(),
  };
}
export interface MountShared {
  readonly tag: string;
  readonly mounts: readonly SharedMount[];
}
export function writeMountShared(w: WireWriter, m: MountShared): void {
  w.str(m.tag);
  w.list(m.mounts, (v) => writeSharedMount(w, v));
}
export function readMountShared(r: WireReader): MountShared {
  return {
    tag: r.str(),
    mounts: r.list(() => readSharedMount(r)),
  };
}
export interface RefreshGuest {
  readonly realtimeNs: bigint;
  readonly seed: Uint8Array;
  readonly hostname: string;
  readonly machineId: string;
  readonly bootId: string;
}
export function writeRefreshGuest(w: WireWriter, m: RefreshGuest): void {
  w.i64(m.realtimeNs);
  w.bytes(m.seed);
  w.str(m.hostname);
  w.str(m.machineId);
  w.str(m.bootId);
}
export function readRefreshGuest(r: WireReader): RefreshGuest {
  return {
    realtimeNs: r.i64(),
    seed: r.bytes(),
    hostname: r.str(),
    machineId: r.str(),
    bootId: r.str(),
  };
}
export interface OpenEgress {
  readonly resolver: string;
}
export function writeOpenEgress(w: WireWriter, m: OpenEgress): void {
  w.str(m.resolver);
}
export function readOpenEgress(r: WireReader): OpenEgress {
  return {
    resolver: r.str(),
  };
}
export interface TakeConnection {
  readonly id: number;
  readonly windowBytes: number;
}
export function writeTakeConnection(w: WireWriter, m: TakeConnection): void {
  w.u32(m.id);
  w.u32(m.windowBytes);
}
export function readTakeConnection(r: WireReader): TakeConnection {
  return {
    id: r.u32(),
    windowBytes: r.u32(),
  };
}
export interface Recorded {
  readonly calls: readonly RecordedCall[];
}
export function writeRecorded(w: WireWriter, m: Recorded): void {
  w.list(m.calls, (v) => writeRecordedCall(w, v));
}
export function readRecorded(r: WireReader): Recorded {
  return {
    calls: r.list(() => readRecordedCall(r)),
  };
}
export const TYPE = {
  Hello: 1,
  Ping: 2,
  Pong: 3,
  Configure: 4,
  Shutdown: 5,
  LimitHit: 6,
  Data: 16,
  End: 17,
  Credit: 18,
  Cancel: 19,
  Failed: 20,
  Done: 21,
  Exec: 32,
  Connect: 33,
  Started: 34,
  Signal: 35,
  Resize: 36,
  Exited: 37,
  SignalProcess: 38,
  ListProcesses: 39,
  GetUsage: 40,
  Usage: 41,
  PrepareGuest: 42,
  ReadFile: 48,
  WriteFile: 49,
  Stat: 50,
  StatResult: 51,
  ListDirectory: 52,
  MakeDirectory: 53,
  Move: 54,
  Remove: 55,
  ChangeMode: 56,
  ChangeOwner: 57,
  Watch: 58,
  Opened: 59,
  Written: 60,
  MakeSymlink: 61,
  ChangeTime: 62,
  DialTcp: 64,
  DialUnix: 65,
  MountShared: 80,
  RefreshGuest: 90,
  OpenEgress: 100,
  TakeConnection: 101,
  Recorded: 120,
} as const;

export type Message =
  | { readonly name: "Hello"; readonly body: Hello }
  | { readonly name: "Ping"; readonly body: Ping }
  | { readonly name: "Pong"; readonly body: Pong }
  | { readonly name: "Configure"; readonly body: Configure }
  | { readonly name: "Shutdown"; readonly body: Shutdown }
  | { readonly name: "LimitHit"; readonly body: LimitHit }
  | { readonly name: "End"; readonly body: End }
  | { readonly name: "Credit"; readonly body: Credit }
  | { readonly name: "Cancel"; readonly body: Cancel }
  | { readonly name: "Failed"; readonly body: Failed }
  | { readonly name: "Done"; readonly body: Done }
  | { readonly name: "Exec"; readonly body: Exec }
  | { readonly name: "Connect"; readonly body: Connect }
  | { readonly name: "Started"; readonly body: Started }
  | { readonly name: "Signal"; readonly body: Signal }
  | { readonly name: "Resize"; readonly body: Resize }
  | { readonly name: "Exited"; readonly body: Exited }
  | { readonly name: "SignalProcess"; readonly body: SignalProcess }
  | { readonly name: "ListProcesses"; readonly body: ListProcesses }
  | { readonly name: "GetUsage"; readonly body: GetUsage }
  | { readonly name: "Usage"; readonly body: Usage }
  | { readonly name: "PrepareGuest"; readonly body: PrepareGuest }
  | { readonly name: "ReadFile"; readonly body: ReadFile }
  | { readonly name: "WriteFile"; readonly body: WriteFile }
  | { readonly name: "Stat"; readonly body: Stat }
  | { readonly name: "StatResult"; readonly body: StatResult }
  | { readonly name: "ListDirectory"; readonly body: ListDirectory }
  | { readonly name: "MakeDirectory"; readonly body: MakeDirectory }
  | { readonly name: "Move"; readonly body: Move }
  | { readonly name: "Remove"; readonly body: Remove }
  | { readonly name: "ChangeMode"; readonly body: ChangeMode }
  | { readonly name: "ChangeOwner"; readonly body: ChangeOwner }
  | { readonly name: "Watch"; readonly body: Watch }
  | { readonly name: "Opened"; readonly body: Opened }
  | { readonly name: "Written"; readonly body: Written }
  | { readonly name: "MakeSymlink"; readonly body: MakeSymlink }
  | { readonly name: "ChangeTime"; readonly body: ChangeTime }
  | { readonly name: "DialTcp"; readonly body: DialTcp }
  | { readonly name: "DialUnix"; readonly body: DialUnix }
  | { readonly name: "MountShared"; readonly body: MountShared }
  | { readonly name: "RefreshGuest"; readonly body: RefreshGuest }
  | { readonly name: "OpenEgress"; readonly body: OpenEgress }
  | { readonly name: "TakeConnection"; readonly body: TakeConnection }
  | { readonly name: "Recorded"; readonly body: Recorded }
  ;

export const TO_AGENT = new Set<number>([
  2, 4, 5, 16, 17, 18, 19, 32, 33, 35, 36, 38, 39, 40, 42, 48, 49, 50, 52, 53, 54, 55, 56, 57, 58, 61, 62, 64, 65, 80, 90, 100, 101,
]);
export const TO_HOST = new Set<number>([
  1, 3, 6, 16, 17, 18, 20, 21, 34, 37, 41, 51, 59, 60, 120,
]);
export const OPENS = new Set<number>([
  32, 33, 38, 39, 40, 42, 48, 49, 50, 52, 53, 54, 55, 56, 57, 58, 61, 62, 64, 65, 80, 90, 100, 101,
]);

export function writeMessage(w: WireWriter, message: Message): number {
  switch (message.name) {
    case "Hello":
      writeHello(w, message.body);
      return 1;
    case "Ping":
      writePing(w, message.body);
      return 2;
    case "Pong":
      writePong(w, message.body);
      return 3;
    case "Configure":
      writeConfigure(w, message.body);
      return 4;
    case "Shutdown":
      writeShutdown(w, message.body);
      return 5;
    case "LimitHit":
      writeLimitHit(w, message.body);
      return 6;
    case "End":
      writeEnd(w, message.body);
      return 17;
    case "Credit":
      writeCredit(w, message.body);
      return 18;
    case "Cancel":
      writeCancel(w, message.body);
      return 19;
    case "Failed":
      writeFailed(w, message.body);
      return 20;
    case "Done":
      writeDone(w, message.body);
      return 21;
    case "Exec":
      writeExec(w, message.body);
      return 32;
    case "Connect":
      writeConnect(w, message.body);
      return 33;
    case "Started":
      writeStarted(w, message.body);
      return 34;
    case "Signal":
      writeSignal(w, message.body);
      return 35;
    case "Resize":
      writeResize(w, message.body);
      return 36;
    case "Exited":
      writeExited(w, message.body);
      return 37;
    case "SignalProcess":
      writeSignalProcess(w, message.body);
      return 38;
    case "ListProcesses":
      writeListProcesses(w, message.body);
      return 39;
    case "GetUsage":
      writeGetUsage(w, message.body);
      return 40;
    case "Usage":
      writeUsage(w, message.body);
      return 41;
    case "PrepareGuest":
      writePrepareGuest(w, message.body);
      return 42;
    case "ReadFile":
      writeReadFile(w, message.body);
      return 48;
    case "WriteFile":
      writeWriteFile(w, message.body);
      return 49;
    case "Stat":
      writeStat(w, message.body);
      return 50;
    case "StatResult":
      writeStatResult(w, message.body);
      return 51;
    case "ListDirectory":
      writeListDirectory(w, message.body);
      return 52;
    case "MakeDirectory":
      writeMakeDirectory(w, message.body);
      return 53;
    case "Move":
      writeMove(w, message.body);
      return 54;
    case "Remove":
      writeRemove(w, message.body);
      return 55;
    case "ChangeMode":
      writeChangeMode(w, message.body);
      return 56;
    case "ChangeOwner":
      writeChangeOwner(w, message.body);
      return 57;
    case "Watch":
      writeWatch(w, message.body);
      return 58;
    case "Opened":
      writeOpened(w, message.body);
      return 59;
    case "Written":
      writeWritten(w, message.body);
      return 60;
    case "MakeSymlink":
      writeMakeSymlink(w, message.body);
      return 61;
    case "ChangeTime":
      writeChangeTime(w, message.body);
      return 62;
    case "DialTcp":
      writeDialTcp(w, message.body);
      return 64;
    case "DialUnix":
      writeDialUnix(w, message.body);
      return 65;
    case "MountShared":
      writeMountShared(w, message.body);
      return 80;
    case "RefreshGuest":
      writeRefreshGuest(w, message.body);
      return 90;
    case "OpenEgress":
      writeOpenEgress(w, message.body);
      return 100;
    case "TakeConnection":
      writeTakeConnection(w, message.body);
      return 101;
    case "Recorded":
      writeRecorded(w, message.body);
      return 120;
  }
}

/** @returns null for a type this generation does not know. */
export function readMessage(type: number, r: WireReader): Message | null {
  switch (type) {
    case 1:
      return { name: "Hello", body: readHello(r) };
    case 2:
      return { name: "Ping", body: readPing(r) };
    case 3:
      return { name: "Pong", body: readPong(r) };
    case 4:
      return { name: "Configure", body: readConfigure(r) };
    case 5:
      return { name: "Shutdown", body: readShutdown(r) };
    case 6:
      return { name: "LimitHit", body: readLimitHit(r) };
    case 17:
      return { name: "End", body: readEnd(r) };
    case 18:
      return { name: "Credit", body: readCredit(r) };
    case 19:
      return { name: "Cancel", body: readCancel(r) };
    case 20:
      return { name: "Failed", body: readFailed(r) };
    case 21:
      return { name: "Done", body: readDone(r) };
    case 32:
      return { name: "Exec", body: readExec(r) };
    case 33:
      return { name: "Connect", body: readConnect(r) };
    case 34:
      return { name: "Started", body: readStarted(r) };
    case 35:
      return { name: "Signal", body: readSignal(r) };
    case 36:
      return { name: "Resize", body: readResize(r) };
    case 37:
      return { name: "Exited", body: readExited(r) };
    case 38:
      return { name: "SignalProcess", body: readSignalProcess(r) };
    case 39:
      return { name: "ListProcesses", body: readListProcesses(r) };
    case 40:
      return { name: "GetUsage", body: readGetUsage(r) };
    case 41:
      return { name: "Usage", body: readUsage(r) };
    case 42:
      return { name: "PrepareGuest", body: readPrepareGuest(r) };
    case 48:
      return { name: "ReadFile", body: readReadFile(r) };
    case 49:
      return { name: "WriteFile", body: readWriteFile(r) };
    case 50:
      return { name: "Stat", body: readStat(r) };
    case 51:
      return { name: "StatResult", body: readStatResult(r) };
    case 52:
      return { name: "ListDirectory", body: readListDirectory(r) };
    case 53:
      return { name: "MakeDirectory", body: readMakeDirectory(r) };
    case 54:
      return { name: "Move", body: readMove(r) };
    case 55:
      return { name: "Remove", body: readRemove(r) };
    case 56:
      return { name: "ChangeMode", body: readChangeMode(r) };
    case 57:
      return { name: "ChangeOwner", body: readChangeOwner(r) };
    case 58:
      return { name: "Watch", body: readWatch(r) };
    case 59:
      return { name: "Opened", body: readOpened(r) };
    case 60:
      return { name: "Written", body: readWritten(r) };
    case 61:
      return { name: "MakeSymlink", body: readMakeSymlink(r) };
    case 62:
      return { name: "ChangeTime", body: readChangeTime(r) };
    case 64:
      return { name: "DialTcp", body: readDialTcp(r) };
    case 65:
      return { name: "DialUnix", body: readDialUnix(r) };
    case 80:
      return { name: "MountShared", body: readMountShared(r) };
    case 90:
      return { name: "RefreshGuest", body: readRefreshGuest(r) };
    case 100:
      return { name: "OpenEgress", body: readOpenEgress(r) };
    case 101:
      return { name: "TakeConnection", body: readTakeConnection(r) };
    case 120:
      return { name: "Recorded", body: readRecorded(r) };
    default:
      return null;
  }
}
