"""Envelopes and signatures by Debian's python3-jwcrypto. A question a line on standard input, an answer a line:

seal PUBLIC HEADER CONTENT -> ENVELOPE        open PRIVATE ENVELOPE -> CONTENT or refused
sign PRIVATE HEADER PAYLOAD -> JWS            verify PUBLIC JWS PAYLOAD -> ok or refused

Keys are DER, and they, contents and payloads are in base64; headers are in base64url as they stand in an envelope.
"""

import base64
import json
import sys

from jwcrypto import jwe, jwk, jws
from jwcrypto.common import base64url_decode, base64url_encode

ALLOWED = ["RSA-OAEP-256", "A256GCM"]


def key(der, label):
    lines = "\n".join(der[i : i + 64] for i in range(0, len(der), 64))
    return jwk.JWK.from_pem(f"-----BEGIN {label} KEY-----\n{lines}\n-----END {label} KEY-----\n".encode())


def seal(public, header, content):
    text = base64url_decode(header).decode()
    token = jwe.JWE(base64.b64decode(content), protected=text, algs=ALLOWED)
    token.add_recipient(key(public, "PUBLIC"))
    return token.serialize(compact=True)


def open_(private, envelope):
    token = jwe.JWE(algs=ALLOWED)
    token.deserialize(envelope, key(private, "PRIVATE"))
    return base64.b64encode(token.payload).decode()


def sign(private, header, payload):
    token = jws.JWS(base64.b64decode(payload))
    token.allowed_algs = ["EdDSA"]
    token.add_signature(key(private, "PRIVATE"), protected=base64url_decode(header).decode())
    head, _, signature = token.serialize(compact=True).split(".")
    return f"{head}..{signature}"


def verify(public, detached, payload):
    head, signature = detached.split("..")
    token = jws.JWS()
    token.allowed_algs = ["EdDSA"]
    token.deserialize(f"{head}.{base64url_encode(base64.b64decode(payload))}.{signature}")
    token.verify(key(public, "PUBLIC"))
    return "ok"


OPERATIONS = {"seal": seal, "open": open_, "sign": sign, "verify": verify}

for line in sys.stdin:
    name, *fields = line.rstrip("\n").split(" ")
    try:
        print(OPERATIONS[name](*fields), flush=True)
    except (jwe.InvalidJWEData, jws.InvalidJWSSignature):
        print("refused", flush=True)
