# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""Keys go to another KEK row by row: what is changed meanwhile stays, what is damaged keeps no other."""

import asyncio
import json
from datetime import timedelta
from uuid import uuid4

import pytest

from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.errors import CustodyError, Unavailable
from sds_server.inventory import deployment, sealed_keys
from sds_server.inventory.deployment import VersionKey
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle import rewrapper as rewrapper_module
from sds_server.lifecycle.rewrapper import Rewrapper
from sds_server.model import KeyId, SealedKey
from tests.support.pki import new_key

ACTOR = "person:test"


class Kms(LocalKms):
    """A KEK in a file that can be away."""

    away = False

    async def wrap(self, dek, context):
        if self.away:
            raise Unavailable("gone")
        return await super().wrap(dek, context)

    async def unwrap(self, wrapped, *, kek_version, context):
        if self.away:
            raise Unavailable("gone")
        return await super().unwrap(wrapped, kek_version=kek_version, context=context)


@pytest.fixture
async def identity(database):
    return (await deployment.identify(database))[0]


@pytest.fixture
def old(tmp_path):
    return Kms(tmp_path / "old", create=True)


@pytest.fixture
def new(tmp_path):
    return Kms(tmp_path / "new", create=True)


@pytest.fixture
def before(old, identity):
    return Sealer(old, deployment=identity, clock=SystemClock())


@pytest.fixture
def after(new, identity):
    """A Sealer that has the new KEK alone."""
    return Sealer(new, deployment=identity, clock=SystemClock())


@pytest.fixture
def rewrapper(database, old, new, identity):
    sealer = Sealer(new, deployment=identity, clock=SystemClock(), previous=[old])
    return Rewrapper(database=database, sealer=sealer)


async def stored(database, sealer, count=1):
    key = new_key()
    made = [
        await sealer.seal(
            keys.pkcs8(key),
            key_id=KeyId(uuid4()),
            purpose="leaf",
            spki_sha256=keys.spki_sha256(key.public_key()),
        )
        for _ in range(count)
    ]
    async with database.transaction() as tx:
        for sealed in made:
            await sealed_keys.insert(tx, sealed)
    return sorted(made, key=lambda sealed: sealed.key_id)


async def finish(rewrapper, *, every=False):
    """Go on until there is no next batch; return the batches."""
    batches = [await rewrapper.step(after=None, every=every, actor=ACTOR)]
    while batches[-1].after is not None:
        batches.append(await rewrapper.step(after=batches[-1].after, every=every, actor=ACTOR))
    return batches


async def audited(sql):
    rows = await sql.fetch("SELECT subject, actor, payload FROM certaudit WHERE action = 'keys.rewrapped'")
    return [(row["subject"], row["actor"], json.loads(row["payload"])["keys"]) for row in rows]


async def test_every_key_opens_by_the_new_kek_alone(database, before, after, rewrapper, sql, old):
    made = await stored(database, before, 3)
    (batch,) = await finish(rewrapper)

    for sealed in made:
        again = await sealed_keys.get(database, sealed.key_id)
        assert await after.open(again) == await before.open(sealed)
        assert again.envelope == sealed.envelope
    assert (3, 0, {}) == (batch.rewrapped, batch.passed_over, batch.refused)
    assert [(old.kek_uri, ACTOR, 3)] == await audited(sql)


async def test_batches_follow_each_other_and_each_is_committed(database, before, rewrapper, monkeypatch, sql):
    monkeypatch.setattr(rewrapper_module, "BATCH", 2)
    await stored(database, before, 5)
    batches = await finish(rewrapper)

    assert [2, 2, 1] == [batch.rewrapped for batch in batches]
    assert [2, 2, 1] == [count for _, _, count in await audited(sql)]


async def test_what_is_done_is_not_done_again(database, before, rewrapper):
    await stored(database, before, 3)
    await finish(rewrapper)
    (batch,) = await finish(rewrapper)

    assert 0 == batch.rewrapped


async def test_all_are_rewrapped_where_a_kms_tells_no_versions(database, after, rewrapper):
    (sealed,) = await stored(database, after)
    (batch,) = await finish(rewrapper, every=True)

    assert 1 == batch.rewrapped
    assert sealed.dek_wrapped != (await sealed_keys.get(database, sealed.key_id)).dek_wrapped


async def test_two_who_rewrap_at_once_do_each_key_once(database, before, after, rewrapper, sql):
    made = await stored(database, before, 20)
    batches = await asyncio.gather(*(rewrapper.step(after=None, every=False, actor=ACTOR) for _ in range(3)))

    assert 20 == sum(batch.rewrapped for batch in batches)
    assert 20 == sum(count for _, _, count in await audited(sql))
    for sealed in made:
        await after.open(await sealed_keys.get(database, sealed.key_id))


async def test_a_key_that_was_changed_meanwhile_stays(database, before, sql):
    """Compare and swap: what was read must still be there."""
    (sealed,) = await stored(database, before)
    again = await before.rewrap(sealed)
    await sql.execute("UPDATE key_material SET dek_wrapped = $1", b"another's")

    assert 0 == await sealed_keys.rewrap(database, [(sealed, again)], actor=ACTOR)
    assert b"another's" == await sql.fetchval("SELECT dek_wrapped FROM key_material")
    assert [] == await audited(sql)


