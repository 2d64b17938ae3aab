import { execFileSync } from "node:child_process";
import { existsSync, globSync } from "node:fs";
import { join, relative } from "node:path";

/** Enough to say who and where one is. */
const PROGRAMS = ["bash", "cat", "dash", "id", "ls", "sh", "sleep", "touch", "uname"].map((name) => `usr/bin/${name}`);
const LIBRARIES = ["libc.so.6", "libtinfo.so.6*", "libselinux.so.1", "libpcre2-8.so.0*", "ld-linux*"];
const LINKS = ["bin", "lib", "lib64", "sbin", "usr/lib64"];

/** A small Debian below `dir`, taken from the base image's files: what `ls` and a shell need, and nothing else. */
export function smallDebian(rootfs: string, dir: string): void {
  const libraries = globSync(LIBRARIES.map((name) => join(rootfs, "usr/lib/*-linux-gnu*", name)));
  const files = [...LINKS, ...PROGRAMS, ...libraries.map((path) => relative(rootfs, path))];
  const there = files.filter((path) => existsSync(join(rootfs, path)));
  execFileSync("cp", ["--archive", "--parents", ...there, dir], { cwd: rootfs });
}
