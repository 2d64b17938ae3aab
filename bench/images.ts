import { randomBytes } from "node:crypto";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Layout, tarOfFiles } from "../tests/images/support/layout.ts";
import { lackingRegistry, startRegistry, type Registry } from "../tests/images/support/registry.ts";
import type { Lab } from "./lab.ts";
import type { Bench, Column, Result } from "./parts.ts";
import { type Images, type Peer, PYTHON } from "./peer.ts";
import { interleave, type Series } from "./schedule.ts";
import { output } from "./timing.ts";

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
/** Images that have all but one small layer in common. */
const MANY = 10;
const OWN_LAYER_BYTES = MIB;

const COLUMNS: readonly Column[] = [
  { key: "pulled", title: "pull to python's first byte", unit: "ms", p95: false },
  { key: "warm", title: "the same again", unit: "ms", p95: false },
  { key: "disk", title: `disk of ${MANY} images`, unit: "MiB", p95: false },
  { key: "converted", title: "file for VMs, per GiB", unit: "ms", p95: false },
];

interface Shelf {
  readonly references: readonly string[];
  /** Unpacked, of one image. */
  readonly bytes: number;
}

/** The base image and a small layer, so many times; the large layer is the same in all. */
async function fill(registry: Registry, lab: Lab): Promise<Shelf> {
  // As it was packed for the peers and one file more: podman would find that it has the same layer already.
  const tar = join(lab.directory, "more.tar");
  await output(["cp", join(lab.directory, "image.tar"), tar]);
  await writeFile(join(lab.directory, "more"), "");
  await output(["tar", "--append", "--file", tar, "--directory", lab.directory, "more"]);
  const base = await readFile(tar);
  const layout = new Layout(join(lab.directory, "layout"));
  const large = layout.layer(base, "gzip");
  const references: string[] = [];
  for (let i = 0; i < MANY; i += 1) {
    const own = tarOfFiles({ "opt/own": randomBytes(OWN_LAYER_BYTES) });
    layout.tag(`${i}`, layout.image({ layers: [base, own], made: [large, layout.layer(own, "gzip")] }));
    await registry.push(layout.dir, `${i}`, `bench:${i}`);
    references.push(`${registry.host}/bench:${i}`);
  }
  return { references, bytes: (await stat(tar)).size };
}

async function weighed(images: Images, { references, bytes }: Shelf): Promise<Record<string, number>> {
  await images.forget(references);
  const before = await images.diskBytes();
  for (const reference of references) await images.pull(reference);
  const disk = ((await images.diskBytes()) - before) / MIB;
  if (images.convert === undefined) return { disk };
  const started = performance.now();
  await images.convert(references[0] ?? "");
  return { disk, converted: ((performance.now() - started) * GIB) / bytes };
}

/** Pulling, starting and keeping images of a registry on loopback, by what a person types. */
export async function measureImages(bench: Bench, lab: Lab, peers: readonly Peer[]): Promise<Result> {
  const title = "an image from a registry";
  const lacking = lackingRegistry();
  if (lacking.length > 0) {
    const failure = `this machine lacks ${lacking.join(", ")}`;
    return { part: "images", title, columns: COLUMNS, series: [{ name: "images", values: {}, busy: 0, failure }] };
  }
  await using registry = await startRegistry();
  bench.progress("filling a registry");
  const shelf = await fill(registry, lab);
  const [first = ""] = shelf.references;
  const withImages = peers.flatMap(({ name, images }) => (images === undefined ? [] : [{ name, images }]));
  const entries = withImages.map(({ name, images }) => ({
    name,
    run: async () => {
      await images.forget([first]);
      const pulled = await images.run(first, PYTHON);
      const warm = await images.run(first, PYTHON);
      return { pulled: pulled.firstMs, warm: warm.firstMs };
    },
  }));
  const timed = await interleave(entries, { ...bench, rounds: bench.options.quick ? 1 : 3, warmups: 0 });
  const series: Series[] = [];
  for (const one of timed) {
    const images = withImages.find(({ name }) => name === one.name)?.images;
    if (images === undefined || one.failure !== null) series.push(one);
    else {
      bench.progress(`weighing images of ${one.name}`);
      const values = Object.entries(await weighed(images, shelf)).map(([key, value]) => [key, [value]] as const);
      series.push({ ...one, values: { ...one.values, ...Object.fromEntries(values) } });
    }
  }
  for (const { images } of withImages) await images.forget(shelf.references);
  return { part: "images", title, columns: COLUMNS, series };
}