async def test_a_key_that_was_destroyed_meanwhile_does_not_come_back(database, before, sql):
    (sealed,) = await stored(database, before)
    again = await before.rewrap(sealed)
    await sql.execute("UPDATE key_material SET dek_wrapped = NULL, envelope = NULL, destroyed_at = now()")

    assert 0 == await sealed_keys.rewrap(database, [(sealed, again)], actor=ACTOR)
    assert await sql.fetchval("SELECT dek_wrapped IS NULL FROM key_material")


async def test_a_damaged_key_is_named_and_keeps_no_other(database, before, after, rewrapper, sql):
    made = await stored(database, before, 3)
    await sql.execute("UPDATE key_material SET dek_wrapped = $1 WHERE id = $2", bytes(60), made[1].key_id)
    (batch,) = await finish(rewrapper)

    assert 2 == batch.rewrapped
    assert [made[1].key_id] == [*batch.refused]
    assert "kek" in batch.refused[made[1].key_id]


async def test_a_key_that_its_target_keeps_is_nobodys_to_rewrap(database, rewrapper, sql):
    external = SealedKey.external(KeyId(uuid4()), "leaf", bytes(32))
    async with database.transaction() as tx:
        await sealed_keys.insert(tx, external)
    (batch,) = await finish(rewrapper, every=True)

    assert 0 == batch.rewrapped
    assert [] == [kek for kek in (await rewrapper.custody()).keks if kek.kek_uri == "external"]


async def test_while_the_old_kms_is_away_nothing_is_lost(database, before, after, rewrapper, old):
    (sealed,) = await stored(database, before)
    old.away = True
    with pytest.raises(Unavailable):
        await finish(rewrapper)
    old.away = False
    await finish(rewrapper)

    assert await after.open(await sealed_keys.get(database, sealed.key_id))


@pytest.mark.parametrize("named", [True, False])
async def test_the_key_of_the_content_hashes_goes_along(database, before, after, rewrapper, old, named):
    """Also where a release before did not write whose it is."""
    wrapped = await before.wrap_key(bytes(range(32)), purpose="version")
    await deployment.keep_version_key(database, VersionKey(wrapped, old.kek_uri if named else None))
    (batch,) = await finish(rewrapper)
    _, key = await deployment.identify(database)

    assert 1 == batch.rewrapped
    assert bytes(range(32)) == await after.unwrap_key(key.wrapped, purpose="version", kek_uri=key.kek_uri)
    assert after.kek_uri == key.kek_uri


async def test_custody_counts_what_each_kek_has_wrapped(database, before, after, rewrapper, old, new):
    await stored(database, before, 3)
    await stored(database, after, 2)
    found = await rewrapper.custody()
    counted = {(kek.kek_uri, kek.kek_version, kek.keys, kek.current) for kek in found.keks}

    assert {(old.kek_uri, 1, 3, False), (new.kek_uri, 1, 2, True)} == counted
    assert (3, new.kek_uri, 1, None) == (found.behind, found.kek_uri, found.newest, found.error)


async def test_custody_says_since_when_a_kek_is_not_needed(database, before, rewrapper, old):
    await stored(database, before)
    await finish(rewrapper)
    (left,) = [kek for kek in (await rewrapper.custody()).keks if kek.kek_uri == old.kek_uri]

    assert (0, True) == (left.keys, left.left_at is not None)


async def test_custody_says_until_when_kept_backups_need_a_kek(database, before, old, new, identity):
    """A backup from before the last key was moved away holds keys that the old KEK alone opens."""
    await stored(database, before)
    sealer = Sealer(new, deployment=identity, clock=SystemClock(), previous=[old])
    keeping = Rewrapper(database=database, sealer=sealer, backups_kept=timedelta(days=30))
    await finish(keeping)
    (left,) = [kek for kek in (await keeping.custody()).keks if kek.kek_uri == old.kek_uri]

    assert timedelta(days=30) == left.needed_until - left.left_at


async def test_a_kek_whose_last_key_was_destroyed_is_needed_by_backups_from_before(
    database, before, rewrapper, old, sql
):
    """Nothing was rewrapped: all that it had wrapped was replaced in its time."""
    await stored(database, before)
    await sql.execute(
        "UPDATE key_material SET dek_wrapped = NULL, envelope = NULL, destroyed_at = certvoy_now()"
    )
    (left,) = [kek for kek in (await rewrapper.custody()).keks if kek.kek_uri == old.kek_uri]

    assert (0, 1, True) == (left.keys, left.kek_version, left.left_at is not None)


async def test_custody_names_a_kek_that_opens_nowhere_here(database, before, after):
    await stored(database, before)
    found = await Rewrapper(database=database, sealer=after).custody()

    assert [(before.kek_uri, False)] == [(kek.kek_uri, kek.opens) for kek in found.keks if kek.keys]


async def test_custody_is_told_while_the_kms_is_away(database, before, rewrapper, new):
    await stored(database, before)
    new.away = True
    found = await rewrapper.custody()

    assert ("gone", None, 1) == (found.error, found.newest, found.behind)


async def test_a_kek_that_cannot_wrap_is_told_before_anything_is_read(database, before, rewrapper, new):
    await stored(database, before)

    async def wrap(dek, context):
        raise CustodyError("kek: no right")

    new.wrap = wrap
    with pytest.raises(CustodyError, match="no right"):
        await rewrapper.step(after=None, every=False, actor=ACTOR)
