"""Issuing: orders, CAs, limits, revocation."""

from typing import Final

from sds_server.log_event import LogEvent

_ORDER: Final = ("secret", "rotation")
_REVOCATION: Final = ("secret", "generation", "reason")
_DELIVERY: Final = ("secret", "target", "generation")
_ROLL_OUT: Final = (*_ORDER, "generation", "reason")
_WORK: Final = (*_ORDER, "lease_no")

ISSUING: Final = (
    LogEvent(
        "account.deactivated",
        "warning",
        "An account was ended at its CA; the next order begins another.",
        ("issuer", "account"),
    ),
    LogEvent("account.key_changed", "info", "An account has another key.", ("issuer", "account")),
    LogEvent(
        "account.forgotten", "warning", "The CA does not know our account any more.", ("issuer", "account")
    ),
    LogEvent("account.registered", "info", "An account was made at the CA.", ("issuer", "account")),
    LogEvent("authorization.valid", "info", "The CA validated a name.", (*_ORDER, "identifier")),
    LogEvent("certificate.downloaded", "info", "The CA's chain is here and fits.", (*_ORDER, "fingerprint")),
    LogEvent(
        "certificate.issued",
        "info",
        "A new certificate is stored; proxies get it next.",
        (*_WORK, "generation", "seconds"),
    ),
    LogEvent("certificate.revoked", "info", "The CA revoked a certificate.", (*_REVOCATION, "serial_number")),
    LogEvent(
        "certificate.uploaded",
        "info",
        "A pair that somebody brought is stored; proxies get it next.",
        ("secret", "fingerprint"),
    ),
    LogEvent(
        "challenge.answered",
        "info",
        "The CA was asked to validate a name.",
        (*_ORDER, "identifier", "answers"),
    ),
    LogEvent(
        "challenge.left",
        "info",
        "A challenge's answer could not be taken away; it ends by its time limit.",
        (*_ORDER, "identifier", "error"),
    ),
    LogEvent(
        "challenge.presented", "info", "A challenge can be answered now.", (*_ORDER, "identifier", "type")
    ),
    LogEvent(
        "challenge.ready", "info", "The answer is where the CA will look.", (*_ORDER, "identifier", "type")
    ),
    LogEvent(
        "challenge.refused",
        "info",
        "The CA could not validate a name, and lets us try again.",
        (*_ORDER, "identifier", "problem"),
    ),
    LogEvent(
        "value.withdrawn",
        "info",
        "What an attempt had left in DNS is removed.",
        ("name", "issuer"),
    ),
    LogEvent(
        "value.kept",
        "warning",
        "What an attempt had left in DNS could not be removed; tried again in ten minutes.",
        ("name", "issuer", "error"),
    ),
    LogEvent(
        "value.abandoned",
        "error",
        "What an attempt had left in DNS could not be removed for a week: remove the TXT record yourself.",
        ("name", "issuer"),
    ),
    LogEvent("challenge.unanswered", "debug", "A challenge's token could not be looked up.", ("error",)),
    LogEvent(
        "attempt.broken",
        "warning",
        "An attempt that had waited for DNS was cut off, by the database or a bug; its order is resumed.",
        ("error",),
    ),
    LogEvent(
        "lease.lost",
        "warning",
        "Another worker has the rotation now, or nobody wants it any more.",
        (*_WORK, "error"),
    ),
    LogEvent(
        "lease.released",
        "info",
        "This replica is stopped in the middle of an attempt: any other goes on with its order at once.",
        _ORDER,
    ),
    LogEvent(
        "lease.unextended", "warning", "A lease could not be extended; tried again.", ("secret", "error")
    ),
    LogEvent("clock.agrees", "info", "This machine's clock is the CA's again.", ("issuer", "ahead_s")),
    LogEvent(
        "clock.skewed",
        "error",
        "This machine's clock is more than a minute from the CA's: new certificates may count as not yet"
        " valid, and old ones be served too long. Negative: behind. Said again every hour.",
        ("issuer", "ahead_s", "hint"),
    ),
    LogEvent(
        "crl.failed",
        "warning",
        "A CA's revocation list could not be had, or not be believed; it is looked at again.",
        ("url", "error", "again_s"),
    ),
    LogEvent("crl.read", "info", "A CA's revocation list was read.", ("url", "next_update")),
    LogEvent(
        "crl.revoked",
        "error",
        "A CA's revocation list says that a certificate is revoked, which nobody here wanted. Its successor"
        " is ordered.",
        ("secret", "generation", "url", "error"),
    ),
    LogEvent(
        "fallback.forbidden",
        "warning",
        "CAA does not let a CA issue that a secret falls back on: it would be of no help when it is needed.",
        ("secret", "issuer", "error", "hint"),
    ),
    LogEvent(
        "issuer.held",
        "error",
        "A CA takes no orders of our account before a person has visited its page.",
        ("issuer", "error", "hint"),
    ),
    LogEvent(
        "budget.closed",
        "warning",
        "A CA says that one of its limits is spent: what would take of it waits, all else goes on.",
        ("issuer", "limit", "of", "seconds"),
    ),
    LogEvent(
        "rotation.fell_back",
        "warning",
        "Another of a secret's issuers is asked than its first one; why says what is wrong with that.",
        ("secret", "issuer", "why"),
    ),
    LogEvent(
        "issuer.paused",
        "warning",
        "A CA is away, or wants to be left alone: no replica asks it until it answers again.",
        ("issuer", "seconds", "error"),
    ),
    LogEvent(
        "issuer.resumed", "info", "A CA that was left alone answers; its work goes on.", ("issuer", "since")
    ),
    LogEvent(
        "chain.unmatched",
        "warning",
        "None of the CA's chains has the preferred issuer: its own choice is taken.",
        (*_ORDER, "preferred", "offered"),
    ),
    LogEvent(
        "chain.unusable", "info", "One of the CA's other chains cannot be had.", (*_ORDER, "url", "error")
    ),
    LogEvent("order.created", "info", "The CA took an order.", (*_ORDER, "order")),
    LogEvent(
        "order.relinquished",
        "info",
        "Nobody wants any more what was ordered; the CA knows what need not be proved.",
        (*_ORDER, "authorizations"),
    ),
    LogEvent(
        "order.left",
        "warning",
        "A CA could not be told that nobody wants an order any more; it forgets that by itself.",
        (*_ORDER, "error"),
    ),
    LogEvent("order.finalizing", "info", "The CA is asked to issue.", (*_ORDER, "order")),
    LogEvent(
        "order.dates_ignored",
        "warning",
        "The CA issued with other dates than `lifetime` and `backdate` ask for, and did not say so.",
        (*_ORDER, "certificate"),
    ),
    LogEvent(
        "order.profile_refused",
        "info",
        "The CA has not, or refuses, the profile that was preferred: the order goes without.",
        (*_ORDER, "problem"),
    ),
    LogEvent(
        "order.replaces_refused",
        "info",
        "The CA does not take the order as a replacement: it goes without saying so.",
        (*_ORDER, "problem"),
    ),
    LogEvent("order.valid", "info", "The CA has issued.", (*_ORDER, "order")),
    LogEvent("order.resumed", "info", "An order that was left behind goes on.", (*_ORDER, "order", "status")),
    LogEvent(
        "revocation.failed",
        "warning",
        "The CA did not revoke a certificate; it is asked again.",
        (*_REVOCATION, "error", "hint"),
    ),
    LogEvent("rotation.claimed", "info", "A worker took a rotation.", (*_WORK, "attempts")),
    LogEvent(
        "targets.forgotten", "info", "Proxies that nobody registered were not seen for a week.", ("count",)
    ),
    LogEvent(
        "targets.capped",
        "error",
        "An identity has too many proxies: those that came last count for no rotation. Give each its own.",
        ("identity",),
    ),
    LogEvent(
        "target.shared",
        "warning",
        "Several streams are open under one node id: all of them must accept. Give each proxy its own.",
        ("target", "identity", "node", "instances"),
    ),
    LogEvent("keys.destroyed", "info", "Keys that nobody needs any more were destroyed.", ("count",)),
    LogEvent(
        "delivery.healed",
        "info",
        "A proxy serves again what it should; it had not for so many seconds.",
        (*_DELIVERY, "seconds"),
    ),
    LogEvent(
        "delivery.stale",
        "error",
        "A proxy serves something else than it was proved to serve; it is offered its certificate again.",
        (*_DELIVERY, "error"),
    ),
    LogEvent(
        "rotation.canaries_asked",
        "warning",
        "A canary refused a new certificate or said nothing; others are asked.",
        (*_ROLL_OUT, "targets"),
    ),
    LogEvent("rotation.ended", "info", "A rotation is over.", (*_ROLL_OUT, "outcome")),
    LogEvent(
        "rotation.fanned_out", "info", "The canaries have a new certificate; now all get it.", _ROLL_OUT
    ),
    LogEvent(
        "rotation.frozen",
        "error",
        "A new certificate is refused and the one before ends soon: a person must decide.",
        (*_ROLL_OUT, "targets"),
    ),
    LogEvent(
        "rotation.rolled_back",
        "error",
        "A new certificate was refused, or not served, and the one before is current again.",
        (*_ROLL_OUT, "targets"),
    ),
    LogEvent(
        "rotation.failed", "warning", "An attempt failed; the next one waits.", (*_WORK, "error", "hint")
    ),
)
