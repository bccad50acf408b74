// Seals standard input for the VM's owner, and stores it: seal.js PARTITION VM POINT
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");

// A compact JWE (RFC 7516), RSA-OAEP-256 and A256GCM.
function seal(pem, vm, point, content) {
  const key = crypto.createPublicKey(pem);
  const { e, kty, n } = key.export({ format: "jwk" });
  // RFC 7638: these members in this order.
  const kid = crypto.createHash("sha256").update(JSON.stringify({ e, kty, n })).digest("base64url");
  // Who opens it compares vm and point with where it came from.
  const fields = { alg: "RSA-OAEP-256", enc: "A256GCM", kid, vm, point };
  const header = Buffer.from(JSON.stringify(fields)).toString("base64url");

  const secret = crypto.randomBytes(32);
  const nonce = crypto.randomBytes(12);
  const padding = crypto.constants.RSA_PKCS1_OAEP_PADDING;
  const wrapped = crypto.publicEncrypt({ key, padding, oaepHash: "sha256" }, secret);
  const cipher = crypto.createCipheriv("aes-256-gcm", secret, nonce).setAAD(Buffer.from(header));
  const sealed = Buffer.concat([cipher.update(content), cipher.final()]);
  const parts = [wrapped, nonce, sealed, cipher.getAuthTag()];
  return [header, ...parts.map((part) => part.toString("base64url"))].join(".");
}

const [partition, vm, point] = process.argv.slice(2);
try {
  const content = fs.readFileSync(0);
  if (content.length === 0) throw new Error("nothing on standard input");
  const pem = fs.readFileSync(`${partition}/primary-key.pem`);
  fs.writeFileSync(`${partition}/${point}`, seal(pem, vm, point, content));
} catch (error) {
  console.error(`${point}: not stored: ${error.message}`);
  process.exitCode = 1;
}
