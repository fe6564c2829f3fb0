"""What is declared: a Secret put into the inventory, with the Rotation that it calls for, or taken out."""

from collections.abc import Callable
from dataclasses import replace

from sds_server.errors import Conflict
from sds_server.inventory import audit, feed, freezes, rotations, secrets
from sds_server.inventory.database import Database, Transaction
from sds_server.lifecycle.states import Event
from sds_server.model import Kind, Outcome, Reason, Secret

Check = Callable[[Secret | None], None]
"""Looks at what is there, locked, before anything changes; raises to change nothing."""


def whatever(before: Secret | None) -> None:
    """Be content with whatever is there."""


async def put(database: Database, secret: Secret, *, actor: str, check: Check = whatever) -> bool:
    """Create the Secret or change it to this; say whether anything changed.

    A new one gets its first Rotation; a change of names, issuer, key type, key holder or key file gets one
    that replaces what is served. Putting the same again changes nothing.

    Raises:
        Conflict: the name exists with another kind, or is frozen and would get another Certificate.
    """
    async with database.transaction() as tx:
        reason = await put_in(tx, secret, actor=actor, check=check)
        await tx.rows("forget_on_demand_name", secret.name)  # from now on somebody answers for it
        if reason is not None:
            await rotations.open_in(tx, secret.name, reason=reason, actor=actor)
            await feed.tell_secret(tx, secret.name)
    return reason is not None


async def put_in(tx: Transaction, secret: Secret, *, actor: str, check: Check = whatever) -> Reason | None:
    """As `put`, in a transaction of the caller's, who opens the Rotation; None: nothing has changed."""
    domains, issuer = list(secret.domains), secret.issuer or None
    columns = (
        domains,
        issuer,
        secret.key_type,
        str(secret.proof),
        secret.key_holder,
        secret.key_file,
        list(secret.fallback),
    )
    created = await tx.value("insert_secret", secret.name, secret.kind, *columns)
    kind = await tx.value("kind_of", secret.name)
    if kind != secret.kind:
        # Deleted ones as well: who has subscribed to the name holds it in a slot of its kind.
        raise Conflict(
            f"secret {secret.name}: it is a {kind} for ever, and cannot become a {secret.kind}",
            hint="use another name",
        )
    row = await tx.row("lock_secret", secret.name)
    before = None if created or row is None else secrets.from_row(row)
    check(before)
    if before == secret:
        return None
    if before is not None and replace(before, proof=secret.proof, fallback=secret.fallback) == secret:
        await _change_policy(tx, before, secret, actor=actor)
        return None
    if before is not None:
        await freezes.check_in(tx, secret.name)
    if not created:
        await tx.rows("update_secret", secret.name, *columns)
    if secret.fallback or (before is not None and before.fallback):
        await tx.rows("look_at_fallbacks", secret.name)
    if before is not None and before.key_holder != secret.key_holder:
        await tx.rows("forget_key_request", secret.name)
    await audit.append(
        tx,
        action="secret.created" if created else "secret.changed",
        actor=actor,
        subject=secret.name,
        detail=_declared(secret),
    )
    return Reason.INITIAL if created else Reason.CHANGED


async def _change_policy(tx: Transaction, before: Secret, secret: Secret, *, actor: str) -> None:
    """Change what completes Rotations, or whom to fall back to: no other Certificate is wanted for that."""
    await tx.rows("change_policy", secret.name, str(secret.proof), list(secret.fallback))
    if before.fallback != secret.fallback:
        await tx.rows("look_at_fallbacks", secret.name)
    detail = _declared(secret) | {"proof_before": str(before.proof), "fallback_before": before.fallback}
    await audit.append(tx, action="secret.changed", actor=actor, subject=secret.name, detail=detail)


def _declared(secret: Secret) -> dict[str, object]:
    if secret.kind is not Kind.TLS_CERTIFICATE:
        return {"kind": secret.kind}
    return {
        "domains": secret.domains,
        "issuer": secret.issuer,
        "key_type": secret.key_type,
        "proof": str(secret.proof),
        "key_holder": secret.key_holder,
        "key_file": secret.key_file,
        "fallback": secret.fallback,
    }


async def remove(database: Database, name: str, *, actor: str, check: Check = whatever) -> None:
    """Take the Secret out: it is ABSENT from now on, and nothing is ordered for it any more.

    Its Certificates stay in the inventory, as history; proxies go on with what they have.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        check(await secrets.lock(tx, name))
        await remove_in(tx, name, actor=actor)


async def remove_in(tx: Transaction, name: str, *, actor: str) -> None:
    """As `remove`, in a transaction that holds the Secret's lock."""
    under_way = await tx.row("open_rotation", name)
    if under_way is not None:
        await rotations.abandon_orders(tx, under_way["id"])
        await tx.rows("clear_challenges", under_way["id"])
        await rotations.end(tx, under_way, Outcome.SUPERSEDED, Event.SUPERSEDED, actor=actor, secret=name)
    await tx.rows("supersede_payload", name)
    await tx.rows("forget_ticket_schedule", name)
    await tx.rows("forget_deliveries", name)
    await tx.rows("forget_key_request", name)
    await tx.rows("forget_fallback_look", name)
    await tx.rows("forget_on_demand_name", name)
    await tx.rows("delete_secret", name)
    await audit.append(tx, action="secret.deleted", actor=actor, subject=name)
    await feed.tell_secret(tx, name)
