import { expect, test } from "vitest";
import { parseReference } from "./reference.ts";
import { lastMessage, pullError } from "./skopeo-errors.ts";

const source = parseReference("registry.example/team/denied:1");
const failed = (message: string, signal: NodeJS.Signals | null = null) =>
  pullError(source, {
    ...{ exitCode: signal === null ? 1 : null, signal, stdout: "", truncated: false },
    stderr: `warning\ntime="2026-01-01T00:00:00Z" level=fatal msg=${JSON.stringify(message)}\n`,
  });

test.each([
  [
    "pinging container registry x: Get https://x/v2/: x509: certificate signed by unknown authority",
    "IMAGE_PULL_FAILED",
  ],
  ["reading manifest 1 in x: unauthorized: authentication required", "IMAGE_DENIED"],
  ["reading manifest 1 in x: manifest unknown", "IMAGE_NOT_FOUND"],
  ["Source image rejected: Running image docker://x is rejected by policy.", "IMAGE_DENIED"],
  ["dial tcp: lookup x: no such host", "IMAGE_PULL_FAILED"],
  ["toomanyrequests: You have reached your pull rate limit", "IMAGE_PULL_FAILED"],
  ["write oci/oci-put-blob1: no space left on device", "HOST_RESOURCE"],
  ["write oci/oci-put-blob1: file too large", "IMAGE_REFUSED"],
  ["something nobody has thought of: registry.example/team/denied:1", "IMAGE_PULL_FAILED"],
])("%s: %s", (message, code) => {
  expect(failed(message)).toMatchObject({ code, details: { source: source.name } });
});

test.each([
  ["A signature was required, but no signature exists", "unsigned"],
  ['Invalid GPG signature: gpgme.Signature{Summary:128, Fingerprint:"AB"}', "other-signer"],
  ['Signature for identity "x/y:1" is not accepted', "other-name"],
  ['Signature for docker digest "sha256:1" is not accepted', "other-content"],
  [
    "None of the signatures were accepted, reasons: Invalid GPG signature: x; Signature for identity y is not accepted",
    "other-name",
  ],
  ["Debian-local change: sigstore disabled", "no-sigstore"],
  ["No public keys imported", "unreadable-key"],
  ["open /keys/team.gpg: no such file or directory", "unreadable-key"],
  ["Running image docker://registry.example/signature:1 is rejected by policy.", "rejected"],
])("of a policy: %s", (message, reason) => {
  const error = failed(`Source image rejected: ${message}`);
  expect(error).toMatchObject({ code: "IMAGE_DENIED", details: { kind: "policy", reason } });
});

test("a policy that cannot be read is one that admits nothing", () => {
  const message = "Error loading trust policy: open /etc/containers/policy.json: no such file or directory";
  expect(failed(message)).toMatchObject({ code: "IMAGE_DENIED", details: { reason: "unreadable-policy" } });
});

test("what is on this machine is never unreachable", () => {
  const local = parseReference("docker-archive:/images/not-found.tar");
  const of = (message: string) =>
    pullError(local, { ...{ exitCode: 1, signal: null, stdout: "", truncated: false }, stderr: `msg="${message}"` });
  const unreadable = { code: "IMAGE_REFUSED", details: { kind: "unreadable" } };
  expect(of("loading tar component manifest.json: unexpected EOF")).toMatchObject(unreadable);
  expect(of("open x/index.json: no such file or directory")).toMatchObject(unreadable);
  expect(of("choosing image: unexpected tar manifest.json: expected 1 item, got 2")).toMatchObject({
    code: "IMAGE_NOT_FOUND",
    details: { kind: "several" },
  });
});

test("killed for a file that grew beyond its limit is told as that", () => {
  expect(failed("", "SIGXFSZ")).toMatchObject({ code: "IMAGE_REFUSED", details: { kind: "too-large" } });
});

test("a registry's words are shown without what a terminal would act on", () => {
  expect(lastMessage('level=fatal msg="bad \\u001b[31mred"')).toBe("bad  [31mred");
  expect(lastMessage("\u001b]0;title\u0007plain")).toBe(" ]0;title plain");
  expect(lastMessage("x".repeat(5000))).toHaveLength(400);
});
