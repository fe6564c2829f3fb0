"""The tables: brought to this release, and given to the roles that may use them.

Who owns them migrates: a login that owns them, is a member of the role that does, or is a superuser. Any
other login uses them as they are, and is told where they are too old.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sds_server.errors import SchemaMismatch
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.log import get

_PACKAGE = Path(__file__).resolve().parent
_NOBODY = "none"
"""The role of a session that has taken none (SET ROLE)."""

_log = get("schema")


@dataclass(frozen=True, slots=True)
class Schema:
    """How it is: what was ``applied`` to it just now, and what ``hinders`` that its roles are set up.

    ``login`` is who looks. ``become`` is the role that it can be in place of all that it is: a control plane
    needs no more; None: it is no more already, or cannot.
    """

    applied: Sequence[str]
    roles: "Roles"
    login: str
    hinders: str | None = None
    become: str | None = None


@dataclass(frozen=True, slots=True)
class Roles:
    """What the three roles of a database are called."""

    migrator: str
    app: str
    responder: str


def migrations() -> Sequence[tuple[int, str, str]]:
    """Return (version, name, SQL) of every migration, in order; from the wheel or from the checkout."""
    installed = _PACKAGE.parent / "migrations"
    folder = installed if installed.is_dir() else _PACKAGE.parent.parent / "migrations"
    return [
        (int(path.name.split("_", 1)[0]), path.stem, path.read_text())
        for path in sorted(folder.glob("*.sql"))
    ]


async def migrate(database: Database) -> Sequence[str]:
    """Bring the schema up to this release and return the names of the migrations that were applied.

    Replicas that start together take turns. Migrations only add, so that the release before runs on the
    result.

    Raises:
        SchemaMismatch: the schema is newer than this release, was changed by hand, holds somebody else's
        tables, or is older and this login may not change it.
    """
    async with database.transaction() as tx:
        # Without taking turns: anybody who may connect may hold that lock, and would keep us from starting.
        _, missing = await _look(tx)
    if not missing:
        return []
    async with database.transaction() as tx:
        return await _migrate(tx)


async def bring_up(database: Database, *, again: bool = False) -> Schema:
    """Migrate as `migrate` does, and give the tables to their roles, in one transaction.

    Where that was done it is left as it is, unless asked for ``again``: then each role has what it is to
    have, and nothing else that somebody gave it.
    """
    async with database.transaction() as tx:
        _, missing = await _look(tx)
        if not missing and not await _lacks_roles(tx, again=again):
            return await _standing(tx, applied=[], hinders=None)
    async with database.transaction() as tx:
        applied = await _migrate(tx)
        lacks = await _lacks_roles(tx, again=again or bool(applied))
        hinders = await tx.value("set_up_roles") if lacks else None
        return await _standing(tx, applied=applied, hinders=hinders)


@dataclass(frozen=True, slots=True)
class ResponderRole:
    """Who answers challenges: a ``login`` that may ``become`` the role of that ``name``; None: it cannot.

    ``reads_keys``: it keeps the right to read sealed keys.
    """

    login: str
    name: str
    become: str | None
    reads_keys: bool


async def responder_role(database: Database) -> ResponderRole:
    """Return as whom challenges are answered in a database.

    Raises:
        SchemaMismatch: it is of no release that has the roles.
    """
    async with database.transaction() as tx:
        if not await tx.value("has_roles"):
            raise SchemaMismatch(
                "database: it has no schema of this release",
                hint="run `certvoy migrate`, or start a control plane on it first",
            )
        login, name = await tx.value("login"), await tx.value("role", "responder")
        become = name if await tx.value("may_become", name) else None
        return ResponderRole(login, name, become, become is None and await tx.value("reads_keys"))


async def _lacks_roles(tx: Transaction, *, again: bool) -> bool:
    """Whether roles are to be set up, by a login that may."""
    owner = await tx.value("schema_owner")
    may: bool = await tx.value("may_act_as", owner)
    return may and (again or owner != await tx.value("role", "migrator"))


async def _standing(tx: Transaction, *, applied: Sequence[str], hinders: str | None) -> Schema:
    login: str = await tx.value("login")
    roles = Roles(*[await tx.value("role", part) for part in ("migrator", "app", "responder")])
    owns = await tx.value("may_act_as", await tx.value("schema_owner"))
    less = owns and hinders is None and await tx.value("may_act_as", roles.app)
    return Schema(applied, roles, login, hinders, roles.app if less else None)


async def _migrate(tx: Transaction) -> Sequence[str]:
    """Migrate in a transaction that has read no table yet: who has, holds up whoever it waits for here."""
    if not await tx.value("try_lock_migrations"):
        _log.info("schema.awaited")
        await tx.wait("lock_migrations")
    owner, missing = await _look(tx)
    if missing and not (await tx.value("may_act_as", owner) if owner else await tx.value("may_create")):
        raise _may_not(await tx.value("login"), missing, begun=owner is not None)
    if missing and owner:
        await tx.rows("become", owner)  # what is made is its owner's, not the login's
    for version, name, sql in missing:
        await tx.run_script(sql)
        await tx.rows("insert_migration", version, name, _checksum(sql))
    await tx.rows("become", _NOBODY)
    return [name for _, name, _ in missing]


async def _look(tx: Transaction) -> tuple[str | None, Sequence[tuple[int, str, str]]]:
    """Return who owns the schema, None where there is none, and which migrations it lacks."""
    owner: str | None = await tx.value("schema_owner")
    if owner and not await tx.value("reads_migrations"):
        login, app = await tx.value("login"), await tx.value("role", "app")
        raise SchemaMismatch(
            f"database: {login} may not read the tables that are there",
            hint=f"give `certvoy serve` a login that is a member of {app}: docs/how-to/database-roles.md",
        )
    if owner:
        present = {row["version"]: row for row in await tx.rows("migrations")}
    elif await tx.value("is_empty"):
        present = {}
    else:
        raise SchemaMismatch(
            "database: it holds tables that are not certvoy's", hint="give certvoy a database of its own"
        )
    known = migrations()
    _refuse_foreign(present, known)
    return owner, [migration for migration in known if migration[0] not in present]


def _may_not(login: str, missing: Sequence[tuple[int, str, str]], *, begun: bool) -> SchemaMismatch:
    names = [name for _, name, _ in missing]
    lacks = f"its schema lacks {', '.join(names)}" if begun else "it is empty"
    return SchemaMismatch(
        f"database: {lacks}, and {login} may not change it",
        hint="run `certvoy migrate` as a member of the role that owns it: docs/how-to/database-roles.md",
    )


def _refuse_foreign(present: Mapping[int, Row], known: Sequence[tuple[int, str, str]]) -> None:
    newest = max((version for version, _, _ in known), default=0)
    newer = [row["name"] for version, row in present.items() if version > newest]
    if newer:
        raise SchemaMismatch(
            f"database: its schema is newer than this release, which does not know {', '.join(newer)}",
            hint="run the release that migrated it, or a newer one",
        )
    for version, name, sql in known:
        if version in present and present[version]["checksum"] != _checksum(sql):
            raise SchemaMismatch(
                f"database: migration {name} was applied in another form than this release's",
                hint="restore the database or the release that it belongs to",
            )


def _checksum(sql: str) -> bytes:
    return hashlib.sha256(sql.encode()).digest()
