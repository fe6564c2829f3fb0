"""The nouns of certvoy as immutable values; the words are those of docs/glossary.md."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, NewType
from uuid import UUID

SecretName = NewType("SecretName", str)
CertificateId = NewType("CertificateId", UUID)
KeyId = NewType("KeyId", UUID)
RotationId = NewType("RotationId", int)
LeaseNo = NewType("LeaseNo", int)
TargetId = NewType("TargetId", int)

Identity = NewType("Identity", str)
"""Who a peer is, typed by its form: ``spiffe://trust-domain/path`` or ``dns:name``."""


UPLOAD: Final = "upload"
"""The issuer of a Secret whose pairs people bring; no CA has this name."""

UPLOADED: Final = "upload:"
"""How the issuer of an uploaded Certificate begins; a hash of the issuer's own name follows."""

LEAF_PURPOSE: Final = "leaf"
"""What a Certificate's private key is for; it is bound into the envelope."""

PAYLOAD_PURPOSE: Final = "payload"
"""Of what is sealed and no private key; bound into the envelope as well."""

EXTERNAL: Final = "external"
"""In place of a KEK: the private key is its Target's, and was never here."""

REPLICA: Final = "replica:"
"""How an actor begins that is certvoy itself."""

NODE_ID_CHARACTERS: Final = 200
"""Kept of a node id: the target's name, which is made of it, holds 1,024 bytes."""


class Kind(StrEnum):
    """What a Secret is, for ever: a changed kind can switch client verification off in Envoy."""

    TLS_CERTIFICATE = "tls_certificate"
    VALIDATION_CONTEXT = "validation_context"
    SESSION_TICKET_KEYS = "session_ticket_keys"
    GENERIC_SECRET = "generic_secret"  # noqa: S105 - the name of a kind


class Phase(StrEnum):
    """What a payload changes of the one before."""

    PUT = "put"
    ADD = "add"  # a trust bundle: one more CA, beside those that are trusted
    REMOVE = "remove"  # a trust bundle: one CA less
    ROTATE = "rotate"  # session ticket keys: a new one first


class CertificateStatus(StrEnum):
    """Where a Certificate is in its life; `lifecycle.states` holds the transitions."""

    ISSUED = "issued"
    ACTIVE = "active"
    EXPIRING_SOON = "expiring_soon"
    ROTATING = "rotating"
    REPLACED = "replaced"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Reason(StrEnum):
    """Why a Rotation was opened."""

    INITIAL = "initial"
    RENEWAL = "renewal"
    OPERATOR = "operator"
    CHANGED = "changed"
    REVOKED = "revoked"
    UPLOADED = "uploaded"


class RevocationReason(StrEnum):
    """Why a Certificate is revoked, by its name in RFC 5280 section 5.3.1; the engine knows the codes."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"


class Outcome(StrEnum):
    """How a Rotation ended."""

    COMPLETED = "completed"
    COMPLETED_UNOBSERVED = "completed_unobserved"
    SUPERSEDED = "superseded"


class Stage(StrEnum):
    """Who is offered a Rotation's new Certificate."""

    CANARY = "canary"
    FLEET = "fleet"


class KeyType(StrEnum):
    """Key pairs that both Envoy and public CAs take."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"


class KeyHolder(StrEnum):
    """Who makes a Secret's private keys and keeps them."""

    CERTVOY = "certvoy"  # sealed under the KMS, and given to whoever may serve it
    TARGET = "target"  # its one Target, which brings a signing request; the key never leaves its host


@dataclass(frozen=True, slots=True)
class Proof:
    """What completes a Rotation: how many percent of the live set must be proved to serve what is new.

    ``accepted``: where nobody can look, a Target that said yes counts as well. Written as ``all``, as
    ``accepted``, or as a share such as ``90%``.
    """

    percent: int = 100
    accepted: bool = False

    @classmethod
    def parse(cls, text: str) -> "Proof":
        """Read what `str` writes.

        Raises:
            ValueError: it is none of the three.
        """
        if text in {"all", "accepted"}:
            return cls(accepted=text == "accepted")
        if re.fullmatch(r"[1-9][0-9]?%", text) is None:
            raise ValueError(f'must be all, accepted or a share such as 90%, got "{text[:50]}"')
        return cls(percent=int(text[:-1]))

    def __str__(self) -> str:
        if self.accepted:
            return "accepted"
        return "all" if self.percent == 100 else f"{self.percent}%"  # noqa: PLR2004 - percent


