"""After the whole run: is a private key in anything that certvoy wrote or said?

Looked through are the logs of all programs that the tests started and what was logged in the tests' own
process, every answer that came over HTTP (metrics among them), what commands printed, and every row of every
test database before it is dropped. A find fails the run, and names the test; it never quotes.

How a key is known: by the fixed beginning of its encodings (PEM; DER of PKCS#8 and SEC 1, also as base64 at
each alignment, as hex, and escaped), whichever process made it; and keys on P-256 that this process made also
by their bare 32 bytes, as hex and base64.
"""

import base64
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import asyncpg
from cryptography.hazmat.primitives.asymmetric import ec

_CURVE = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")  # id-ecPublicKey, P-256
DER: Final = {
    "PKCS#8 on P-256": bytes.fromhex("308187020100") + _CURVE + bytes.fromhex("046d306b0201010420"),
    "PKCS#8 on P-384": bytes.fromhex("3081b6020100301006072a8648ce3d020106052b81040022"),
    "PKCS#8 of Ed25519": bytes.fromhex("302e020100300506032b657004220420"),
    "PKCS#8 of RSA": bytes.fromhex("020100300d06092a864886f70d0101010500048204"),
    "SEC 1 on P-256": bytes.fromhex("30770201010420"),
}
PEM: Final = re.compile(rb"BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----(?:\\+[nr]|\s)*[A-Za-z0-9+/]{16}")
JWK: Final = re.compile(rb'\\*"d\\*":\s*\\*"[A-Za-z0-9_-]{42}')
HEX: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
BASE64: Final = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{43}(?![A-Za-z0-9+/_-])")

ENVOYS_LOG: Final = re.compile(rb"\[[-0-9]{10} [0-9:.]+\]\[\d+\]\[\w+\]\[main\]")
"""Envoy writes a secret that breaks one of its rules into its log, whole; we cannot keep it from that."""

MEANT: Final = ("/bundle", "/v3/discovery:secrets", "/traefik")
"""How the paths end at which a proxy or its agent is given its key."""

ROWS_MAX: Final = 20_000
"""Of a table; a benchmark's inventory is counted as left out."""


def _aligned(raw: bytes) -> Iterable[bytes]:
    """The base64 that ``raw`` has inside of something longer, at each of its three alignments."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        start = (before * 8 + 5) // 6
        yield encoded[start : (before + len(raw)) * 8 // 6]


def _signs() -> dict[bytes, str]:
    signs: dict[bytes, str] = {}
    for name, raw in DER.items():
        signs[raw] = name
        signs[raw.hex().encode()] = f"{name}, hex"
        signs[repr(raw)[2:-1].encode()] = f"{name}, escaped"
        signs |= dict.fromkeys(_aligned(raw), f"{name}, base64")
    signs |= dict.fromkeys(_aligned(b" PRIVATE KEY-----\n"), "PEM, base64")
    return signs


SIGNS: Final = {sign: name for sign, name in _signs().items() if len(sign) >= 8}


class Keys:
    """The bare keys on P-256 that were made in this process."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        self._generate = ec.generate_private_key

    def watch(self) -> None:
        """Hear of each key that is made from now on."""
        generate = self._generate

        def generated(curve: ec.EllipticCurve, backend: Any = None) -> ec.EllipticCurvePrivateKey:
            key = generate(curve, backend)
            if isinstance(curve, ec.SECP256R1):
                self.add(key)
            return key

        ec.generate_private_key = generated

    def forget(self) -> None:
        ec.generate_private_key = self._generate

    def add(self, key: ec.EllipticCurvePrivateKey) -> None:
        raw = key.private_numbers().private_value.to_bytes(32, "big")
        self.known |= {
            raw.hex().encode(),
            base64.b64encode(raw).rstrip(b"="),
            base64.urlsafe_b64encode(raw).rstrip(b"="),
        }


def keys_in(data: bytes, known: frozenset[bytes] | set[bytes] = frozenset()) -> list[str]:
    """Return what kinds of private keys are in the data."""
    found = {name for sign, name in SIGNS.items() if sign in data}
    if b"PRIVATE KEY-----" in data and PEM.search(data):
        found.add("PEM")
    if b'"d' in data and JWK.search(data):
        found.add("JWK")
    if known and any(token in known for shape in (HEX, BASE64) for token in shape.findall(data)):
        found.add("bare")
    return sorted(found)


class Scan:
    """What was looked through so far, and what was found there."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.looked: Counter[str] = Counter()
        self.found: list[str] = []

    def look(self, kind: str, where: str, data: bytes) -> None:
        """Look through data; ``kind`` is what it is counted as."""
        self.looked[kind] += 1
        self.looked["bytes"] += len(data)
        if kinds := keys_in(data, self.keys.known):
            self.found.append(f"{where} ({'; '.join(kinds)})")

    def look_at_logs(self, directory: Path) -> None:
        """Look through the logs of programs below the directory."""
        for path in sorted(directory.rglob("*.log")):
            if path.is_symlink() or not path.is_file():
                continue
            data = path.read_bytes()
            if not ENVOYS_LOG.match(data):
                self.look("log files", str(path.relative_to(directory)), data)

    async def look_at_database(self, connect: dict[str, Any], where: str) -> None:
        """Look through every row of a database, whatever the types of its columns."""
        connection = await asyncpg.connect(**connect)
        try:
            tables = await connection.fetch(
                "SELECT oid::regclass::text AS name, reltuples AS rows FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0"
            )
            small = [table["name"] for table in tables if table["rows"] <= ROWS_MAX]
            self.looked["tables left out"] += len(tables) - len(small)
            if small:
                rows = " UNION ALL ".join(
                    f"SELECT '{name}' AS t, {name}::text AS r FROM {name}" for name in small
                )
                found = await connection.fetch(rows)
                self.looked["rows"] += len(found)
                text = "\n".join(row["r"] for row in found)
                self.look("databases", where, text.encode())
        finally:
            await connection.close()

    def summary(self) -> str:
        counts = dict(self.looked)
        mebibytes = counts.pop("bytes", 0) / 2**20
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)
        return f"private keys: {len(self.found)} found in {told or 'nothing'}; {mebibytes:.1f} MiB"
