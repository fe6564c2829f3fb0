"""Instances: what the live streams of a Target say on all replicas, rolled up into its Delivery.

Only a Target that has several costs rows of its own. A Delivery names a replica that holds a stream of it;
the next replica that writes it, while that one lives, makes a row for each of them, and from then on both
write theirs. Whoever writes locks the Delivery, so that the roll-up is always that of all rows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from sds_server.inventory import audit
from sds_server.inventory.database import Row, Transaction
from sds_server.lifecycle.instances import Instance, Instances, find, together
from sds_server.model import TargetId

Key = tuple[TargetId, str]


class Said(NamedTuple):
    """What is new: this replica's streams as they are now, and what is accepted if they are all.

    ``mine`` None: it is no stream that says it. ``seen_for``: how long the streams count without another
    word.
    """

    mine: Instance | None = None
    accepted: int | None = None
    seen_for: timedelta | None = None


@dataclass(frozen=True, slots=True)
class RollUp:
    """What a Delivery says now. ``accepted`` None: nothing new.

    ``kept``: who is told apart from now on, None: nobody was before; of them ``put`` have said something now.
    ``changed``: the instances together say something else than before.
    """

    accepted: int | None
    replica: str | None
    instances: int | None = None
    agreed: int | None = None
    kept: Instances | None = None
    put: Instances = ()
    seen_for: timedelta | None = None
    changed: bool = False


async def before(
    tx: Transaction, targets: Sequence[TargetId], names: Sequence[str], mine: Iterable[Instance | None]
) -> Mapping[Key, Row]:
    """Lock these Deliveries and return what is recorded of them."""
    me = next((one.of for one in mine if one is not None), None)
    rows = await tx.rows("deliveries_before", targets, names, me)
    return {(row["target_id"], row["secret"]): row for row in rows}


async def roll_up(tx: Transaction, said: Mapping[Key, Said], rows: Mapping[Key, Row]) -> dict[Key, RollUp]:
    """Return what each of these Deliveries says now; they are locked. One instance costs no statement."""
    several = [key for key, news in said.items() if _several(news, rows.get(key))]
    living = await _living(tx, several) if several else {}
    return {
        key: _rolled(news, rows.get(key), living[key]) if key in living else _plain(news, rows.get(key))
        for key, news in said.items()
    }


async def keep(tx: Transaction, rolled: Mapping[Key, RollUp]) -> None:
    """Write the rows of those that have several instances, and drop those of who has no more."""
    told = [(key, roll) for key, roll in rolled.items() if roll.kept is not None]
    if not told:
        return
    kept = [(*key, one.of) for key, roll in told for one in roll.kept or ()]
    await tx.rows(
        "forget_instances",
        *_columns(key for key, _ in told),
        *([row[column] for row in kept] for column in range(3)),
    )
    put = [(key, one, roll.seen_for) for key, roll in told for one in roll.put]
    if put:
        await tx.rows(
            "put_instances",
            *_columns(key for key, _, _ in put),
            [one.of for _, one, _ in put],
            [one.streams for _, one, _ in put],
            [one.accepted for _, one, _ in put],
            [one.refused for _, one, _ in put],
            [seen_for for _, _, seen_for in put],
        )


async def bury(tx: Transaction, *, limit: int, actor: str) -> Sequence[str]:
    """Let what dead replicas said count no more, at ``limit`` Deliveries; return their Secrets."""
    found = await tx.rows("instances_of_the_dead", limit)
    keys = [(TargetId(row["target_id"]), str(row["secret"])) for row in found]
    if not keys:
        return []
    # Targets before their Deliveries, as whoever writes them.
    await tx.rows("lock_targets", sorted({target for target, _ in keys}))
    rows = await before(tx, *_columns(keys), [])
    living = await _living(tx, keys)
    rolled = {key: _rolled(Said(), rows[key], living[key]) for key in keys if key in rows}
    now = list(rolled.values())
    await tx.rows(
        "roll_up_deliveries",
        *_columns(rolled),
        [roll.accepted for roll in now],
        [roll.replica for roll in now],
        [roll.instances for roll in now],
        [roll.agreed for roll in now],
    )
    await keep(tx, rolled)
    agreed = [(*key, roll.accepted) for key, roll in rolled.items() if roll.accepted is not None]
    contents = await audit.contents_of(tx, [(name, generation) for _, name, generation in agreed])
    for target, name, generation in agreed:
        content = contents[name, generation]
        await audit.append(
            tx,
            action="delivery.accepted",
            actor=actor,
            subject=name,
            cert_id=content.cert_id,
            detail={"target": target, "generation": generation, "by": "instances", **content.detail},
        )
    return [name for _, name in keys]


async def _living(tx: Transaction, keys: Collection[Key]) -> dict[Key, Instances]:
    """Return what living replicas say of each."""
    found: dict[Key, list[Instance]] = {key: [] for key in keys}
    for row in await tx.rows("instances_of", *_columns(keys)):
        one = Instance(row["replica"], row["streams"], row["accepted"], row["refused"])
        found[row["target_id"], row["secret"]].append(one)
    return {key: tuple(some) for key, some in found.items()}


def _several(news: Said, row: Row | None) -> bool:
    """Whether there is, was, or may be more than one instance."""
    mine, accepted = news.mine, news.accepted
    if mine is not None and mine.streams > 1:
        return True
    if row is None:
        return False
    speaks = mine is not None and (mine.streams > 0 or accepted is not None)
    return row["instances"] is not None or (bool(row["held"]) and speaks)


def _plain(news: Said, row: Row | None) -> RollUp:
    """Roll one instance up, or none."""
    mine, accepted = news.mine, news.accepted
    holder = None if row is None else row["replica"]
    if mine is not None and mine.streams > 0:
        holder = mine.of
    elif mine is not None and holder == mine.of:
        holder = None
    return RollUp(accepted, holder)


def _rolled(news: Said, row: Row | None, living: Instances) -> RollUp:
    """Roll several up; ``living`` are those that are told apart already."""
    mine, accepted = news.mine, news.accepted
    others = tuple(one for one in living if mine is None or one.of != mine.of)
    put = (mine,) if mine is not None and mine.streams > 0 else ()
    if row is not None and row["held"] and find(others, row["replica"]) is None:
        # Until now it was the only one, so that what is recorded is its word.
        put = (*put, Instance(row["replica"], 1, row["accepted"], row["refused"]))
    everybody = (*put, *others)
    all_of_them = together("", everybody)
    several = all_of_them.streams > 1
    instances = all_of_them.streams if several else None
    agreed = all_of_them.accepted if several else None
    new = _new(accepted, all_of_them.accepted, row) if everybody else accepted
    was = (None, None) if row is None else (row["instances"], row["agreed"])
    return RollUp(
        accepted=new,
        replica=everybody[0].of if everybody else None,
        instances=instances,
        agreed=agreed,
        kept=everybody if several else (),
        put=put if several else (),
        # Who speaks may be gone with it; the one that held it alone is there still.
        seen_for=news.seen_for if news.seen_for is not None or row is None else row["seen_for"],
        changed=new != accepted or (instances, agreed) != was,
    )


def _new(said: int | None, agreed: int | None, row: Row | None) -> int | None:
    """Return what all of them have accepted, where that is news; what is written is never taken back."""
    written = 0 if row is None else row["accepted"] or 0
    return agreed if agreed is not None and (agreed == said or agreed > written) else None


def _columns(keys: Iterable[Key]) -> tuple[list[TargetId], list[str]]:
    keys = list(keys)
    return [target for target, _ in keys], [name for _, name in keys]
