"""Check that an entry is in certvoy's audit, by `python verify_audit_proof.py proof.json audit-key.pub`.

`certvoy audit prove ID` writes the proof, which may come from anybody; the public key is from whom you trust.
Needs Python and `cryptography`, neither certvoy nor a database. RFC 9162 section 2.1.3.2, C2SP signed-note.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def node(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into one."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Return the root that the path leads to from the leaf."""
    last = size - 1
    for step in path:
        if index & 1 or index == last:
            leaf = node(step, leaf)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            leaf = node(leaf, step)
        index, last = index >> 1, last >> 1
    return leaf if last == 0 else b""


def main(proof_file: str, key_file: str) -> None:
    """Print the entry, if it is proved; else say why not, and exit with 1."""
    proof = json.loads(Path(proof_file).read_text())
    name, key_id, encoded = Path(key_file).read_text().strip().split("+", 2)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])

    text, signatures = proof["checkpoint"].split("\n\n")
    signed_by, signature = signatures.splitlines()[0].removeprefix("\u2014 ").rsplit(" ", 1)
    raw = base64.b64decode(signature)
    if (signed_by, raw[:4].hex()) != (name, key_id):
        sys.exit("the checkpoint is signed by another key")
    key.verify(raw[4:], (text + "\n").encode())  # raises InvalidSignature

    _, size, wanted = text.split("\n")[:3]
    canonical = json.dumps(proof["entry"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    leaf = hashlib.sha256(b"\x00" + canonical.encode()).digest()
    path = [bytes.fromhex(step) for step in proof["path"]]
    led_to = root(leaf, proof["leaf"], int(size), path)
    if not 0 <= proof["leaf"] < int(size) or led_to != base64.b64decode(wanted):
        sys.exit("the path does not lead from the entry to the signed root")
    print(json.dumps(proof["entry"], indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[2:] else sys.exit(__doc__)
