"""The pair of a Secret: as the control plane gives it, and as it may be served."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

from cryptography.hazmat.primitives import serialization

from acme_engine import chain as chains
from acme_engine import keys
from acme_engine.chain import UNREADABLE
from acme_engine.errors import AcmeError, ChainError
from acme_engine.hidden import Hidden
from acme_engine.keys import PrivateKey
from sds_server import gate
from sds_server.errors import GateRefused, Unavailable


@dataclass(frozen=True, slots=True)
class Bundle:
    """What the control plane gave: nothing in it is believed yet but its form."""

    secret: str
    generation: int
    version: str
    etag: str
    fingerprint: str
    chain_pem: bytes
    key_pem: Hidden[bytes] | None
    """None: the key is the host's own."""

    @classmethod
    def of(cls, body: Mapping[str, Any], *, etag: str) -> Self:
        """Read the JSON of ``GET /v1/secrets/NAME/bundle``.

        Raises:
            Unavailable: it is none; what is wrong is said without quoting it.
        """
        texts = {key: body.get(key) for key in ("name", "version", "fingerprint_sha256", "chain")}
        generation, private_key = body.get("generation"), body.get("private_key", 0)
        wrong = [key for key, value in texts.items() if not isinstance(value, str) or not _plain(key, value)]
        if private_key is not None and not (
            isinstance(private_key, str) and _plain("private_key", private_key)
        ):
            wrong.append("private_key")
        if type(generation) is not int:
            wrong.append("generation")
        if wrong:
            raise Unavailable(
                f"the bundle has no {', '.join(wrong)}",
                hint="is the server certvoy's, and not older than this?",
            )
        said = {key: str(value) for key, value in texts.items()}
        return cls(
            secret=said["name"],
            generation=int(str(generation)),
            version=said["version"],
            etag=etag,
            fingerprint=said["fingerprint_sha256"],
            chain_pem=said["chain"].encode(),
            key_pem=None if private_key is None else Hidden(private_key.encode()),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that has passed the content gate. ``names`` are its leaf's, in A-labels."""

    secret: str
    generation: int
    version: str
    etag: str
    fingerprint: str
    names: tuple[str, ...]
    not_after: datetime
    chain_pem: bytes
    key_pem: Hidden[bytes]

    @classmethod
    def stored(cls, *, chain_pem: bytes, key_pem: bytes, about: Mapping[str, Any]) -> Self:
        """Read back what was written: it has passed the gate once, and may be over meanwhile.

        Raises:
            ValueError, KeyError: it is not what was written.
        """
        try:
            chain = chains.parse(chain_pem)
        except ChainError as e:
            raise ValueError(str(e)) from e
        return cls(
            secret=str(about["secret"]),
            generation=int(about["generation"]),
            version=str(about["version"]),
            etag=str(about["etag"]),
            fingerprint=chain.fingerprint,
            names=chain.names,
            not_after=chain.not_after,
            chain_pem=chain_pem,
            key_pem=Hidden(key_pem),
        )

    @property
    def spki_sha256(self) -> bytes:
        """The hash of its key's public half."""
        return chains.parse(self.chain_pem).spki_sha256

    @property
    def combined_pem(self) -> bytes:
        """Chain and key in one, as HAProxy and nginx take it."""
        return self.chain_pem + self.key_pem.reveal()

    @property
    def about(self) -> bytes:
        """What is known of it besides its PEM, to be kept beside that."""
        return json.dumps(
            {
                "secret": self.secret,
                "generation": self.generation,
                "version": self.version,
                "etag": self.etag,
                "fingerprint": self.fingerprint,
            },
            indent=2,
        ).encode()


class OwnKeys(Protocol):
    """The keys that this host has made."""

    def find(self, spki_sha256: bytes) -> PrivateKey | None:
        """Return the key whose public half has this hash; None: it is not here."""


class KeyMissing(GateRefused):
    """The chain is of a key that this host has not, or not any more."""


def judge(
    bundle: Bundle, *, secret: str, wanted: Sequence[str] = (), now: datetime, own: OwnKeys | None = None
) -> Pair:
    """Return the pair if it may be served for ``secret``: the content gate, asked once more on the host.

    ``wanted`` are DNS names that it must cover; more may be there. ``own``: its key is one of
    these, and in no bundle; None: it comes with the bundle.

    Raises:
        KeyMissing: it is none of ``own``.
        GateRefused: which rule is broken, without anything of the key.
    """
    if bundle.secret != secret:
        raise GateRefused("names", f"it is of secret {bundle.secret}, not of {secret}")
    try:
        chain = chains.parse(bundle.chain_pem)
        der = _from_bundle(bundle) if own is None else _from_host(bundle, chain.spki_sha256, own)
    except ChainError as e:
        raise GateRefused("pem" if e.rule == "empty" else e.rule, str(e)) from e
    except (*UNREADABLE, TypeError, AcmeError):
        # No cause: a parser's message about a key may quote it.
        raise GateRefused("key", "the private key cannot be read") from None
    gate.check_pair(
        chain_pem=bundle.chain_pem,
        key_pkcs8=der,
        spki_sha256=chain.spki_sha256,
        names=chain.names,
        now=now,
    )
    if bundle.fingerprint != chain.fingerprint:
        raise GateRefused("pem", f"its leaf is {chain.fingerprint}, and {bundle.fingerprint} was announced")
    missing = [name for name in wanted if not _covers(chain.names, name)]
    if missing:
        raise GateRefused("names", f"it does not cover {', '.join(missing)}")
    return Pair(
        secret=secret,
        generation=bundle.generation,
        version=bundle.version,
        etag=bundle.etag,
        fingerprint=chain.fingerprint,
        names=tuple(chain.names),
        not_after=chain.not_after,
        chain_pem=chain.pem,
        key_pem=Hidden(keys.pem(keys.load_pkcs8(der))),
    )


def _from_bundle(bundle: Bundle) -> bytes:
    if bundle.key_pem is None:
        raise GateRefused(
            "key",
            "it comes without a private key, as its target makes that: write `key: local` in agent.yaml",
        )
    key = serialization.load_pem_private_key(bundle.key_pem.reveal(), None)
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _from_host(bundle: Bundle, spki_sha256: bytes, own: OwnKeys) -> bytes:
    if bundle.key_pem is not None:
        raise GateRefused(
            "key",
            "it comes with a private key, and agent.yaml says `key: local`: declare the secret with"
            " `key_holder: target`",
        )
    key = own.find(spki_sha256)
    if key is None:
        raise KeyMissing(
            "key", f"its key, SPKI SHA-256 {spki_sha256.hex()}, is not on this host: another one is ordered"
        )
    return keys.pkcs8(key)


def _plain(key: str, text: str) -> bool:
    """Whether it can be written as it is: into a file, and but for PEM into a header or a line of a log."""
    if key in {"chain", "private_key"}:
        return text.isascii()
    return text.isprintable()


def _covers(names: Sequence[str], name: str) -> bool:
    """Whether a leaf of these names is good for one; a wildcard stands for one label (RFC 6125 s. 6.4.3)."""
    return name in names or f"*.{name.partition('.')[2]}" in names
