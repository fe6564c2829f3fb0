"""What is declared: a Secret put into the inventory, with the Rotation that it calls for."""

from sds_server.errors import CallerError
from sds_server.inventory import audit, feed, rotations, secrets
from sds_server.inventory.database import Database
from sds_server.model import Reason, Secret


async def put(database: Database, secret: Secret, *, actor: str) -> bool:
    """Create the Secret or change it to this; say whether anything changed.

    A new one gets its first Rotation; a change of names, issuer or key type gets one that replaces what is
    served. Putting the same again changes nothing.

    Raises:
        CallerError: the name exists with another kind.
    """
    columns = (list(secret.domains), secret.issuer, secret.key_type)
    async with database.transaction() as tx:
        created = await tx.value("insert_secret", secret.name, secret.kind, *columns)
        row = await tx.row("lock_secret", secret.name)
        before = None if created or row is None else secrets.from_row(row)
        if before == secret:
            return False
        if before is not None and before.kind != secret.kind:
            raise CallerError(
                f"secret {secret.name}: it is a {before.kind} for ever, and cannot become a {secret.kind}",
                hint="use another name",
            )
        if not created:
            await tx.rows("update_secret", secret.name, *columns)
        await audit.append(
            tx,
            action="secret.created" if created else "secret.changed",
            actor=actor,
            subject=secret.name,
            detail={"domains": secret.domains, "issuer": secret.issuer, "key_type": secret.key_type},
        )
        reason = Reason.INITIAL if created else Reason.CHANGED
        await rotations.open_in(tx, secret.name, reason=reason, actor=actor)
        await feed.tell_secret(tx, secret.name)
    return True
