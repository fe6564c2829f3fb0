"""Every event that is logged: its level, what it means, and its fields. A test holds it against the code.

Each line also has ``event``, ``level``, ``timestamp`` (RFC 3339, UTC), ``component``, ``replica``; one that
tells of a bug has ``exception``. An error is for a person to act on, a warning for one to look at soon.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of line. ``fields`` are those that it may have beside the ones that each line has."""

    name: str
    level: str
    meaning: str
    fields: tuple[str, ...] = ()


_ORDER: Final = ("secret", "rotation")
_REVOCATION: Final = ("secret", "generation", "reason")
_STAPLE: Final = ("secret", "generation", "url")
_STREAM: Final = ("identity", "node", "delta", "aggregated")
_DELIVERY: Final = ("secret", "target", "generation")
_ROLL_OUT: Final = (*_ORDER, "generation", "reason")
_PAYLOAD: Final = ("secret", "kind", "generation")
_WORK: Final = (*_ORDER, "lease_no")

EVENTS: Final = (
    # What is served, and to whom
    LogEvent(
        "acceptance.disbelieved",
        "warning",
        "A proxy accepted bytes that it had refused before: Envoy does that, and it proves nothing.",
        (*_STREAM, "secret", "version"),
    ),
    LogEvent(
        "admission.changed",
        "info",
        "Who may come, or what they may see, has changed; open streams were looked at again.",
        ("enrolled", "authorities"),
    ),
    LogEvent(
        "admission.unreadable",
        "error",
        "A grant in the inventory cannot be read and counts for nothing; the others do.",
        ("identity", "reason"),
    ),
    LogEvent("answer.overdue", "warning", "A proxy neither accepts nor refuses.", (*_STREAM, "unanswered_s")),
    LogEvent(
        "bundle.sent",
        "info",
        "A chain and its key went out to who fetched them over HTTPS.",
        ("secret", "identity", "target", "version"),
    ),
    LogEvent(
        "name.created",
        "info",
        "A name that was asked for at a handshake has become a secret, and a certificate is ordered.",
        ("secret", "rule", "identity"),
    ),
    LogEvent(
        "name.denied",
        "warning",
        "A name that was asked for became no secret; told once an hour for an identity, rule and reason.",
        ("secret", "rule", "identity", "reason"),
    ),
    LogEvent(
        "name.removed",
        "info",
        "A secret that was made on demand is gone: nobody wants it any more, or its rule is gone.",
        ("secret", "reason"),
    ),
    LogEvent(
        "name.undecided",
        "warning",
        "The database is away: whoever asked for a new name is told that it is absent.",
        ("secret", "identity", "error"),
    ),
    LogEvent(
        "certificate.held_back",
        "error",
        "A certificate is outside of its dates by this replica's clock, or must be stapled and cannot be;"
        " it is not sent out.",
        ("secret", "error"),
    ),
    LogEvent(
        "certificate.published",
        "info",
        "This replica serves a new version from now on.",
        ("secret", "generation", "version", "canaries"),
    ),
    LogEvent(
        "certificate.refused",
        "error",
        "The content gate refused what the inventory holds; it never leaves.",
        ("secret", "generation", "rule", "error", "taken_back"),
    ),
    LogEvent("client.refused", "warning", "A client is nobody that may come.", ("reason",)),
    LogEvent(
        "configuration.sent",
        "debug",
        "All pairs that it is granted went out to a Traefik, which polls for them.",
        ("identity", "target", "certificates"),
    ),
    LogEvent(
        "credential.not_renewed",
        "warning",
        "An agent could not renew a credential; the old one stays, and it is tried again.",
        ("failures", "error", "hint"),
    ),
    LogEvent("credential.stored", "info", "An agent has a new credential.", ("reason", "not_after")),
    LogEvent(
        "credentials.kept",
        "warning",
        "The server's own certificate files cannot be used now: what was read last stays in force.",
        ("reason",),
    ),
    LogEvent(
        "config.kept",
        "error",
        "The configuration is wrong at a SIGHUP: what was read last stays in force.",
        ("reason",),
    ),
    LogEvent(
        "deny.changed",
        "warning",
        "These identities are refused from now on, and no others; their streams have ended.",
        ("identities",),
    ),
    LogEvent("delivery.unproved", "debug", "A probe showed no proof.", ("secret", "target", "error")),
    LogEvent(
        "deliveries.unwritten",
        "warning",
        "The last answers of proxies could not be written when certvoy stopped.",
        ("error",),
    ),
    LogEvent("key.unopened", "error", "A sealed key does not open here.", ("secret", "key_ref", "error")),
    LogEvent(
        "secret.rolled_back",
        "error",
        "The newest generation in the tables is older than the audit's: it does not go out from here.",
        ("secret", "generation", "audited", "hint"),
    ),
    LogEvent("names.ignored", "warning", "A proxy subscribed to names that are none.", (*_STREAM, "count")),
    LogEvent("agent.listening", "info", "An agent takes pushed bundles.", ("port", "bundles")),
    LogEvent(
        "push.forbidden",
        "warning",
        "Somebody else than the control plane called an agent.",
        ("reason", "remote"),
    ),
    LogEvent(
        "push.answered",
        "info",
        "An agent took a pushed bundle and said what became of it.",
        (*_DELIVERY, "answer", "seconds"),
    ),
    LogEvent(
        "push.failed",
        "warning",
        "A bundle could not be pushed; it is tried again.",
        (*_DELIVERY, "attempt", "error", "pause_s"),
    ),
    LogEvent(
        "push.impostor",
        "error",
        "Somebody else answers at an agent's address; the bundle was not sent. Find out who.",
        (*_DELIVERY, "attempt", "error"),
    ),
    LogEvent(
        "payload.canaries_asked",
        "warning",
        "A canary refused or said nothing: another one is asked.",
        (*_PAYLOAD, "reason", "targets"),
    ),
    LogEvent(
        "payload.ended",
        "info",
        "A trust bundle, ticket keys or a generic secret is with every proxy that counts.",
        (*_PAYLOAD, "reason", "outcome"),
    ),
    LogEvent(
        "payload.fanned_out",
        "info",
        "The canaries have taken a trust bundle, ticket keys or a generic secret; now all get it.",
        (*_PAYLOAD, "reason"),
    ),
    LogEvent(
        "payload.published",
        "info",
        "A trust bundle, ticket keys or a generic secret goes out to who wants it.",
        (*_PAYLOAD, "version", "canaries"),
    ),
    LogEvent(
        "payload.refused",
        "error",
        "The content gate refused what the inventory holds; the one before is current again.",
        ("secret", "generation", "rule", "error", "taken_back"),
    ),
    LogEvent(
        "payload.rolled_back",
        "error",
        "Proxies refused a trust bundle, ticket keys or a generic secret; the one before is current again.",
        (*_PAYLOAD, "reason", "targets"),
    ),
    LogEvent(
        "payload.withheld",
        "error",
        "It does not go out from here: outside of its dates by this replica's clock, or it cannot be opened.",
        ("secret", "generation", "why", "error"),
    ),
    LogEvent(
        "secret.denied",
        "warning",
        "A proxy asks for a name that its grants do not let it see, or for too many: to it that is absent.",
        (*_STREAM, "secret", "reason"),
    ),
    LogEvent(
        "secret.keyless",
        "warning",
        "A proxy asks over SDS for a secret whose private key its target keeps: to the proxy it is absent.",
        (*_STREAM, "secret"),
    ),
    LogEvent(
        "secret.refused",
        "warning",
        "A proxy refused a version (NACK), with its scrubbed reason.",
        (*_STREAM, "secret", "version", "reason"),
    ),
    LogEvent(
        "names.throttled",
        "warning",
        "An identity asks for too many names that it may not see or that do not exist: each waits, or is not "
        "told of.",
        ("identity",),
    ),
    LogEvent(
        "streams.capped",
        "warning",
        "An identity has as many streams open as it may; a further one was refused.",
        ("identity", "most"),
    ),
    LogEvent(
        "staple.ended",
        "warning",
        "An OCSP staple has ended and no newer one came: the certificate goes out without.",
        ("secret", "generation"),
    ),
    LogEvent(
        "staple.failed",
        "warning",
        "A CA's OCSP responder gave nothing that may be stapled; it is asked again.",
        (*_STAPLE, "error", "again_s"),
    ),
    LogEvent(
        "staple.fetched",
        "info",
        "A CA's OCSP responder says that a certificate is good; its word is stapled.",
        (*_STAPLE, "next_update", "changed"),
    ),
    LogEvent(
        "staple.overdue",
        "error",
        "The staple of a certificate that must have one has ended: proxies keep it, and clients that ask for"
        " a fresh one refuse it.",
        ("secret", "generation"),
    ),
    LogEvent(
        "staple.published",
        "info",
        "This replica sends another staple with a certificate from now on, or none.",
        ("secret", "generation", "next_update"),
    ),
    LogEvent(
        "staple.refused",
        "warning",
        "A proxy refused a certificate with its OCSP staple; it gets the same without.",
        (*_STREAM, "secret", "version", "reason"),
    ),
    LogEvent(
        "staple.revoked",
        "error",
        "A CA's OCSP responder says that the CA has revoked a certificate which nobody here wanted revoked.",
        (*_STAPLE, "error"),
    ),
    LogEvent(
        "staple.withheld",
        "error",
        "The content gate refused a staple that the inventory holds; the certificate goes out without.",
        ("secret", "generation", "error"),
    ),
    LogEvent("stream.closed", "info", "A stream ended; it had so many names.", (*_STREAM, "names")),
    LogEvent("stream.opened", "info", "A proxy opened a stream.", _STREAM),
    LogEvent(
        "type.ignored", "info", "A proxy asked ADS for another type than secrets.", (*_STREAM, "type_url")
    ),
    LogEvent(
        "enrolment.ca_made",
        "info",
        "There is a new CA of our own for proxies.",
        ("generation",),
    ),
    LogEvent("enrolment.done", "info", "A proxy used its token and has a credential.", ("proxy", "identity")),
    # Issuing
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
        "info",
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
    # Time
    LogEvent("certificates.lapsed", "info", "So many certificates came to their end.", ("count",)),
    LogEvent(
        "renewal.decided",
        "info",
        "By its CA's word a certificate is renewed at another time than was planned.",
        ("secret", "at", "reason", "window_start", "window_end", "explanation_url"),
    ),
    LogEvent(
        "renewal.held_back",
        "error",
        "A CA wants each new certificate of a secret replaced at once: the next renewal waits.",
        ("secret", "issuer", "until", "hint"),
    ),
    LogEvent(
        "renewal.unanswered",
        "warning",
        "A CA did not say when it would like a renewal: it is planned by the certificate's dates.",
        ("secret", "issuer", "error"),
    ),
    LogEvent("renewals.opened", "info", "So many renewals were due.", ("count",)),
    LogEvent(
        "tickets.kept",
        "info",
        "Ticket keys that were due are not made now: somebody changed them meanwhile, or they are frozen.",
        ("secret", "reason"),
    ),
    LogEvent(
        "tickets.rotated",
        "info",
        "A new session ticket key was made, and comes first; the ones before are kept for their time.",
        ("secret", "generation", "keep"),
    ),
    # An agent beside a proxy
    LogEvent(
        "bundle.not_fetched",
        "warning",
        "An agent could not ask the control plane, or could not write; what it serves it serves on.",
        ("secret", "failures", "error", "hint"),
    ),
    LogEvent("key.made", "info", "An agent has made a private key.", ("secret", "spki_sha256", "reason")),
    LogEvent(
        "key.not_requested",
        "warning",
        "An agent could not bring a signing request; it tries again in the next round.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "key.requested",
        "info",
        "The next order's signing request is brought; lost: the generation whose key is not on the host.",
        ("secret", "spki_sha256", "lost"),
    ),
    LogEvent(
        "keys.removed", "info", "An agent has removed keys that no chain can ask for.", ("secret", "keys")
    ),
    LogEvent(
        "pair.delivered",
        "info",
        "A pair lies in its place. Proved: a handshake shows it; accepted: nobody looks, or nobody listens.",
        ("secret", "generation", "state", "reason"),
    ),
    LogEvent(
        "pair.not_restored",
        "error",
        "The pair before is in its place again, but the program does not serve it.",
        ("secret", "generation", "error"),
    ),
    LogEvent(
        "pair.not_resumed",
        "error",
        "What lies in the pair's directory cannot be used or written.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "pair.not_served",
        "warning",
        "The program serves something else than the pair in its place; it is told again.",
        ("secret", "generation", "seen"),
    ),
    LogEvent(
        "pair.refused",
        "error",
        "The content gate or the program refused a pair; the one before is served on.",
        ("secret", "generation", "reason", "tries", "again_s"),
    ),
    LogEvent(
        "report.not_taken",
        "warning",
        "The control plane does not take what an agent says of a pair.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "report.outdated",
        "info",
        "What an agent said was of a pair that is not current any more.",
        ("secret", "error"),
    ),
    # The audit
    LogEvent(
        "audit.broken",
        "error",
        "The audit is damaged, or not the one witnessed here. Nothing more is sealed; find out why.",
        ("error", "hint"),
    ),
    LogEvent(
        "audit.checkpointed",
        "info",
        "The audit has so many leaves, with this root; the note is signed. Keep it elsewhere.",
        ("size", "root", "note"),
    ),
    LogEvent(
        "audit.fork_accepted",
        "error",
        "Started on an audit that is not the one witnessed here, as somebody said that they know.",
        ("reason", "witnessed", "leaves", "common"),
    ),
    LogEvent(
        "audit.key_ready",
        "info",
        "This key signs the audit's checkpoints: whoever verifies needs it. New: it was made now.",
        ("key", "new"),
    ),
    # The process
    LogEvent(
        "audit.dropped",
        "error",
        "The database was away for so long that so many entries of the audit were not kept.",
        ("count",),
    ),
    LogEvent(
        "app.ready",
        "info",
        "It serves; with its ports.",
        (
            *("replica", "sds_port", "http01_port", "admin_port", "probes_port", "rest_port"),
            "tls_alpn01_port",
        ),
    ),
    LogEvent("app.stopped", "info", "It has stopped."),
    LogEvent("app.stopping", "info", "It was told to stop."),
    LogEvent("kms.insecure", "warning", "The KEK lies in a file: for trials only.", ("kek_uri", "hint")),
    LogEvent(
        "library.said", "info", "A library logged something, on a level of its own.", ("logger", "message")
    ),
    LogEvent("loop.crashed", "error", "A bug ended a loop's step. Please report it.", ("loop",)),
    LogEvent(
        "loop.failed", "warning", "A loop's step failed; it is tried again.", ("loop", "failures", "error")
    ),
    LogEvent("loop.recovered", "info", "A loop works again.", ("loop", "failures")),
    LogEvent(
        "request.crashed", "error", "A bug: the API could not answer. Please report it.", ("method", "path")
    ),
    LogEvent(
        "replica.sealed",
        "warning",
        "This replica gives nothing away and opens nothing, until somebody breaks the seal.",
        ("by", "at", "reason"),
    ),
    LogEvent("replica.unsealed", "info", "The seal is broken: what proxies want is loaded anew.", ("by",)),
    LogEvent(
        "seal.unaudited",
        "error",
        "The replica is sealed, and the audit could not be told.",
        ("by", "error", "hint"),
    ),
    LogEvent(
        "replica.lapsed",
        "warning",
        "This replica said for too long nothing to the database: others did not count its streams meanwhile.",
    ),
    LogEvent(
        "memory.guarded",
        "info",
        "Whether freed memory is overwritten, and whether others than root could read this process's.",
        ("scrub", "dumps"),
    ),
    LogEvent(
        "memory.unguarded",
        "warning",
        "A part of what keeps keys out of freed memory and core files is missing.",
        ("what", "reason", "hint"),
    ),
    LogEvent(
        "roles.missing",
        "warning",
        "The database has not its roles: this control plane may do what it need not, as the owner of all.",
        ("reason", "hint"),
    ),
    LogEvent(
        "responder.overprivileged",
        "warning",
        "What answers challenges logs in as somebody who may read sealed keys: give it a login of that role.",
        ("login", "role"),
    ),
    LogEvent(
        "responder.ready",
        "info",
        "Challenges are answered, on these ports.",
        ("http01_port", "tls_alpn01_port"),
    ),
    LogEvent("responder.stopped", "info", "What answers challenges has stopped."),
    LogEvent(
        "rotations.forgotten",
        "info",
        "Finished rotations that are older than rotation.history went.",
        ("count",),
    ),
    LogEvent("schema.migrated", "info", "The database was brought to this release.", ("migrations",)),
    LogEvent(
        "secret.undeclared",
        "error",
        "What the configuration declares must not be served; what was served before is served on.",
        ("secret", "error", "hint"),
    ),
    LogEvent(
        "secret.declared",
        "info",
        "The configuration declared a secret anew.",
        ("secret", "domains", "kind"),
    ),
)
