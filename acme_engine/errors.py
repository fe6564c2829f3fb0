"""Everything that can go wrong between us and a CA, by who must act.

AcmeError
├── CallerError            who asked must ask otherwise
│   ├── BadIdentifier      a name that no CA could certify
│   ├── BadSigningRequest  none, or one for other names
│   └── Unsolvable         no challenge that this solver can answer
├── OperatorError          who runs us must mend something
│   ├── Misconfigured      a URL, a file, a port
│   ├── CannotListen       (also an OSError) the responder's address
│   ├── TermsNotAgreed     the CA has terms of service
│   ├── BindingRequired    the CA wants an external account binding
│   ├── Unsupported        the CA's directory lacks what is wanted of it
│   ├── ProfileUnavailable ... the profile that an order must have
│   ├── AccountUnusable    deactivated or revoked
│   ├── DnsProviderError   a provider of DNS did not change a record
│   ├── ZoneNotFound       nobody says where a name's record is
│   └── NotServed          a record is not at all servers of its zone within the time
├── CaError                the CA, or the way to it
│   ├── Unreachable        no connection, no answer in time, a cut answer
│   ├── Untrusted          its TLS certificate does not verify
│   ├── BadReply           an answer that breaks RFC 8555, or a hostile one
│   ├── Refused            an answer with a Problem
│   └── Unfinished         the order is under way, the time is up: resume it later
├── OrderFailed            this order is dead, and why; a new one may be started
└── ChainError             what the CA issued must not be used
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

PREFIX = "urn:ietf:params:acme:error:"

MAX_DETAIL = 2000
"""Characters of a CA's text that we keep: it ends in logs and tables."""

_UNPAUSE = re.compile(r"https://[^\s\"'<>]+/unpause\b[^\s\"'<>]*")

MAX_SUBPROBLEMS = 100
"""The most identifiers that any known CA takes in one order."""


class Actor(StrEnum):
    """Who must act before the next try can succeed."""

    NOBODY = "nobody"
    """It passes by itself: wait."""
    CALLER = "caller"
    OPERATOR = "operator"
    OWNER = "owner"
    """Whoever runs the name: its DNS, its routing to the responder, its CAA record."""
    CA = "ca"
    US = "us"
    """A bug in this library, or a request that only a bug can make."""


class Action(StrEnum):
    """What the machinery does next."""

    RESIGN = "resign"
    """Sign anew with the nonce of the refusal and send again, at once."""
    REREAD = "reread"
    """Read the order again; its state decides."""
    WAIT = "wait"
    """Try again in place after Retry-After, or later by the back-off."""
    RETRY = "retry"
    """A new order later, by the back-off."""
    REREGISTER = "reregister"
    """The CA forgot the account: register the same key again, once."""
    DONE = "done"
    """What was asked for is so already."""
    HOLD = "hold"
    """Never again by itself: a person must act first."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one type of Problem is answered."""

    action: Action
    actor: Actor
    hint: str

    @property
    def retryable(self) -> bool:
        """A later try may succeed although nobody changed our request."""
        return self.action not in {Action.HOLD, Action.DONE}


_UNPROVED = (
    "HTTP-01: route /.well-known/acme-challenge/ of the name to the responder;"
    " DNS-01: look whether its TXT record is seen from outside"
)

