"""What is served, and to whom: streams, proofs, roll-outs, staples."""

from typing import Final

from sds_server.log_event import LogEvent

_STAPLE: Final = ("secret", "generation", "url")
_STREAM: Final = ("identity", "node", "delta", "aggregated")
_DELIVERY: Final = ("secret", "target", "generation")
_PAYLOAD: Final = ("secret", "kind", "generation")

SERVING: Final = (
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
        "config.needs_restart",
        "warning",
        "At a SIGHUP these keys are others than at the start; only a restart takes them.",
        ("changed",),
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
)