class ProvedBy(StrEnum):
    """How it was seen that a Target serves a Certificate."""

    HANDSHAKE = "handshake"
    CERTS = "certs"  # Envoy's own statement, /certs of its admin interface
    AGENT = "agent"  # a handshake that the agent beside it made


class TargetKind(StrEnum):
    """What kind of program serves the Secret."""

    ENVOY = "envoy"
    NGINX = "nginx"
    HAPROXY = "haproxy"
    TRAEFIK = "traefik"
    CADDY = "caddy"
    FILES = "files"


class Scope(StrEnum):
    """What a caller of the API may do; `ADMIN` is all of it."""

    READ = "read"
    ISSUE = "issue"
    ROTATE = "rotate"
    DELIVER = "deliver"
    REVOKE = "revoke"
    ENROLL = "enroll"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Secret:
    """A named, long-lived thing that proxies subscribe to.

    ``domains`` are normalised DNS names (A-labels, lower case), the primary first. ``proof`` is what
    completes its Rotations, ``key_holder`` who makes its keys, ``key_file`` where an Envoy finds one that its
    Target has made: a path with `SPKI` in it. ``fallback``: issuers that are asked where the first does not
    deliver, in this order. One that is no certificate has neither
    domains nor issuer (empty) nor key type (None).
    """

    name: SecretName
    kind: Kind
    domains: tuple[str, ...] = ()
    issuer: str = ""
    key_type: KeyType | None = None
    proof: Proof = Proof()
    key_holder: KeyHolder = KeyHolder.CERTVOY
    key_file: str | None = None
    fallback: tuple[str, ...] = ()


SPKI: Final = "{spki}"
"""Stands in a `Secret.key_file` for the SHA-256 of the key's public half, in lower-case hex: no two keys have
one path, so that no chain meets another's key, whichever comes first."""


def key_path(key_file: str, spki_sha256: bytes) -> str:
    """Return where the key of this public half lies."""
    return key_file.replace(SPKI, spki_sha256.hex())


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A private key under its own DEK, the DEK wrapped by the KMS; or one that its Target keeps.

    ``spki_sha256`` is the SHA-256 of the public half's DER SubjectPublicKeyInfo (32 bytes).
    ``kek_uri`` names the wrapping key as ``<provider>:<kek>``; `EXTERNAL`: there is nothing here to open.
    """

    key_id: KeyId
    purpose: str
    spki_sha256: bytes
    suite: int
    envelope: bytes = field(repr=False)
    dek_wrapped: bytes = field(repr=False)
    kek_uri: str
    kek_version: int

    @classmethod
    def external(cls, key_id: KeyId, purpose: str, spki_sha256: bytes) -> "SealedKey":
        """Name a key that its Target keeps, by its public half."""
        return cls(key_id, purpose, spki_sha256, 0, b"", b"", EXTERNAL, 0)

    @property
    def is_external(self) -> bool:
        """Whether its Target keeps it."""
        return self.kek_uri == EXTERNAL

    @property
    def key_ref(self) -> str:
        """A Certificate's pointer to it: ``cv1:<provider>:<kek>:<key-id>``, or ``external:<spki>``."""
        if self.is_external:
            return f"{EXTERNAL}:{self.spki_sha256.hex()}"
        return f"cv1:{self.kek_uri}:{self.key_id}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One immutable issuance for a Secret.

    ``chain_pem`` is leaf first, without the root. ``fingerprint`` is the lower-case hex SHA-256 of the leaf's
    DER; ``serial_number`` is lower-case hex without leading zeros, unique for its CA only.
    """

    id: CertificateId
    secret: SecretName
    generation: int
    status: CertificateStatus
    domains: tuple[str, ...]
    issuer: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    fingerprint: str
    key_id: KeyId
    key_ref: str
    chain_pem: bytes = field(repr=False)
    renew_at: datetime | None = None
    renew_reason: str | None = None
    """Why then: a fixed word of `acme_engine.renewal`."""


@dataclass(frozen=True, slots=True)
class Issuance:
    """A Certificate as the inventory lists it: without its chain, with its history."""

    certificate: Certificate
    issued_at: datetime
    replaced_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to work on a Rotation until ``until`` on the database's clock."""

    rotation: RotationId
    secret: SecretName
    number: LeaseNo
    until: datetime


