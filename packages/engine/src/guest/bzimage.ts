import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { BulkheadError } from "@bulkhead/contract";
import { LZ4_LEGACY_MAGIC, unpackLz4Legacy } from "./lz4.ts";

/** Fields of the setup header (kernel: Documentation/x86/boot.rst). */
const SETUP_SECTORS = 0x1f1;
const HEADER_MAGIC = 0x202;
const VERSION = 0x206;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const MAGIC = "HdrS";
/** The first version of the header that says where the payload is. */
const VERSION_MIN = 0x208;
const SECTOR_BYTES = 512;
/** The build appends the unpacked size; gzip ends in it anyway. */
const SIZE_BYTES = 4;
/** Debian's is 53 MB. */
const UNPACKED_MAX_BYTES = 512 * 1024 * 1024;

/** ELF64 (elf.h), and the note that names the PVH entry point (Xen: public/elfnote.h). */
const ELF = { phoff: 32, phentsize: 54, phnum: 56, machine: 18, identBytes: 20 } as const;
const ELF64_LITTLE_ENDIAN = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
const MACHINE_X86_64 = 62;
const PT_NOTE = 4;
const PVH_NOTE_TYPE = 18;
const PVH_NOTE_NAME = "Xen\0";
const NOTE_ALIGNMENT = 4;

/** Unpacks an xz stream, for which Node.js has nothing. */
export type UnpackXz = (data: Buffer) => Promise<Buffer>;

/**
 * Takes the kernel itself out of a bzImage: an ELF file that starts by PVH, without the code that would unpack and move it
 * at every start.
 *
 * @throws BulkheadError RUNTIME_FAILED when this is no such image, is damaged, or its kernel does not start by PVH
 */
export async function extractVmlinux(image: Buffer, unpackXz: UnpackXz): Promise<Buffer> {
  try {
    const { payload, size } = locate(image);
    const kernel = await unpack(payload, size, unpackXz);
    if (kernel.length !== size) throw new RangeError(`it unpacks to ${kernel.length} bytes, ${size} were announced`);
    if (!startsByPvh(kernel)) throw new RangeError("the kernel in it has no PVH entry point");
    return kernel;
  } catch (cause) {
    if (cause instanceof BulkheadError) throw cause;
    throw new BulkheadError("RUNTIME_FAILED", {
      what: "this kernel image cannot be used for guests",
      why: cause instanceof Error ? cause.message : String(cause),
      next: "build the guest kernel instead: bulkhead setup microvm",
      cause,
    });
  }
}

function locate(image: Buffer): { readonly payload: Buffer; readonly size: number } {
  const magic = image.toString("latin1", HEADER_MAGIC, HEADER_MAGIC + MAGIC.length);
  if (magic !== MAGIC || image.readUInt16LE(VERSION) < VERSION_MIN) throw new RangeError("it is no bzImage");
  // Zero means four, for very old loaders.
  const sectors = image.readUInt8(SETUP_SECTORS) || 4;
  const from = (sectors + 1) * SECTOR_BYTES + image.readUInt32LE(PAYLOAD_OFFSET);
  const length = image.readUInt32LE(PAYLOAD_LENGTH);
  if (length <= SIZE_BYTES || from + length > image.length) throw new RangeError("its payload lies outside of it");
  const payload = image.subarray(from, from + length);
  const size = payload.readUInt32LE(length - SIZE_BYTES);
  if (size > UNPACKED_MAX_BYTES) throw new RangeError(`it announces ${size} bytes`);
  return { payload, size };
}

async function unpack(payload: Buffer, size: number, unpackXz: UnpackXz): Promise<Buffer> {
  const data = payload.subarray(0, payload.length - SIZE_BYTES);
  const options = { maxOutputLength: Math.max(1, size) };
  if (data.readUInt32LE(0) === LZ4_LEGACY_MAGIC) return unpackLz4Legacy(data, size);
  if (data.readUInt32BE(0) === 0x28b52ffd) return zstdDecompressSync(data, options);
  if (data.readUInt16BE(0) === 0x1f8b) return gunzipSync(payload, options);
  if (data.readUInt32BE(0) === 0xfd377a58) return unpackXz(data);
  throw new RangeError(`its payload is packed in an unknown way (${data.toString("hex", 0, 6)})`);
}

function startsByPvh(elf: Buffer): boolean {
  if (elf.length < ELF.identBytes || !elf.subarray(0, ELF64_LITTLE_ENDIAN.length).equals(ELF64_LITTLE_ENDIAN))
    return false;
  if (elf.readUInt16LE(ELF.machine) !== MACHINE_X86_64) return false;
  const [start, step, count] = [
    Number(elf.readBigUInt64LE(ELF.phoff)),
    elf.readUInt16LE(ELF.phentsize),
    elf.readUInt16LE(ELF.phnum),
  ];
  for (let at = start, index = 0; index < count; index += 1, at += step) {
    if (elf.readUInt32LE(at) !== PT_NOTE) continue;
    const [offset, length] = [Number(elf.readBigUInt64LE(at + 8)), Number(elf.readBigUInt64LE(at + 32))];
    if (hasPvhNote(elf.subarray(offset, offset + length))) return true;
  }
  return false;
}

function hasPvhNote(notes: Buffer): boolean {
  const aligned = (bytes: number): number => Math.ceil(bytes / NOTE_ALIGNMENT) * NOTE_ALIGNMENT;
  for (let at = 0; at + 12 <= notes.length;) {
    const [nameBytes, valueBytes, type] = [
      notes.readUInt32LE(at),
      notes.readUInt32LE(at + 4),
      notes.readUInt32LE(at + 8),
    ];
    if (type === PVH_NOTE_TYPE && notes.toString("latin1", at + 12, at + 12 + nameBytes) === PVH_NOTE_NAME) return true;
    at += 12 + aligned(nameBytes) + aligned(valueBytes);
  }
  return false;
}
