"""The pair of a Secret: as the control plane gives it, and as it may be served."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from cryptography.hazmat.primitives import serialization

from acme_engine import chain as chains
from acme_engine import keys
from acme_engine.errors import AcmeError, ChainError
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
    key_pem: bytes = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any], *, etag: str) -> Self:
        """Read the JSON of ``GET /v1/secrets/NAME/bundle``.

        Raises:
            Unavailable: it is none; what is wrong is said without quoting it.
        """
        texts = {
            key: body.get(key) for key in ("name", "version", "fingerprint_sha256", "chain", "private_key")
        }
        generation = body.get("generation")
        wrong = [key for key, value in texts.items() if not isinstance(value, str)]
        if not isinstance(generation, int):
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
            key_pem=said["private_key"].encode(),
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
    key_pem: bytes = field(repr=False)

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
            names=chain.dns_names,
            not_after=chain.not_after,
            chain_pem=chain_pem,
            key_pem=key_pem,
        )

    @property
    def combined_pem(self) -> bytes:
        """Chain and key in one, as HAProxy and nginx take it."""
        return self.chain_pem + self.key_pem

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


def judge(bundle: Bundle, *, secret: str, wanted: Sequence[str] = (), now: datetime) -> Pair:
    """Return the pair if it may be served for ``secret``: the content gate, asked once more on the host.

    ``wanted`` are DNS names that it must cover; more may be there.

    Raises:
        GateRefused: which rule is broken, without anything of the key.
    """
    if bundle.secret != secret:
        raise GateRefused("names", f"it is of secret {bundle.secret}, not of {secret}")
    try:
        chain = chains.parse(bundle.chain_pem)
        key = serialization.load_pem_private_key(bundle.key_pem, None)
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    except ChainError as e:
        raise GateRefused("pem" if e.rule == "empty" else e.rule, str(e)) from e
    except (ValueError, TypeError, AcmeError):
        # No cause: a parser's message about a key may quote it.
        raise GateRefused("key", "the private key cannot be read") from None
    gate.check_pair(
        chain_pem=bundle.chain_pem,
        key_pkcs8=der,
        spki_sha256=chain.spki_sha256,
        names=chain.dns_names,
        now=now,
    )
    if bundle.fingerprint != chain.fingerprint:
        raise GateRefused("pem", f"its leaf is {chain.fingerprint}, and {bundle.fingerprint} was announced")
    missing = [name for name in wanted if not _covers(chain.dns_names, name)]
    if missing:
        raise GateRefused("names", f"it does not cover {', '.join(missing)}")
    return Pair(
        secret=secret,
        generation=bundle.generation,
        version=bundle.version,
        etag=bundle.etag,
        fingerprint=chain.fingerprint,
        names=tuple(chain.dns_names),
        not_after=chain.not_after,
        chain_pem=chain.pem,
        key_pem=keys.pem(keys.load_pkcs8(der)),
    )


def _covers(names: Sequence[str], name: str) -> bool:
    """Whether a leaf of these names is good for one; a wildcard stands for one label (RFC 6125 s. 6.4.3)."""
    return name in names or f"*.{name.partition('.')[2]}" in names
