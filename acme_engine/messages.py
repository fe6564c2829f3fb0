"""The resources of RFC 8555 section 7.1, read from a CA's JSON into values that have the right shape.

A field that we use and that is missing or of another type is a `BadReply`; unknown fields are passed over,
as section 7.1.1 and every CA's habit of adding random ones demand. A status that we do not know is kept as
it is: what cannot be acted on is waited for.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any, NamedTuple

from acme_engine.errors import BadReply, Problem
from acme_engine.names import MAX_NAMES, is_address

TOKEN = re.compile(r"[A-Za-z0-9_-]{22,256}")
"""128 bits of base64url at least (section 8.1): checked before a token is used for anything."""

MAX_AUTHORIZATIONS = MAX_NAMES
MAX_CHALLENGES = 20
MAX_PROFILES = 50


class Identifier(NamedTuple):
    """What a certificate is for; ``type`` is ``dns``, or ``ip`` (RFC 8738)."""

    type: str
    value: str

    @classmethod
    def of(cls, name: str) -> "Identifier":
        """Return the identifier of a normalised name or address."""
        return cls("ip" if is_address(name) else "dns", name)

    def to_json(self) -> dict[str, str]:
        """Return it as newOrder wants it."""
        return {"type": self.type, "value": self.value}


class RevocationReason(IntEnum):
    """Why a certificate is revoked: those codes of RFC 5280 section 5.3.1 that a CA takes from a subscriber.

    The others say something of a CA, or of a certificate on hold, which TLS does not know.
    """

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5


@dataclass(frozen=True, slots=True)
class Directory:
    """Where everything is (section 7.1.1); None: this CA cannot be asked that.

    ``profiles`` are those that an order can name (draft-ietf-acme-profiles section 3), each with what it is.
    ``caa_identities`` are the domains by which CAA records name the CA.
    """

    new_nonce: str
    new_account: str
    new_order: str
    terms_of_service: str | None
    external_account_required: bool
    revoke_cert: str | None = None
    key_change: str | None = None
    renewal_info: str | None = None
    profiles: tuple[str, ...] = ()
    caa_identities: tuple[str, ...] = ()

    @classmethod
    def parse(cls, document: object) -> "Directory":
        """Read the directory object."""
        fields = _Fields("directory", document)
        meta = _Fields("directory meta", fields.get("meta") or {})
        return cls(
            new_nonce=fields.text("newNonce"),
            new_account=fields.text("newAccount"),
            new_order=fields.text("newOrder"),
            terms_of_service=meta.optional_text("termsOfService"),
            external_account_required=meta.get("externalAccountRequired") is True,
            revoke_cert=fields.optional_text("revokeCert"),
            key_change=fields.optional_text("keyChange"),
            renewal_info=fields.optional_text("renewalInfo"),
            profiles=_names(meta.get("profiles")),
            caa_identities=_names(meta.get("caaIdentities")),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """Our account (section 7.1.2); ``created`` tells a new one from one that the CA knew by its key."""

    url: str
    status: str
    created: bool

    @classmethod
    def parse(cls, document: object, *, url: str, created: bool) -> "Account":
        """Read an account object."""
        return cls(url=url, status=_Fields("account", document).text("status"), created=created)


@dataclass(frozen=True, slots=True)
class Order:
    """A request for a certificate (section 7.1.3); ``retry_after`` is when to look again."""

    url: str
    status: str
    identifiers: tuple[Identifier, ...]
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None
    error: Problem | None
    retry_after: timedelta | None = None

    @classmethod
    def parse(cls, document: object, *, url: str, retry_after: timedelta | None = None) -> "Order":
        """Read an order object."""
        fields = _Fields("order", document)
        return cls(
            url=url,
            status=fields.text("status"),
            identifiers=tuple(_identifier(i) for i in fields.array("identifiers", MAX_AUTHORIZATIONS)),
            authorizations=fields.texts("authorizations", MAX_AUTHORIZATIONS),
            finalize=fields.text("finalize"),
            certificate=fields.optional_text("certificate"),
            error=_problem(fields.get("error")),
            retry_after=retry_after,
        )


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove a name (section 8); ``token`` is None where the type has none, or an unusable one.

    ``issuers`` and ``account`` are dns-persist-01's: what its record may call the CA, and for whom it stands.
    A Solver finds in ``account`` our own, where the CA names none, and in ``wildcard`` whether what is to be
    proved is all names one label below.
    """

    type: str
    url: str
    status: str
    token: str | None
    error: Problem | None
    retry_after: timedelta | None = None
    issuers: tuple[str, ...] = ()
    account: str | None = None
    wildcard: bool = False

    @classmethod
    def parse(cls, document: object, *, retry_after: timedelta | None = None) -> "Challenge":
        """Read a challenge object."""
        fields = _Fields("challenge", document)
        token = fields.optional_text("token")
        return cls(
            type=fields.text("type"),
            url=fields.text("url"),
            status=fields.text("status"),
            token=token if token is not None and TOKEN.fullmatch(token) else None,
            error=_problem(fields.get("error")),
            retry_after=retry_after,
            issuers=tuple(name.lower().rstrip(".") for name in _names(fields.get("issuer-domain-names"))),
            account=fields.optional_text("accounturi"),
        )

    @property
    def usable(self) -> bool:
        """Whether it has what its answer is made of."""
        return self.token is not None or (self.type == "dns-persist-01" and bool(self.issuers))


