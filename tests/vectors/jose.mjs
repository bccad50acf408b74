// Envelopes and signatures by Node's WebCrypto. Questions and answers as in jose.py.

import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";

const { subtle } = webcrypto;
const OAEP = { name: "RSA-OAEP", hash: "SHA-256" };
const bytes = (text, form = "base64") => new Uint8Array(Buffer.from(text, form));
const url = (data) => Buffer.from(data).toString("base64url");
const head = (encoded) => JSON.parse(Buffer.from(encoded, "base64url").toString());
const gcm = (iv, header) => ({ name: "AES-GCM", iv, additionalData: Buffer.from(header), tagLength: 128 });

async function seal(publicKey, header, content) {
  const key = await subtle.importKey("spki", bytes(publicKey), OAEP, false, ["encrypt"]);
  const secret = webcrypto.getRandomValues(new Uint8Array(32));
  const iv = webcrypto.getRandomValues(new Uint8Array(12));
  const wrapped = await subtle.encrypt(OAEP, key, secret);
  const cipher = await subtle.importKey("raw", secret, "AES-GCM", false, ["encrypt"]);
  const sealed = new Uint8Array(await subtle.encrypt(gcm(iv, header), cipher, bytes(content)));
  const at = sealed.length - 16;
  return [header, url(wrapped), url(iv), url(sealed.slice(0, at)), url(sealed.slice(at))].join(".");
}

async function open(privateKey, envelope) {
  const [header, wrapped, iv, content, tag] = envelope.split(".");
  const { alg, enc } = head(header);
  if (alg !== "RSA-OAEP-256" || enc !== "A256GCM") throw new Error("algorithm");
  const key = await subtle.importKey("pkcs8", bytes(privateKey), OAEP, false, ["decrypt"]);
  const secret = await subtle.decrypt(OAEP, key, bytes(wrapped, "base64url"));
  const cipher = await subtle.importKey("raw", secret, "AES-GCM", false, ["decrypt"]);
  const sealed = Buffer.concat([bytes(content, "base64url"), bytes(tag, "base64url")]);
  const plain = await subtle.decrypt(gcm(bytes(iv, "base64url"), header), cipher, sealed);
  return Buffer.from(plain).toString("base64");
}

const input = (header, payload) => Buffer.from(`${header}.${url(bytes(payload))}`);

async function sign(privateKey, header, payload) {
  const key = await subtle.importKey("pkcs8", bytes(privateKey), "Ed25519", false, ["sign"]);
  return `${header}..${url(await subtle.sign("Ed25519", key, input(header, payload)))}`;
}

async function verify(publicKey, jws, payload) {
  const [header, signature] = jws.split("..");
  const key = await subtle.importKey("spki", bytes(publicKey), "Ed25519", false, ["verify"]);
  const signed = bytes(signature, "base64url");
  return (await subtle.verify("Ed25519", key, signed, input(header, payload))) ? "ok" : "refused";
}

const operations = { seal, open, sign, verify };
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...fields] = line.split(" ");
  let answer;
  try {
    answer = await operations[name](...fields);
  } catch (error) {
    if (error.name !== "OperationError" && error.message !== "algorithm") throw error;
    answer = "refused";
  }
  process.stdout.write(`${answer}\n`);
}
