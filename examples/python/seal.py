"""Seals standard input for the VM's owner, and stores it: seal.py PARTITION VM POINT"""

import json
import pathlib
import sys

from jwcrypto import jwe, jwk

partition, vm, point = sys.argv[1:]
content = sys.stdin.buffer.read()
if not content:
    sys.exit("nothing on standard input: nothing stored")
try:
    key = jwk.JWK.from_pem(pathlib.Path(partition, "primary-key.pem").read_bytes())
    # Who opens it compares vm and point with where it came from.
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": key.thumbprint(), "vm": vm, "point": point}
    envelope = jwe.JWE(content, protected=json.dumps(header), recipient=key)
    pathlib.Path(partition, point).write_text(envelope.serialize(compact=True))
except OSError as error:
    sys.exit(f"{error.filename or point}: not stored: {error.strerror}")
