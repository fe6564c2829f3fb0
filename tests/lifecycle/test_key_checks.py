"""A drill of custody: keys by chance, by the KMS itself; what does not open is named, nothing is shown."""

import json
from uuid import uuid4

import pytest

from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.errors import Unavailable
from sds_server.inventory import deployment, sealed_keys
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.key_checks import KeyChecks
from sds_server.model import KeyId, SealedKey
from tests.support.pki import new_key

ACTOR = "person:test"


@pytest.fixture
def checks(issuances):
    return KeyChecks(database=issuances.database, sealer=issuances.sealer)


@pytest.fixture
async def issued(issuances):
    """Five secrets with a certificate each."""
    return [
        await issuances.issue(await issuances.declare(name, [f"{name}.example.test"])) for name in "abcde"
    ]


async def told(sql):
    row = await sql.fetchrow("SELECT actor, subject, payload FROM certaudit WHERE action = 'keys.checked'")
    return row["actor"], row["subject"], json.loads(row["payload"])


async def test_what_opens_is_counted_and_audited(checks, issuances, issued, sql):
    found = await checks.sample(100, actor=ACTOR)
    actor, subject, detail = await told(sql)

    assert (5, {}) == (found.opened, found.refused)
    assert (ACTOR, issuances.sealer.kek_uri, 5, 0) == (actor, subject, detail["opened"], detail["failed"])


async def test_no_more_are_opened_than_were_asked_for(checks, issued):
    assert 3 == (await checks.sample(3, actor=ACTOR)).opened


async def test_each_has_its_turn(database, issued):
    """A sample that were always the same would find nothing. Some have theirs seldom, by their ids."""
    wanted, seen = {certificate.key_id for certificate in issued}, set()
    for _ in range(20_000):
        seen |= {one.key.key_id for one in await sealed_keys.sample(database, 1)}
        if seen == wanted:
            break

    assert wanted == seen


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("envelope = set_byte(envelope, 90, get_byte(envelope, 90) # 1)", "tag"),
        ("dek_wrapped = set_byte(dek_wrapped, 20, get_byte(dek_wrapped, 20) # 1)", "kek"),
        ("kek_uri = 'local:another'", "kms.previous|local:another"),
    ],
)
async def test_what_does_not_open_is_named_and_keeps_no_other(checks, issued, sql, damage, rule):
    await sql.execute(f"UPDATE key_material SET {damage} WHERE id = $1", issued[0].key_id)
    found = await checks.sample(100, actor=ACTOR)
    _, _, detail = await told(sql)

    assert (4, [issued[0].key_id]) == (found.opened, [*found.refused])
    assert any(word in found.refused[issued[0].key_id] for word in rule.split("|"))
    assert [str(issued[0].key_id)] == [*detail["refused"]]


async def test_what_is_in_memory_does_not_help(issuances, issued, tmp_path):
    """It is what a restart would meet."""
    identity, _ = await deployment.identify(issuances.database)

    class Gone(LocalKms):
        gone = False

        async def unwrap(self, wrapped, *, kek_version, context):
            if self.gone:
                raise Unavailable("gone")
            return await super().unwrap(wrapped, kek_version=kek_version, context=context)

    kms = Gone(tmp_path / "kek")
    sealer = Sealer(kms, deployment=identity, clock=SystemClock())
    for one in await sealed_keys.sample(issuances.database, 5):
        await sealer.open(one.key)
    kms.gone = True

    with pytest.raises(Unavailable, match="gone"):
        await KeyChecks(database=issuances.database, sealer=sealer).sample(5, actor=ACTOR)


async def test_a_certificate_of_another_key_is_found(checks, issuances, issued, sql):
    """As a restore of one table out of two would leave it."""
    await sql.execute(
        "UPDATE certificate_chain SET chain_pem ="
        " (SELECT chain_pem FROM certificate_chain WHERE cert_id = $1) WHERE cert_id = $2",
        issued[1].id,
        issued[0].id,
    )
    found = await checks.sample(100, actor=ACTOR)

    assert [issued[0].key_id] == [*found.refused]
    assert "its leaf has another public key" in found.refused[issued[0].key_id]


async def test_keys_that_targets_keep_and_destroyed_ones_are_nobodys_to_open(checks, database, issued, sql):
    external = SealedKey.external(KeyId(uuid4()), "leaf", keys.spki_sha256(new_key().public_key()))
    async with database.transaction() as tx:
        await sealed_keys.insert(tx, external)
    await sql.execute(
        "UPDATE key_material SET dek_wrapped = NULL, envelope = NULL, destroyed_at = now() WHERE id = $1",
        issued[0].key_id,
    )

    assert 4 == (await checks.sample(100, actor=ACTOR)).opened
