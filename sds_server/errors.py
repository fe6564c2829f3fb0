"""Errors of the control plane, by who must act.

CertvoyError
├── CallerError          who asked must ask otherwise
│   ├── BadName
│   ├── Conflict
│   ├── Forbidden
│   ├── NotFound
│   ├── PreconditionFailed
│   ├── TimedOut
│   └── Unauthenticated
├── OperatorError        who runs certvoy must mend something
│   ├── ConfigError
│   ├── SchemaMismatch
│   ├── Unavailable
│   ├── CustodyError
│   └── AuditBroken      the audit is not what was signed
│       └── AuditForked  it is not the one that was witnessed here
├── GateRefused          what a CA or a person gave us must not leave
│   ├── KeyAwaited       nothing was given yet
│   └── OrderedTooOften  a CA would count one more against us
├── IssuanceFailed       a CA said no; it is tried again by itself
├── DeliveryRefused      a Target said no; it keeps what it had
├── StaleLease           another worker has the Rotation now: stop
└── IllegalTransition    a bug
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar


class CertvoyError(Exception):
    """Something went wrong that certvoy can name. ``hint`` says the next step."""

    hint: ClassVar[str] = "this is a bug in certvoy: please report it with the log"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = hint or self.hint

    def __str__(self) -> str:
        return self.message


class CallerError(CertvoyError):
    """Who asked must ask otherwise."""

    hint = "correct the request and try again"


class BadName(CallerError):
    """A name that cannot be used: what is wrong with it, and where."""

    hint = "use a DNS name such as www.example.com, in A-labels, at most 253 bytes"


class Conflict(CallerError):
    """It is well asked, but what is there does not allow it."""

    hint = "look at what is there, then decide"


class Forbidden(CallerError):
    """Who asks is known, and may not."""

    hint = "ask with a token that has the scope: `certvoy token create NAME --scope ...`"


class NotFound(CallerError):
    """No such thing in the inventory."""

    hint = "`certvoy ls` lists the secrets that exist"


class PreconditionFailed(CallerError):
    """It was changed since the caller looked."""

    hint = "read it again, then decide"


class TimedOut(CallerError):
    """What was waited for has not come yet; it goes on."""

    hint = "it goes on without us: `certvoy why NAME` says how it goes"


class Unauthenticated(CallerError):
    """Nobody knows who asks, or what was shown is worth nothing."""

    hint = "get a token: `certvoy token create NAME --scope ...`, on a machine that runs certvoy"


class OperatorError(CertvoyError):
    """Who runs certvoy must mend something."""

    hint = "mend the cause named above and start again"


class ConfigError(OperatorError):
    """The configuration file is wrong; the message holds every error, one a line."""

    hint = "`certvoy config check FILE` shows all errors at once"


class SchemaMismatch(OperatorError):
    """The database's schema is not the one that this release works on."""

    hint = "let one certvoy of this release migrate it, or run the release that did"


class Unavailable(OperatorError):
    """Something that we depend on cannot be reached or started: a database, a KMS, a port, a program."""

    hint = "start it, or correct its address in the configuration"


class CustodyError(OperatorError):
    """A sealed key cannot be opened: wrong KEK, moved or damaged envelope. Never carries key material.

    ``rule`` is what was broken: kek, suite, commitment, tag, spki, or external.
    """

    hint = "restore the KEK that wrapped it; a damaged or moved row is replaced by a rotation"

    def __init__(self, message: str, *, hint: str | None = None, rule: str = "kek") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class AuditBroken(OperatorError):
    """The audit is not what was signed, or what should prove that is damaged."""

    hint = "find out who has changed it, before anything else; `certvoy audit verify` names the first leaf"


class AuditForked(AuditBroken):
    """The database's tree is not the one that was witnessed here, or does not go on from it."""


class GateRefused(CertvoyError):
    """The content gate refused a pair; the message says which rule and what was found."""

    hint = "the certificate served before stays in place; rotate again once the cause is mended"

    def __init__(self, rule: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class KeyAwaited(GateRefused):
    """The Target that keeps a Secret's keys has not brought the next request; ``custody``: who that is.

    ``over_sds``: it is an Envoy, whose agent makes keys and brings no pairs.
    """

    def __init__(self, secret: str, custody: str, *, over_sds: bool = False) -> None:
        said = "with the secret in its `keys:`, which asks every minute" if over_sds else "with `key: local`"
        super().__init__(
            "csr",
            f"secret {secret}: its target has not brought a signing request: {custody}",
            hint=f"run `certvoy agent` there {said}; it is ordered as soon as one comes",
        )


class OrderedTooOften(GateRefused):
    """A CA would count one more order of these names against us; ``wait`` says when it may go.

    ``hint``: by default that a person need not wait for it.
    """

    def __init__(
        self, secret: str, reason: str, *, wait: timedelta, rule: str = "spacing", hint: str | None = None
    ) -> None:
        super().__init__(
            rule,
            f"secret {secret}: {reason}",
            hint=hint or f"it goes on by itself in time; `certvoy rotate {secret}` does not wait",
        )
        self.wait = wait


class IssuanceFailed(CertvoyError):
    """No certificate came of the attempt; ``told["problems"]`` holds the CA's own documents."""

    hint = "`certvoy why NAME` says why, and when it is tried again"

    def __init__(self, message: str, *, told: Mapping[str, Any]) -> None:
        super().__init__(message, hint=told.get("hint"))
        self.told = told


class DeliveryRefused(CertvoyError):
    """A Target refused a Certificate."""

    hint = "mend what it names, then rotate: the same content is not offered to it again"


class StaleLease(CertvoyError):
    """Another worker has the Rotation now; whoever gets this stops and writes nothing more."""

    hint = "nothing: the worker that holds the lease goes on"


class IllegalTransition(CertvoyError):
    """An event that a Certificate's status does not allow."""