@dataclass(frozen=True, slots=True)
class Authorization:
    """Our right to one name (section 7.1.4); ``wildcard``: to all names one label below it instead."""

    url: str
    status: str
    identifier: Identifier
    challenges: tuple[Challenge, ...]
    retry_after: timedelta | None = None
    wildcard: bool = False

    @classmethod
    def parse(cls, document: object, *, url: str, retry_after: timedelta | None = None) -> "Authorization":
        """Read an authorization object."""
        fields = _Fields("authorization", document)
        return cls(
            url=url,
            status=fields.text("status"),
            identifier=_identifier(fields.get("identifier")),
            challenges=tuple(Challenge.parse(c) for c in fields.array("challenges", MAX_CHALLENGES)),
            retry_after=retry_after,
            wildcard=fields.get("wildcard") is True,
        )

    @property
    def name(self) -> str:
        """The name as it is in the order: of ``*.example.com`` the identifier is ``example.com``."""
        return f"*.{self.identifier.value}" if self.wildcard else self.identifier.value

    def challenge(self, kind: str) -> Challenge | None:
        """Return the usable challenge of a type, if it is offered."""
        return next((c for c in self.challenges if c.type == kind and c.usable), None)


class _Fields:
    """A JSON object whose fields are read once, with their type."""

    def __init__(self, what: str, document: object) -> None:
        if not isinstance(document, dict):
            raise BadReply(f"the {what} is not a JSON object")
        self._what = what
        self._document = document

    def get(self, name: str) -> Any:
        return self._document.get(name)

    def text(self, name: str) -> str:
        value = self._document.get(name)
        if not isinstance(value, str) or not value:
            raise BadReply(f"the {self._what} has no {name!r}")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self._document.get(name)
        return value if isinstance(value, str) and value else None

    def array(self, name: str, limit: int) -> list[Any]:
        value = self._document.get(name)
        if not isinstance(value, list) or len(value) > limit:
            raise BadReply(f"the {self._what}'s {name!r} is not a list of at most {limit}")
        return value

    def texts(self, name: str, limit: int) -> tuple[str, ...]:
        values = self.array(name, limit)
        if not all(isinstance(value, str) for value in values):
            raise BadReply(f"the {self._what}'s {name!r} holds something else than URLs")
        return tuple(values)


def _names(document: object) -> tuple[str, ...]:
    """Return a list's items or an object's keys, at most as many as any CA has use for."""
    return tuple(map(str, list(document)[:MAX_PROFILES])) if isinstance(document, dict | list) else ()


def _identifier(document: object) -> Identifier:
    fields = _Fields("identifier", document)
    return Identifier(fields.text("type"), fields.text("value").lower())


def _problem(document: object) -> Problem | None:
    return Problem.of(document) if isinstance(document, dict) else None