_NOT_ALLOWED = (
    "the CA does not let this account do it: look at the account, and at its key id and HMAC key (EAB)"
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        # RFC 8555 section 6.7: what happened to the request
        "badNonce": Rule(Action.RESIGN, Actor.NOBODY, "the CA keeps refusing fresh nonces: try again later"),
        "orderNotReady": Rule(Action.REREAD, Actor.NOBODY, "the order is resumed from the state it is in"),
        "rateLimited": Rule(Action.WAIT, Actor.NOBODY, "wait for the CA's limit; see its rate limit page"),
        "serverInternal": Rule(Action.WAIT, Actor.CA, "the CA has a fault; it is tried again"),
        # ... to the validation of a name
        "caa": Rule(Action.RETRY, Actor.OWNER, "let the name's CAA record allow this CA"),
        "connection": Rule(Action.RETRY, Actor.OWNER, "let the CA reach port 80 of the name"),
        "dns": Rule(Action.RETRY, Actor.OWNER, "make the name resolve for the CA"),
        "incorrectResponse": Rule(Action.RETRY, Actor.OWNER, _UNPROVED),
        "tls": Rule(Action.RETRY, Actor.OWNER, "mend the TLS listener of the name"),
        "unauthorized": Rule(Action.RETRY, Actor.OWNER, _UNPROVED),
        "compound": Rule(Action.RETRY, Actor.OWNER, "mend what the subproblems name"),
        # ... to the names
        "rejectedIdentifier": Rule(Action.HOLD, Actor.CALLER, "this CA does not certify the name: drop it"),
        "unsupportedIdentifier": Rule(Action.HOLD, Actor.CALLER, "this CA does not certify such names"),
        # ... to the account
        "accountDoesNotExist": Rule(
            Action.REREGISTER, Actor.NOBODY, "the CA does not know the account: register the same key again"
        ),
        "externalAccountRequired": Rule(
            Action.HOLD, Actor.OPERATOR, "configure the key id and HMAC key that the CA gave you"
        ),
        "invalidContact": Rule(Action.HOLD, Actor.OPERATOR, "correct the account's contact addresses"),
        "unsupportedContact": Rule(Action.HOLD, Actor.OPERATOR, "use mailto: contacts, or none"),
        "userActionRequired": Rule(
            Action.HOLD, Actor.OPERATOR, "visit the URL in the problem's instance, then try again"
        ),
        # ... to what only we choose
        "badCSR": Rule(Action.HOLD, Actor.US, "another key type may be taken; else report this"),
        "badPublicKey": Rule(Action.HOLD, Actor.OPERATOR, "choose another key type"),
        "badSignatureAlgorithm": Rule(Action.HOLD, Actor.OPERATOR, "use an account key of another type"),
        "malformed": Rule(Action.RETRY, Actor.US, "the CA did not understand us: report this with the log"),
        "alreadyRevoked": Rule(Action.DONE, Actor.NOBODY, "nothing: it is revoked"),
        "badRevocationReason": Rule(Action.HOLD, Actor.CALLER, "choose another reason"),
        # RFC 9773
        "alreadyReplaced": Rule(Action.RETRY, Actor.NOBODY, "order without naming a predecessor"),
        # draft-aaron-acme-profiles
        "invalidProfile": Rule(Action.HOLD, Actor.OPERATOR, "use a profile that the CA's directory lists"),
    }
)

