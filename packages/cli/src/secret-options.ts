import { readFileSync, statSync } from "node:fs";
import { SPEC_RULES, type Secret } from "@bulkhead/contract";
import { usageError } from "./options.ts";

const NEXT = "write it like --secret 'api.example.com:authorization=Bearer env:API_TOKEN' or =file:PATH";

interface Source {
  readonly place: string;
  readonly host: string;
  readonly header: string;
  /** Stands before what is read, like `Bearer`, with one blank. */
  readonly scheme: string;
  readonly from: "env" | "file";
  readonly where: string;
}

/** Nothing after the first = is ever shown: somebody may have written the secret itself there. */
function sourceOf(text: string): Source {
  const [, place = "", host = "", header = "", what = ""] = /^(([^:=]+):([^:=]+))=(.*)$/s.exec(text) ?? [];
  const [, scheme = "", from, where = ""] = /^([A-Za-z][\w-]* )?(env|file):(.+)$/s.exec(what) ?? [];
  if (place === "" || from === undefined) {
    const shown = place === "" ? "--secret" : `--secret ${place}`;
    const why = "a secret is HOST:HEADER= and then env:NAME or file:PATH, so that no list of processes shows it";
    throw usageError(`${shown} is not valid`, why, NEXT);
  }
  return { place, host, header, scheme, from: from as "env" | "file", where };
}

function readSecretFile(option: string, path: string): string {
  try {
    const { size } = statSync(path);
    if (size > SPEC_RULES.secretValueMaxChars) {
      throw usageError(
        `${option}: ${path} has ${size} bytes`,
        `the value of a header has ${SPEC_RULES.secretValueMaxChars} at most`,
        "name a file that holds the secret alone",
      );
    }
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined || code === "SPEC_INVALID") throw error;
    throw usageError(`${option}: ${path} cannot be read`, code, "check the path and its mode");
  }
}

/** @param host variables of this process. @returns what `--secret` says, with the secret itself. */
export function parseSecretOption(text: string, host: Readonly<Record<string, string | undefined>>): Secret {
  const { place, scheme, from, where, ...rest } = sourceOf(text);
  const option = `--secret ${place}`;
  const found = from === "env" ? host[where] : readSecretFile(option, where);
  if (found === undefined) {
    throw usageError(`${option}: the variable ${where} is not set`, "the secret is read from it", "set and export it");
  }
  // Editors and echo end a file with a line feed that is no part of the secret.
  return { host: rest.host, header: rest.header, value: `${scheme}${found.replace(/\r?\n$/, "")}` };
}
