"""Names on demand: Secrets that came of a first handshake, the limits on how many, and when they go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict
from sds_server.inventory import audit, declarations, feed, rotations
from sds_server.inventory.database import Database, Transaction
from sds_server.model import Identity, Kind, Secret, SecretName
from sds_server.on_demand.rules import LIMIT_HOUR, Budget, Result, Rule, Verdict, decide, refused

PAGE: Final = 5_000
MAX_WILDCARDS: Final = 10_000
LOOK_EVERY: Final = timedelta(hours=12)
"""How often it is asked at least who subscribes, as a Target that is forgotten takes its traces along."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a Secret came of being asked for; ``identity`` was the first that did."""

    rule: str
    identity: Identity
    created_at: datetime
    wanted_at: datetime
    keep: timedelta


async def hold(database: Database, rules: Sequence[str], *, lasts: timedelta) -> None:
    """Say that a replica has these rules, for so much longer."""
    async with database.transaction() as tx:
        await tx.rows("hold_on_demand_rules", list(rules), lasts)


async def secrets(database: Database, rules: Sequence[Rule]) -> Mapping[str, Sequence[str]]:
    """Return all Secrets whose names these rules govern, and those of wildcards, with their DNS names."""
    exact = sorted({name for rule in rules for name in rule.names})
    suffixes = sorted({rule.suffix for rule in rules if rule.suffix is not None})
    any_name = any(rule.suffix is None and not rule.names for rule in rules)
    found: dict[str, Sequence[str]] = {}
    after = ""
    async with database.transaction() as tx:
        for row in await tx.rows("wildcard_secrets", MAX_WILDCARDS):
            found[row["name"]] = row["domains"]
    while True:
        async with database.transaction() as tx:
            rows = await tx.rows("governed_secrets", exact, suffixes, any_name, after, PAGE)
        found.update((row["name"], row["domains"]) for row in rows)
        if len(rows) < PAGE:
            return found
        after = rows[-1]["name"]


async def named(database: Database, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return those of these names that are Secrets, with their DNS names."""
    async with database.transaction() as tx:
        return {row["name"]: row["domains"] for row in await tx.rows("secrets_named", list(names))}


async def create(
    database: Database, name: str, rule: Rule, *, identity: Identity, node_id: str, actor: str
) -> Verdict:
    """Make the name a Secret with its first Rotation, if the rule's limits allow one more.

    Of replicas that are asked together one makes it, and the others find it.
    """
    secret = Secret(
        name=SecretName(name),
        kind=Kind.TLS_CERTIFICATE,
        domains=(name,),
        issuer=rule.issuer,
        key_type=rule.key_type,
        proof=rule.proof,
    )
    async with database.transaction() as tx:
        await tx.rows("lock_on_demand_rule", rule.name)
        if await tx.row("secret", name) is not None:
            return Verdict(Result.EXISTS)
        row = await tx.row(
            "on_demand_budget", rule.name, identity, rule.domain(name), LIMIT_HOUR, rule.window
        )
        assert row is not None  # noqa: S101 - it counts
        budget = Budget(
            names=row["names"],
            of_identity=row["of_identity"],
            of_domain=row["of_domain"],
            identity_again=row["identity_again"],
            domain_again=row["domain_again"],
        )
        verdict = decide(rule, budget, now=row["now"])
        if not verdict.granted:
            return verdict
        try:
            reason = await declarations.put_in(tx, secret, actor=actor, check=_there_is_none)
        except _Taken:  # by a person since we looked, or by another rule, whose lock is not ours
            return Verdict(Result.EXISTS)
        except Conflict:  # the name was once a trust bundle's, say: it is that for ever
            return refused(Result.UNAVAILABLE, row["now"])
        await tx.rows("forget_on_demand_name", name)
        await tx.rows(
            "insert_on_demand_name", name, rule.name, identity, rule.domain(name), rule.keep, LOOK_EVERY
        )
        await audit.append(
            tx,
            action="on_demand.created",
            actor=actor,
            subject=name,
            detail={"rule": rule.name, "identity": identity, "node_id": node_id},
        )
        if reason is not None:
            await rotations.open_in(tx, name, reason=reason, actor=actor)
        await feed.tell_secret(tx, name)
        crashpoint("name.creating")
    crashpoint("name.created")
    return verdict


class _Taken(Exception):
    """The name is a Secret."""


def _there_is_none(before: Secret | None) -> None:
    if before is not None:
        raise _Taken


async def deny(
    database: Database, denials: Sequence[tuple[Identity, str, str, Result]], *, actor: str
) -> None:
    """Audit that wishes were not granted: (identity, rule, name, why) each."""
    async with database.transaction() as tx:
        for identity, rule, name, result in denials:
            await audit.append(
                tx,
                action="on_demand.denied",
                actor=actor,
                subject=name,
                detail={"identity": identity, "rule": rule, "reason": result},
            )


async def sweep(
    database: Database, *, limit: int, orphans: bool, actor: str
) -> tuple[int, Sequence[tuple[str, str]]]:
    """Look at names that may be dead; returns at how many, and which were removed, each with its reason.

    ``orphans``: those whose rule nobody has any more are removed as well.
    """
    removed = []
    async with database.transaction() as tx:
        if orphans:
            await tx.rows("hasten_orphans")
        found = await tx.rows("idle_on_demand_names", limit)
        for row in found:
            name, wanted_until = row["secret"], row["wanted_until"]
            if row["orphaned"] and orphans:
                reason = "rule_gone"
            elif wanted_until + row["keep"] <= row["now"]:
                reason = "unwanted"
            else:
                await tx.rows("keep_on_demand_name", name, min(wanted_until, row["now"]), LOOK_EVERY)
                continue
            await _remove(tx, name, row["rule"], reason, actor=actor)
            removed.append((name, reason))
        if orphans:
            await tx.rows("forget_on_demand_rules")
    return len(found), removed


async def _remove(tx: Transaction, name: str, rule: str, reason: str, *, actor: str) -> None:
    await declarations.remove_in(tx, name, actor=actor)
    await audit.append(
        tx, action="on_demand.removed", actor=actor, subject=name, detail={"rule": rule, "reason": reason}
    )


async def asked(database: Database, name: str) -> Asked | None:
    """Return how the Secret came of being asked for; None: it did not."""
    async with database.transaction() as tx:
        row = await tx.row("on_demand_name", name)
    if row is None:
        return None
    return Asked(row["rule"], Identity(row["identity"]), row["created_at"], row["wanted_at"], row["keep"])
