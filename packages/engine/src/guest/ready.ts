import { randomBytes } from "node:crypto";
import { MAGIC_ATTACH, MAGIC_ATTACHED } from "../channel/wire.gen.ts";

/** No agent speaks it: the answer says that the agent listens, and leaves no session behind. */
const NO_GENERATION = 255;
const NONCE_BYTES = 16;
/** Its value means nothing, only that none of its bytes may be 0. */
const TAG = 0x01010101;

/** A question to an agent that is to become a template: answered, but not remembered. */
export function readyProbe(): { readonly question: Buffer; readonly answer: Buffer } {
  const nonce = randomBytes(NONCE_BYTES);
  const question = Buffer.concat([
    Buffer.from(MAGIC_ATTACH, "hex"),
    Buffer.from([NO_GENERATION, NO_GENERATION, 0, 0]),
    tag(),
    nonce,
  ]);
  // Generation 0 means "none shared": the agent looks for another host.
  return { question, answer: Buffer.concat([Buffer.from(MAGIC_ATTACHED, "hex"), Buffer.from([0, 0, 0, 0]), nonce]) };
}

function tag(): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(TAG);
  return bytes;
}