_BUSY = Rule(Action.WAIT, Actor.CA, "the CA is busy or has a fault; it is tried again")
_UNKNOWN = Rule(Action.RETRY, Actor.OPERATOR, "read the CA's own words above")


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document (RFC 8555 section 6.7, RFC 7807), whole, with what only its headers said."""

    type: str = "about:blank"
    title: str | None = None
    detail: str | None = None
    status: int | None = None
    instance: str | None = None
    identifier: str | None = None
    """The guilty name, in a subproblem (section 6.7.1)."""
    subproblems: tuple["Problem", ...] = ()
    retry_after: timedelta | None = None
    links: tuple[tuple[str, str], ...] = field(default=())
    """(relation, URL) of the Link header, such as ``terms-of-service``."""

    @classmethod
    def of(
        cls,
        document: object,
        *,
        status: int | None = None,
        retry_after: timedelta | None = None,
        links: Sequence[tuple[str, str]] = (),
    ) -> "Problem":
        """Read a problem document; what has the wrong shape is left out, for no error is worth a second."""
        fields = document if isinstance(document, dict) else {}
        return cls(
            type=_text(fields.get("type")) or "about:blank",
            title=_text(fields.get("title")),
            detail=_text(fields.get("detail")),
            status=status if status is not None else _number(fields.get("status")),
            instance=_text(fields.get("instance")),
            identifier=_identifier(fields.get("identifier")),
            subproblems=_subproblems(fields.get("subproblems")),
            retry_after=retry_after,
            links=tuple(links),
        )

    @property
    def code(self) -> str | None:
        """The error type without ACME's prefix; None where it is not one of ACME's."""
        return self.type.removeprefix(PREFIX) if self.type.startswith(PREFIX) else None

    @property
    def rule(self) -> Rule:
        """What to do about it: by its type, else by its HTTP status.

        A "compound" is what the worst of its subproblems is (section 6.7.1).
        """
        if self.code == "compound":
            held = (sub.rule for sub in self.subproblems if sub.rule.action is Action.HOLD)
            return next(held, RULES["compound"])
        if self.code == "rateLimited" and self.unpause_url is not None:
            return Rule(Action.HOLD, Actor.OWNER, f"visit {self.unpause_url}: the CA has paused the name")
        if self.code is not None and self.code in RULES:
            return RULES[self.code]
        busy = self.status is not None and (self.status == 429 or self.status >= 500)  # noqa: PLR2004
        return _BUSY if busy else _UNKNOWN

    @property
    def unpause_url(self) -> str | None:
        """The page on which a name is let go on that the CA has paused after a thousand failures.

        Let's Encrypt says it so, in the detail of a "rateLimited" alone (boulder, ``sfe/v1/unpause``).
        """
        found = _UNPAUSE.search(self.detail or "")
        return found[0] if found else None

    def __str__(self) -> str:
        words = self.detail or self.title or f"HTTP status {self.status}"
        named = f"{self.identifier}: " if self.identifier else ""
        kind = self.code or (self.type if self.type != "about:blank" else None)
        parts = [f"{named}{words}" + (f" ({kind})" if kind else "")]
        parts += [str(sub) for sub in self.subproblems]
        return "; ".join(parts)


def _text(value: object) -> str | None:
    """Keep a CA's text on one line and short: it goes into logs."""
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else " " for c in value[:MAX_DETAIL])


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _identifier(value: object) -> str | None:
    return _text(value.get("value")) if isinstance(value, dict) else None


def _subproblems(value: object) -> tuple[Problem, ...]:
    """Read one level, which is all that section 6.7.1 gives a meaning."""
    if not isinstance(value, list):
        return ()
    flat = [{**sub, "subproblems": None} for sub in value[:MAX_SUBPROBLEMS] if isinstance(sub, dict)]
    return tuple(Problem.of(sub) for sub in flat)


class AcmeError(Exception):
    """Something went wrong that we can name.

    ``hint`` says the next step, ``actor`` who takes it. ``retryable``: a later try may succeed although
    nobody changed our request, not before ``retry_after`` where that is known.
    """

    hint: str = "report this with the log"
    actor: Actor = Actor.US
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: timedelta | None = None,
        problem: Problem | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or type(self).hint
        self.retry_after = retry_after
        self.problem = problem

    def __str__(self) -> str:
        return self.message


class CallerError(AcmeError):
    """Who asked must ask otherwise."""

    actor = Actor.CALLER


class BadIdentifier(CallerError):
    """A name that no CA could certify; ``reason`` says what is wrong with it."""

    hint = "use a DNS name such as www.example.com or *.example.com"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r}: {reason}")
        self.name = name
        self.reason = reason


class BadSigningRequest(CallerError):
    """What should be a signing request is none, or is for other names than are ordered."""

    hint = "give it in DER, for the names of the order: `keys.csr` makes one"


class Unsolvable(CallerError):
    """No challenge offered for a name is one that the solver can answer."""

    hint = "choose a solver whose challenge the CA offers for this name"


class OperatorError(AcmeError):
    """Who runs us must mend something."""

    actor = Actor.OPERATOR


class Misconfigured(OperatorError):
    """A URL or a file that cannot be used."""

    hint = "correct the issuer's configuration"


class CannotListen(OperatorError, OSError):
    """The responder's address cannot be had."""

    hint = "free the port, choose another, or let this user bind ports under 1024"


class TermsNotAgreed(OperatorError):
    """The CA has terms of service and nobody agreed to them."""

    hint = "read the terms, then set the agreement in the issuer's configuration"