@dataclass(frozen=True, slots=True)
class Rotation:
    """One piece of work: give a Secret its next Certificate."""

    id: RotationId
    secret: SecretName
    reason: Reason
    cert_id: CertificateId | None
    new_cert_id: CertificateId | None
    attempts: int
    triggered_at: datetime
    completed_at: datetime | None
    outcome: Outcome | None
    next_attempt_at: datetime | None
    """None: it is held until a person acts."""

    last_error: dict[str, Any] | None
    leased: bool
    """A worker is at it."""

    stage: Stage
    canaries: tuple[str, ...]
    """The names of the Targets that are offered it before all others, while it is open."""

    evidence: dict[str, Any] | None
    """What its completion rests on: the policy, the live set, who was proved in which way."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A Certificate that somebody wants revoked, and how far that is.

    ``at_once``: also while it is served. ``ready``: the CA may be asked now. ``error``: why it last said no.
    """

    cert_id: CertificateId
    secret: SecretName
    generation: int
    status: CertificateStatus
    reason: RevocationReason
    at_once: bool
    ready: bool
    wanted_at: datetime
    attempts: int
    next_attempt_at: datetime
    error: dict[str, Any] | None
    done_at: datetime | None


@dataclass(frozen=True, slots=True)
class Freeze:
    """Since when, by whom and why a Secret is held as it is."""

    at: datetime
    by: str
    reason: str

    @property
    def asks(self) -> bool:
        """Whether certvoy holds it, because only a person can decide what comes next."""
        return self.by.startswith(REPLICA)


class Peer(NamedTuple):
    """Who a proxy is to the inventory: what is kept of its identity and of what it calls itself.

    Its node id is cut and made printable: one that no table takes would hold up everybody's news.
    """

    identity: Identity
    node_id: str

    @classmethod
    def of(cls, identity: Identity, node_id: str) -> "Peer":
        """Return what is kept of a node id as a client says it."""
        kept = node_id[:NODE_ID_CHARACTERS]
        return cls(identity, "".join(c if c.isprintable() else "?" for c in kept))


@dataclass(frozen=True, slots=True)
class KeyCustody:
    """Which Target makes and keeps a Secret's private keys.

    ``brought_at``: when its last signing request came; ``waits``: it lies ready for the next order.
    """

    peer: Peer
    brought_at: datetime
    waits: bool


@dataclass(frozen=True, slots=True)
class Target:
    """Whatever serves a Secret.

    ``probe`` is ``host:port`` of a TLS listener, which wants the PROXY protocol first where
    ``proxy_protocol``, and has HTTP/3 beside it, over QUIC, where ``http3``; ``admin`` is that of Envoy's
    admin interface; None: not known.
    ``vouched``: an operator has named its identity, so that it speaks with a voice of its own. ``push``: the
    ``https://host:port`` at which its agent takes bundles.
    """

    id: TargetId
    name: str
    kind: TargetKind
    identity: Identity | None
    node_id: str | None
    probe: str | None
    registered: bool
    admin: str | None = None
    vouched: bool = False
    push: str | None = None
    proxy_protocol: bool = False
    http3: bool = False

    @property
    def looked_at(self) -> tuple[str | None, str | None, bool, bool]:
        """Where, and how: a look says nothing of another address."""
        return self.probe, self.admin, self.proxy_protocol, self.http3
