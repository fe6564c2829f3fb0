"""Every action that is audited: to what it is done, by whom, and what it means.

`inventory.audit.append` takes no other, and a test holds this table against the code. Each entry also has
``timestamp`` (the database's), ``cert_id`` where it is about a Certificate, and a detail as canonical JSON.

Who did it is written ``<kind>:<name>``. A *person* is a user of the machine, on the Unix socket, by the
kernel's word; a *token* one of the admin API; a *client* a client certificate with scopes or a grant; a
*proxy* who holds an enrolment; a *replica* a control plane that did it by itself.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class AuditAction:
    """One kind of entry. ``subject`` is to what it is done; ``bounded``: what a peer may do without end."""

    name: str
    subject: str
    meaning: str
    bounded: bool = False


ACTIONS: Final = (
    # Certificates: each move of the state machine
    AuditAction(
        "certificate.issued", "secret", "A certificate was stored, issued by a CA or brought by somebody."
    ),
    AuditAction("certificate.activated", "secret", "Its first handshake was seen, or nobody serves it yet."),
    AuditAction("certificate.due", "secret", "Its renewal is wanted."),
    AuditAction("certificate.rotating", "secret", "A worker or the roll-out is at its successor."),
    AuditAction("certificate.replaced", "secret", "Its successor took over: it was renewed."),
    AuditAction(
        "certificate.rejected", "secret", "The content gate or targets refused it, or it was taken back."
    ),
    AuditAction("certificate.expired", "certificate", "Its notAfter has passed."),
    AuditAction("certificate.revoked", "secret", "Its CA has revoked it."),
    # Rotations
    AuditAction("rotation.opened", "secret", "Another certificate is wanted, and why."),
    AuditAction(
        "rotation.hastened", "secret", "One that was wanted already is tried at once, or with what changed."
    ),
    AuditAction("rotation.claimed", "secret", "A worker took it, under a lease."),
    AuditAction("rotation.fell_back", "secret", "Another issuer than the first is asked, and why."),
    AuditAction("rotation.failed", "secret", "An attempt failed, with the CA's own words."),
    AuditAction("rotation.canaries", "secret", "These targets are offered the new certificate first."),
    AuditAction("rotation.fanned_out", "secret", "The canaries were proved: all targets are offered it."),
    AuditAction(
        "rotation.rolled_back",
        "secret",
        "The new certificate was taken back; the one before is current again.",
    ),
    AuditAction("rotation.completed", "secret", "Handshakes have proved it, and the evidence."),
    AuditAction(
        "rotation.completed_unobserved", "secret", "It is over, and no target was there to prove it."
    ),
    AuditAction("rotation.superseded", "secret", "It ended as another began, or its secret was deleted."),
    AuditAction(
        "renewal.wished", "secret", "Its CA named a window for the renewal, and what was planned by that."
    ),
    # Orders
    AuditAction("order.planned", "secret", "Key and CSR are stored, before the CA hears of them."),
    AuditAction(
        "order.ordered", "secret", "The CA has made the order: for which account, and of which profile."
    ),
    AuditAction("order.finalizing", "secret", "The CA is about to be sent the CSR."),
    AuditAction("order.issued", "secret", "The CA has issued."),
    AuditAction("order.abandoned", "secret", "The order is given up."),
    # Distribution
    AuditAction(
        "delivery.sent",
        "secret",
        "It left for a target, with its key where there is one, and no word came at once: an export.",
    ),
    AuditAction("delivery.accepted", "secret", "A target took it: its ACK, or its agent's word."),
    AuditAction("delivery.refused", "secret", "A target refused it, and its words."),
    AuditAction("delivery.proved", "secret", "A handshake has shown it at a target; or who else says so."),
    AuditAction(
        "delivery.stale", "secret", "A target does not serve any more what it was proved to serve, or took."
    ),
    AuditAction("delivery.healed", "secret", "A target that was stale serves it again."),
    AuditAction("delivery.denied", "secret", "A peer asked for a name that it may not see.", bounded=True),
    AuditAction(
        "push.impostor", "target", "Somebody else than its agent is at a target's address; nothing was sent."
    ),
    # Revocation
    AuditAction("revocation.wanted", "secret", "Somebody wants a certificate revoked, and why."),
    AuditAction("revocation.failed", "secret", "Its CA refuses to, or was not reached."),
    # Secrets, and what holds them
    AuditAction("secret.created", "secret", "A secret was declared."),
    AuditAction("secret.changed", "secret", "Its names, issuer, type of key or policy changed."),
    AuditAction("secret.deleted", "secret", "It is absent from now on."),
    AuditAction("secret.frozen", "secret", "It is held as it is, and why."),
    AuditAction("secret.resumed", "secret", "It goes on."),
    AuditAction(
        "secret.rolled_back",
        "secret",
        "Its newest generation is older than the audit's: somebody put rows back.",
    ),
    AuditAction("on_demand.created", "secret", "A name that was asked for at a handshake became a secret."),
    AuditAction(
        "on_demand.denied", "secret", "Such a name became none; told once an hour for each kind of reason."
    ),
    AuditAction("on_demand.removed", "secret", "Such a secret is gone, as nobody wants it any more."),
    # What is no certificate
    AuditAction(
        "payload.stored", "secret", "A new version of a trust bundle, ticket keys or a generic secret."
    ),
    AuditAction("payload.canaries", "secret", "These targets are offered the new version first."),
    AuditAction("payload.fanned_out", "secret", "All targets are offered it."),
    AuditAction("payload.rejected", "secret", "It was taken back; the version before is current again."),
    AuditAction("payload.completed", "secret", "All targets have taken it, and the evidence."),
    AuditAction("tickets.scheduled", "secret", "Ticket keys are made here from now on, this often."),
    AuditAction("tickets.hastened", "secret", "The next ticket key is made now."),
    # Keys
    AuditAction(
        "key.requested", "secret", "A target that keeps its keys brought a signing request.", bounded=True
    ),
    AuditAction(
        "key.lost", "secret", "A target has lost the key of what it serves: its successor is ordered."
    ),
    AuditAction("key.unopened", "secret", "A sealed key does not open, and which rule was broken."),
    AuditAction("key.destroyed", "secret", "Its data key was destroyed: nobody can open it any more."),
    AuditAction(
        "keys.checked", "KEK", "Somebody had keys opened by chance, to see that they open; and which did not."
    ),
    AuditAction("keys.rewrapped", "KEK", "Data keys were brought from this KEK to the newest."),
    AuditAction(
        "kms.silent", "KEK", "The KMS does not answer this replica: nothing new is ordered.", bounded=True
    ),
    AuditAction("kms.answers", "KEK", "It answers again.", bounded=True),
    AuditAction("kms.refused", "KEK", "It does not wrap: its key or our right is gone.", bounded=True),
    # The audit itself
    AuditAction("audit.exported", "audit", "Somebody began to take all of it along."),
    AuditAction(
        "audit.fork_accepted", "audit", "Somebody started on another audit than the one witnessed there."
    ),
    # Accounts at CAs
    AuditAction("account.begun", "directory", "A key for an account was stored, before the CA hears of it."),
    AuditAction("account.registered", "directory", "The CA has made the account."),
    AuditAction("account.forgotten", "directory", "The CA does not know the account any more."),
    AuditAction("account.key_planned", "directory", "A new key for the account was stored."),
    AuditAction("account.key_changed", "directory", "The account has the new key."),
    AuditAction("account.contact_told", "directory", "The CA was told to whom it may write."),
    AuditAction("account.deactivated", "directory", "The account was ended at the CA."),
    AuditAction("issuer.paused", "issuer", "Every replica leaves a CA alone, until when and why."),
    AuditAction("issuer.answered", "issuer", "It answers again, and work goes on."),
    AuditAction("issuer.resumed", "issuer", "A CA that was left alone is asked again at somebody's word."),
    AuditAction(
        "issuer.revoking",
        "issuer",
        "Somebody has all that a CA has issued replaced, to be revoked or as a drill.",
    ),
    # Who may come, and what they may see
    AuditAction(
        "config.read",
        "replica",
        "A replica started, and who may come by its configuration is other than before.",
    ),
    AuditAction("replica.sealed", "replica", "It gives nothing away and opens nothing from now on, and why."),
    AuditAction("replica.unsealed", "replica", "Its seal was broken; the reason is that of the seal."),
    AuditAction("deny.changed", "sds.deny", "Whom to refuse was read again, at a SIGHUP."),
    AuditAction(
        "api.refused", "call", "The API refused a call: nobody known, or nobody who may.", bounded=True
    ),
    AuditAction("target.registered", "target", "A target was registered, or changed."),
    AuditAction("target.removed", "target", "A target was forgotten at somebody's word."),
    AuditAction("target.forgotten", "target", "A target that nobody registered was not seen for a week."),
    AuditAction("proxy.invited", "proxy", "A proxy may enrol, and see these names: a grant."),
    AuditAction("proxy.enrolled", "proxy", "It has its first credential."),
    AuditAction("credential.renewed", "proxy", "It has its next one.", bounded=True),
    AuditAction("proxy.removed", "proxy", "Its grants, tokens and credential are gone."),
    AuditAction("token.created", "token", "A token was made, with these scopes or for this identity."),
    AuditAction("token.revoked", "token", "A token is worth nothing any more."),
    AuditAction("control_ca.made", "control-ca", "The control plane's own CA was made, or its successor."),
)

NAMES: Final = frozenset(action.name for action in ACTIONS)
