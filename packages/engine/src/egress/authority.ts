import { randomBytes, type webcrypto } from "node:crypto";
import type { Extension, X509Certificate } from "@peculiar/x509";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** No sandbox is meant to live longer; the key is in this process's memory alone and ends with the sandbox. */
const AUTHORITY_MS = 90 * DAY_MS;
const LEAF_MS = 7 * DAY_MS;
/** One is made anew this long before it ends: a connection is begun with it in that time at the latest. */
const LEAF_RENEWED_MS = DAY_MS;
/** A clock inside may be behind the host's. */
const SKEW_MS = HOUR_MS;
/** The same for every sandbox: the name of its file in a directory of certificates, trust.ts, depends on it. */
const SUBJECT = "CN=Bulkhead egress";

export interface Leaf {
  /** PEM. */
  readonly key: string;
  readonly cert: string;
}

/** Loaded by the first sandbox that has secrets: it takes longer than all the rest of its start. */
async function load() {
  // The library finds its parts by it, so it comes first.
  await import("reflect-metadata");
  const [x509, asn1, schema] = await Promise.all([
    import("@peculiar/x509"),
    import("@peculiar/asn1-x509"),
    import("@peculiar/asn1-schema"),
  ]);
  return { x509, asn1, schema };
}

type Library = Awaited<ReturnType<typeof load>>;
type Keys = webcrypto.CryptoKeyPair;

const makeKeys = async (extractable: boolean): Promise<Keys> =>
  (await crypto.subtle.generateKey(ALGORITHM, extractable, ["sign", "verify"])) as Keys;

/** A positive number of 127 bits that nobody can guess. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString("hex");
}

/** Whoever trusts the authority trusts it for these names and for no address. */
function constrainedTo(hosts: readonly string[], { x509, asn1, schema }: Library): Extension {
  const { GeneralName, GeneralSubtree, GeneralSubtrees, NameConstraints } = asn1;
  const trees = (names: readonly { dNSName?: string; iPAddress?: string }[]) =>
    new GeneralSubtrees(names.map((name) => new GeneralSubtree({ base: new GeneralName(name) })));
  const constraints = new NameConstraints({
    permittedSubtrees: trees(hosts.map((dNSName) => ({ dNSName }))),
    excludedSubtrees: trees([{ iPAddress: "0.0.0.0/0" }, { iPAddress: "::/0" }]),
  });
  return new x509.Extension(asn1.id_ce_nameConstraints, true, schema.AsnConvert.serialize(constraints));
}

/** A certificate authority of one sandbox: its key is never written anywhere, and it can speak for some names alone. */
export class Authority {
  readonly #certificate: X509Certificate;
  readonly #keys: Keys;
  readonly #library: Library;
  readonly #leaves = new Map<string, { readonly until: number; readonly leaf: Promise<Leaf> }>();

  private constructor(certificate: X509Certificate, keys: Keys, library: Library) {
    this.#certificate = certificate;
    this.#keys = keys;
    this.#library = library;
  }

  /** @param hosts canonical names, all it can speak for. */
  static async make(hosts: readonly string[]): Promise<Authority> {
    const [library, keys] = await Promise.all([load(), makeKeys(false)]);
    const { x509 } = library;
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: SUBJECT,
      keys,
      signingAlgorithm: ALGORITHM,
      notBefore: new Date(Date.now() - SKEW_MS),
      notAfter: new Date(Date.now() + AUTHORITY_MS),
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
        constrainedTo(hosts, library),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return new Authority(certificate, keys, library);
  }

  /** PEM. */
  get certificate(): string {
    return `${this.#certificate.toString("pem").trim()}\n`;
  }

  /** A certificate for one of its hosts, made when it is first asked for. */
  leaf(host: string): Promise<Leaf> {
    const known = this.#leaves.get(host);
    if (known !== undefined && known.until > Date.now()) return known.leaf;
    const leaf = this.#issue(host);
    this.#leaves.set(host, { until: Date.now() + LEAF_MS - LEAF_RENEWED_MS, leaf });
    return leaf;
  }

  async #issue(host: string): Promise<Leaf> {
    const { x509 } = this.#library;
    const keys = await makeKeys(true);
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: `${SUBJECT} leaf`,
      issuer: this.#certificate.subject,
      publicKey: keys.publicKey,
      signingKey: this.#keys.privateKey,
      signingAlgorithm: ALGORITHM,
      notBefore: new Date(Date.now() - SKEW_MS),
      notAfter: new Date(Date.now() + LEAF_MS),
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension([{ type: "dns", value: host }]),
        await x509.AuthorityKeyIdentifierExtension.create(this.#keys.publicKey),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    const pkcs8 = Buffer.from(await crypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
    const key = `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`;
    return { key, cert: certificate.toString("pem") };
  }
}
