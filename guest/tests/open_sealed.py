"""Opens what `vmkpi-guest seal` made, with Debian's python3-jwcrypto: another implementation of RFC 7516.

open_sealed.py new PRIVATE PUBLIC    makes a key pair of 3,072 bits
open_sealed.py open PRIVATE          reads an envelope, tells what is in it as JSON
"""

import base64
import json
import sys

from jwcrypto import jwe, jwk


def new(private, public):
    key = jwk.JWK.generate(kty="RSA", size=3072)
    with open(private, "wb") as f:
        f.write(key.export_to_pem(private_key=True, password=None))
    with open(public, "wb") as f:
        f.write(key.export_to_pem())


def decode(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def opens(envelope, key):
    token = jwe.JWE(algs=["RSA-OAEP-256", "A256GCM"])
    try:
        token.deserialize(envelope, key)
    except jwe.InvalidJWEData:
        return None
    return token.payload


def open_sealed(private):
    with open(private, "rb") as f:
        key = jwk.JWK.from_pem(f.read())
    envelope = sys.stdin.read()
    header, rest = envelope.split(".", 1)
    header = json.loads(decode(header))
    other = json.dumps(dict(header, point="encrypted/other"), separators=(",", ":")).encode()
    moved = base64.urlsafe_b64encode(other).rstrip(b"=").decode() + "." + rest
    content = opens(envelope, key)
    json.dump(
        {
            "header": header,
            "content": content.hex() if content is not None else None,
            "thumbprint": key.thumbprint(),
            "opens_as_another_point": opens(moved, key) is not None,
        },
        sys.stdout,
    )


{"new": new, "open": open_sealed}[sys.argv[1]](*sys.argv[2:])
