/** Why a signature policy does not admit an image. */
export interface PolicyRefusal {
  readonly reason:
    | "unreadable-policy"
    | "unreadable-key"
    | "no-sigstore"
    | "unsigned"
    | "other-signer"
    | "other-name"
    | "other-content"
    | "rejected";
  readonly why: string;
  readonly next: string;
}

interface Reason extends PolicyRefusal {
  readonly pattern: RegExp;
}

/**
 * In skopeo's words. Of several signatures it says why each was not accepted, and one that came nearer tells more: so
 * those come first that know the key.
 */
const REASONS: readonly Reason[] = [
  {
    pattern: /trust policy/i,
    reason: "unreadable-policy",
    why: "the policy cannot be read, so nothing is admitted",
    next: "write /etc/containers/policy.json, or ~/.config/containers/policy.json, as containers-policy.json(5) says",
  },
  {
    pattern: /sigstore disabled/i,
    reason: "no-sigstore",
    why: "the skopeo of this host, as Debian builds it, checks no signatures of sigstore's",
    next: "have it signed with GPG too and let the policy ask for that (signedBy), or install a skopeo that checks them",
  },
  {
    pattern: /no public keys/i,
    reason: "unreadable-key",
    why: "no key can be had from the file that the policy names: it holds none, or gpg, which reads it, is not installed",
    next: "put the key there, and install gpg where it is not: apt-get install gpg",
  },
  {
    pattern: /no such file or directory|permission denied|failed to unmarshal|PEM/i,
    reason: "unreadable-key",
    why: "a key that the policy names cannot be read",
    next: "put the key where /etc/containers/policy.json says that it is, or have the policy say where it is",
  },
  {
    pattern: /Signature for identity/i,
    reason: "other-name",
    why: "its signature is for another name",
    next: "pull it by the name it was signed under, or let signedIdentity of the policy say which names are the same",
  },
  {
    pattern: /Signature for (?:docker )?(?:manifest )?digest/i,
    reason: "other-content",
    why: "its signature is for other content",
    next: "pull it again; if it stays so the registry or whoever keeps its signatures is damaged or hostile",
  },
  {
    pattern: /no signature exists/i,
    reason: "unsigned",
    why: "it has no signature",
    next: "have it signed, and say in /etc/containers/registries.d where its signatures are",
  },
  {
    pattern: /signature/i,
    reason: "other-signer",
    why: "it has no signature by a key that the policy trusts",
    next: "have it signed by one of those, or have whoever runs this host add the key to /etc/containers/policy.json",
  },
];

const REJECTED: PolicyRefusal = {
  reason: "rejected",
  why: "the policy takes nothing by this name, signed or not",
  next: "have whoever runs this host admit it in /etc/containers/policy.json",
};

/** @param said what skopeo gave as its reason */
export function policyRefusal(said: string): PolicyRefusal {
  // What it says of a policy without signatures ends in the same words for every image.
  const about = said.replace(/is rejected by policy.*$/, "").replace(/^.*Source image rejected: /, "");
  const found = /Running image/.test(about) ? undefined : REASONS.find(({ pattern }) => pattern.test(about));
  const { reason, why, next } = found ?? REJECTED;
  return { reason, why, next };
}
