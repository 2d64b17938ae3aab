/** A seccomp program's verdict, as the kernel's interpreter gives it. */
import { AND, JUMP, JUMP_ABOVE, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, RETURN, type Instruction } from "../seccomp/bpf.ts";

export interface Call {
  readonly number: number;
  readonly arch: number;
  readonly args: readonly bigint[];
}

function memory(call: Call): DataView {
  const view = new DataView(new ArrayBuffer(64));
  view.setUint32(0, call.number, true);
  view.setUint32(4, call.arch, true);
  for (const [index, value] of call.args.entries()) view.setBigUint64(16 + 8 * index, value, true);
  return view;
}

/** Runs a program as the kernel does; leaves by throwing what the kernel's checker would refuse. */
export function run(program: readonly Instruction[], call: Call): number {
  const data = memory(call);
  let accumulator = 0;
  for (let at = 0; at < program.length; at += 1) {
    const { code, jt, jf, k } = program[at]!;
    if (code === LOAD) accumulator = data.getUint32(k, true);
    else if (code === AND) accumulator = (accumulator & k) >>> 0;
    else if (code === JUMP) at += k;
    else if (code === JUMP_EQUAL) at += accumulator === k ? jt : jf;
    else if (code === JUMP_ABOVE) at += accumulator > k ? jt : jf;
    else if (code === JUMP_AT_LEAST) at += accumulator >= k ? jt : jf;
    else if (code === RETURN) return k;
    else throw new Error(`unknown instruction ${code} at ${at}`);
  }
  throw new Error("fell off the end");
}