class BindingRequired(OperatorError):
    """The CA wants an external account binding (RFC 8555 section 7.3.4) and none is configured."""

    hint = "configure the key id and HMAC key that the CA gave you"


class Unsupported(OperatorError):
    """The CA's directory does not offer what is wanted of it."""

    hint = "use another CA for it, or do without"


class ProfileUnavailable(Unsupported):
    """The CA's directory does not list the profile that an order must have."""

    hint = "name a profile that the CA's directory lists, or do not require it"


class AccountUnusable(OperatorError):
    """The account is deactivated or revoked."""

    hint = "register a new account key with the CA"


class DnsProviderError(OperatorError):
    """A provider of DNS did not do what was asked: not our zone, not our right, or not now.

    ``retryable``: a later try may succeed although nobody changed anything, after a time-out, a 5xx or a
    limit; not with a wrong credential, or for a zone that is not there. The message holds the provider's own
    words, through `acme_engine.dns.provider.scrub`.
    """

    hint = "check the provider's settings, and that its credential may change TXT records of this zone"

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        hint: str | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.retryable = retryable


class ZoneNotFound(OperatorError):
    """No server says which zone a name is in, or who serves it."""

    hint = "check that the resolver and the zone's servers answer from here; or name them in the settings"
    retryable = True


class NotServed(OperatorError):
    """A value was added, and not all servers of its zone had it within the time; the message names them."""

    hint = "look whether these servers get the zone's changes: `dig @SERVER NAME TXT`"
    retryable = True


class CaError(AcmeError):
    """The CA, or the way to it."""

    actor = Actor.CA
    retryable = True


class Unreachable(CaError):
    """No connection, no answer in time, or an answer cut off: whether the CA acted is unknown."""

    hint = "check the CA's URL, that it runs, and that the network lets us reach it"
    actor = Actor.OPERATOR


class Untrusted(CaError):
    """The CA's TLS certificate does not verify."""

    hint = "give the issuer the CA file that its server's certificate builds to"
    actor = Actor.OPERATOR


class BadReply(CaError):
    """An answer that breaks RFC 8555, or a hostile one. Nothing in it was used."""

    hint = "check that the URL is an ACME directory; else report it to the CA"


class Refused(CaError):
    """The CA answered with a Problem, or with an HTTP status that says no."""

    problem: Problem

    def __init__(self, what: str, problem: Problem) -> None:
        rule = problem.rule
        # In an authorization it is a name that is not proved; here, what we asked for is not ours to ask.
        ours = problem.code == "unauthorized"
        hint = _NOT_ALLOWED if ours else rule.hint
        super().__init__(f"{what}: {problem}", hint=hint, retry_after=problem.retry_after, problem=problem)
        self.actor = Actor.OPERATOR if ours else rule.actor
        self.retryable = rule.retryable


class Unfinished(CaError):
    """The time is up and the order is still under way: resume it by ``order_url``."""

    hint = "nothing: the same order is resumed later"
    actor = Actor.NOBODY

    def __init__(self, message: str, *, order_url: str | None, retry_after: timedelta | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.order_url = order_url


class OrderFailed(AcmeError):
    """This order is dead: never resume it. ``problems`` hold the CA's words, each with its guilty name."""

    hint = "start a new order"
    actor = Actor.NOBODY
    retryable = True

    def __init__(self, message: str, *, order_url: str, problems: Sequence[Problem] = ()) -> None:
        words = "; ".join(map(str, problems))
        first = problems[0] if problems else None
        super().__init__(
            f"{message}: {words}" if words else message,
            hint=first.rule.hint if first else None,
            retry_after=max((p.retry_after for p in problems if p.retry_after), default=None),
            problem=first,
        )
        self.order_url = order_url
        self.problems = tuple(problems)
        if first:
            self.actor = first.rule.actor
        # One name that needs a person holds the whole order back.
        self.retryable = all(p.rule.retryable for p in problems)


class ChainError(AcmeError):
    """A chain broke a rule; ``rule`` is its name."""

    hint = "the certificate served before stays in place; order again once the cause is mended"
    actor = Actor.CA
    retryable = True

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
