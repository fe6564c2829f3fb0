"""``/v1/audit/...``: the audit with its tree, for whoever verifies it or wants one entry proved.

Nothing here is to be believed: a verifier recomputes all of it, up to a signature by a key that it knows.
"""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from sds_server.admin import pages
from sds_server.admin.routes import Answer, Call, Route
from sds_server.audit import checkpoint, tree
from sds_server.errors import Conflict, NotFound
from sds_server.inventory import audit, audit_tree
from sds_server.model import Scope


class AuditLeaf(BaseModel):
    """A leaf: its number, its hash, the entry (null: it is gone), and the checkpoint that ends with it."""

    leaf: int
    hash: str
    entry: dict[str, Any] | None
    checkpoint: str | None


class AuditLeaves(BaseModel):
    """A page of leaves, in their order."""

    items: list[AuditLeaf]
    next_cursor: str | None


class UnsealedEntry(BaseModel):
    """An entry that is in no leaf: it is seconds old, or should not be there."""

    unsealed: dict[str, Any]


class UnsealedEntries(BaseModel):
    """A page of those, by id."""

    items: list[UnsealedEntry]
    next_cursor: str | None


class AuditExport(BaseModel):
    """What an export begins with: how many leaves there are."""

    leaves: int


class AuditProof(BaseModel):
    """That ``entry`` is in the tree of ``checkpoint``, as leaf ``leaf`` (RFC 9162 section 2.1.3.2)."""

    entry: dict[str, Any]
    leaf: int
    path: list[str]
    checkpoint: str


async def export(call: Call) -> Answer:
    """Say how large the audit is, and write down who takes it along."""
    # Also of an audit that is damaged: who finds out by whom takes it along.
    leaves = await audit_tree.size(call.services.database)
    async with call.services.database.transaction() as tx:
        await audit.append(
            tx,
            action="audit.exported",
            actor=call.caller.actor,
            subject="audit",
            detail={"leaves": leaves},
        )
    return Answer(AuditExport(leaves=leaves))


async def list_leaves(call: Call) -> Answer:
    """Return a page of leaves."""
    query = call.query(pages.Page)
    (before,) = pages.after(query.cursor, -1)
    found = await audit_tree.leaves(
        call.services.database,
        first=max(0, min(pages.bounded(before), pages.ID_MAX - 1) + 1),
        limit=query.limit,
    )
    return Answer(
        AuditLeaves(
            items=[
                AuditLeaf(
                    leaf=leaf.index,
                    hash=leaf.hash.hex(),
                    entry=None if leaf.entry is None else leaf.entry.document,
                    checkpoint=leaf.note,
                )
                for leaf in found
            ],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.index]),
        )
    )


async def list_unsealed(call: Call) -> Answer:
    """Return a page of entries that are in no leaf."""
    query = call.query(pages.Page)
    (after,) = pages.after(query.cursor, 0)
    found = await audit_tree.unsealed(call.services.database, after=pages.bounded(after), limit=query.limit)
    return Answer(
        UnsealedEntries(
            items=[UnsealedEntry(unsealed=entry.document) for entry in found],
            next_cursor=pages.cursor(found, query.limit, lambda last: [last.id]),
        )
    )


async def prove(call: Call) -> Answer:
    """Prove one entry."""
    database = call.services.database
    hint = "`certvoy audit ls --json` has their ids"
    try:
        number = pages.number(call.path["id"], "audit entry")
    except NotFound as e:
        raise NotFound(e.message, hint=hint) from None
    found = await audit_tree.find(database, number)
    if found is None:
        if not await audit_tree.exists(database, number):
            raise NotFound(f"audit entry {number}: there is none", hint=hint)
        raise Conflict(
            f"audit entry {number}: no checkpoint covers it yet",
            hint="ask again in a second; `certvoy_audit_unsealed_seconds` says how long that takes",
        )
    index, entry = found
    head = await audit_tree.head(database)
    assert head.note is not None  # noqa: S101 - there is a leaf, and they are of one size
    size = checkpoint.parse(head.note).size
    nodes = await audit_tree.nodes(database, tree.inclusion_nodes(index, size))
    path = tree.inclusion(index, size, nodes)
    return Answer(
        AuditProof(entry=entry.document, leaf=index, path=[step.hex() for step in path], checkpoint=head.note)
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/audit/exports",
        handler=export,
        summary="Begin to export the audit, which is audited",
        scope=Scope.READ,
        answers={HTTPStatus.OK: AuditExport},
    ),
    Route(
        method="GET",
        path="/v1/audit/leaves",
        handler=list_leaves,
        summary="List the audit's leaves with their entries and checkpoints",
        scope=Scope.READ,
        query=pages.Page,
        answers={HTTPStatus.OK: AuditLeaves},
    ),
    Route(
        method="GET",
        path="/v1/audit/unsealed",
        handler=list_unsealed,
        summary="List audit entries that are in no leaf",
        scope=Scope.READ,
        query=pages.Page,
        answers={HTTPStatus.OK: UnsealedEntries},
    ),
    Route(
        method="GET",
        path="/v1/audit/{id}/proof",
        handler=prove,
        summary="Prove that an entry is in the audit",
        scope=Scope.READ,
        answers={HTTPStatus.OK: AuditProof},
    ),
)
