# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""Uploads: a good pair becomes the next generation, a bad one leaves nothing and says what is wrong."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.errors import Conflict, GateRefused, StaleLease
from sds_server.inventory import (
    certificates,
    declarations,
    progress,
    revocations,
    roll_outs,
    rotations,
    sealed_keys,
    secrets,
)
from sds_server.lifecycle.uploads import Uploads
from sds_server.model import CertificateStatus, KeyHolder, Reason, RevocationReason
from tests.support.databases import turn_clock
from tests.support.issuances import secret
from tests.support.pki import authority, cert_pem, key_pem, new_key
from tests.support.roll_outs import confirm

NAMES = ("www.example.test", "example.test")
ROOT = authority("Bought root")
CA = ROOT.intermediate("Bought intermediate")
S = CertificateStatus


@pytest.fixture
def uploads(database, issuances):
    return Uploads(database=database, sealer=issuances.sealer, clock=SystemClock(), replica="one")


@pytest.fixture
def put(uploads):
    async def put(pair=None, name="www", *, chain=None, key=None):
        return await uploads.put(
            name,
            chain_pem=pair.chain_pem if chain is None else chain,
            private_key_pem=pair.key_pem if key is None else key,
            actor="person:test",
        )

    return put


async def complete(database, name="www"):
    roll_out = await roll_outs.get(database, name)
    await confirm(database, roll_out, proved=[], actor="r", unobserved=True)


async def everything(sql):
    tables = ("secret", "certificate", "certrotation", "key_material", "certaudit")
    return [await sql.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


async def served(database, name="www"):
    cert_id = (await certificates.served(database, [name]))[name].cert_id
    return (await certificates.get(database, cert_id)).certificate


async def test_a_pair_becomes_what_is_served_and_its_secret_is_created(put, database, issuances):
    pair = CA.issue(NAMES)
    done = await put(pair)
    await complete(database)

    created, now = await secrets.get(database, "www"), await served(database)
    rotation = await progress.latest(database, "www")
    key = await issuances.sealer.open(await sealed_keys.get(database, now.key_id))
    assert (True, False) == (done.created, done.unchanged)
    assert ("upload", NAMES, "ecdsa-p256") == (created.issuer, created.domains, created.key_type)
    assert (1, S.ACTIVE, pair.chain_pem) == (now.generation, now.status, now.chain_pem)
    assert pair.key.private_numbers() == keys.load_pkcs8(key).private_numbers()
    assert ("uploaded", "completed_unobserved") == (rotation.reason, rotation.outcome)


async def test_the_ca_s_own_name_is_the_issuer_so_that_serial_numbers_stay_unique(put, database):
    await put(CA.issue(NAMES), "one")
    await put(CA.issue(NAMES), "two")
    await put(authority("Another").issue(NAMES), "three")

    issuers = [(await served(database, name)).issuer for name in ("one", "two", "three")]
    assert all(issuer.startswith("upload:") for issuer in issuers)
    assert issuers[0] == issuers[1] != issuers[2]


async def test_the_served_pair_again_changes_nothing(put, sql):
    pair = CA.issue(NAMES)
    await put(pair)
    before = await everything(sql)
    done = await put(pair)

    assert (False, True) == (done.created, done.unchanged)
    assert before == await everything(sql)


async def test_the_next_pair_replaces_the_one_before(put, database):
    await put(CA.issue(NAMES))
    await complete(database)
    first = await served(database)
    done = await put(CA.issue(NAMES[::-1]))
    await complete(database)

    assert (False, False) == (done.created, done.unchanged)
    assert 2 == (await served(database)).generation
    assert S.REPLACED == (await certificates.get(database, first.id)).certificate.status


async def test_one_certificate_belongs_to_one_secret_and_does_not_come_back(put, sql):
    old = CA.issue(NAMES)
    await put(old)
    await put(CA.issue(NAMES))
    before = await everything(sql)

    with pytest.raises(Conflict, match="as generation 1 of www, which is rotating"):
        await put(old)
    with pytest.raises(Conflict, match="generation 1 of www"):
        await put(old, "other")
    assert before == await everything(sql)


CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
EC = new_key()
RSA = rsa.generate_private_key(65537, 2048)
SMALL = rsa.generate_private_key(65537, 1024)
P521 = ec.generate_private_key(ec.SECP521R1())
EDWARDS = ed448.Ed448PrivateKey.generate()
GOOD = CA.issue(NAMES, key=EC)
PAST = datetime.now(UTC) - timedelta(days=2)
LOCKED = EC.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
)
OLD_LOCKED = RSA.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.BestAvailableEncryption(b"x"),
)
LEAF, ABOVE = (cert_pem(certificate) for certificate in (GOOD.certificate, CA.certificate))
BROKEN = key_pem(EC).replace(b"M", b"N", 2)


@pytest.mark.parametrize(
    ("chain", "key", "rule", "says"),
    [
        (GOOD.chain_pem, LOCKED, "key", "encrypted"),
        (CA.issue(NAMES, key=RSA).chain_pem, OLD_LOCKED, "key", "encrypted"),
        (GOOD.chain_pem, b"", "pem", "holds 0 PRIVATE KEY blocks"),
        (GOOD.chain_pem, key_pem(EC) * 2, "pem", "holds 2 PRIVATE KEY blocks"),
        (GOOD.chain_pem, BROKEN, "pem", "cannot be read"),
        (GOOD.chain_pem, b"x" * 100_000, "size", "100000 bytes"),
        (GOOD.chain_pem, key_pem(new_key()), "key", "of none of the chain's certificates"),
        (ABOVE + LEAF, key_pem(EC), "order", "that of certificate 2, not of the first"),
        (LEAF + CA.issue(NAMES).chain_pem, key_pem(EC), "order", "2 leaves"),
        (LEAF + cert_pem(ROOT.certificate), key_pem(EC), "order", "not issued by"),
        (GOOD.chain_pem + cert_pem(ROOT.certificate), key_pem(EC), "root", "root"),
        (b"", key_pem(EC), "pem", "chain: the chain is empty"),
        (b"certificate", key_pem(EC), "pem", "chain: "),
        (GOOD.chain_pem + key_pem(EC), key_pem(EC), "pem", "block of type PRIVATE KEY"),
        (LEAF * 60, key_pem(EC), "size", "certificates"),
        (CA.issue(NAMES, key=EC, not_before=PAST, days=1).chain_pem, key_pem(EC), "dates", "expired at"),
        (CA.issue(NAMES, key=SMALL).chain_pem, key_pem(SMALL), "strength", "RSA key of 1024 bits"),
        (CA.issue(NAMES, key=P521).chain_pem, key_pem(P521), "strength", "EC key on secp521r1"),
        (CA.issue(NAMES, key=EDWARDS).chain_pem, key_pem(EDWARDS), "strength", "an Ed448 key"),
        (CA.issue(key=EC, uris=["spiffe://a/b"]).chain_pem, key_pem(EC), "names", "no DNS name"),
        (CA.issue(["a_b.example.test"], key=EC).chain_pem, key_pem(EC), "names", "a_b.example.test"),
        (CA.issue(NAMES, key=EC, usages=[CLIENT_AUTH]).chain_pem, key_pem(EC), "usage", "serverAuth"),
    ],
)
async def test_a_bad_pair_says_what_is_wrong_and_leaves_nothing(put, sql, chain, key, rule, says):
    before = await everything(sql)
    with pytest.raises(GateRefused) as refused:
        await put(chain=chain, key=key)

    assert rule == refused.value.rule, refused.value.message
    assert says in refused.value.message
    assert refused.value.next_step != GateRefused.hint, "the next step is for who brought it"
    assert before == await everything(sql)


async def test_no_refusal_quotes_a_key(put):
    body = key_pem(EC).decode().splitlines()[1]
    for key in (BROKEN, LOCKED, key_pem(EC)[:100], key_pem(EC) * 2):
        with pytest.raises(GateRefused) as refused:
            await put(chain=GOOD.chain_pem, key=key)

        assert refused.value.__cause__ is None
        assert body[:20] not in f"{refused.value} {refused.value.next_step}"


async def test_a_key_behind_its_ec_parameters_is_read(put, database):
    """`openssl ecparam -genkey` writes it so."""
    traditional = EC.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    await put(chain=GOOD.chain_pem, key=parameters + traditional)

    assert 1 == (await served(database)).generation


async def test_names_are_exactly_those_of_a_secret_that_is_there(put, issuances, sql):
    await issuances.declare("www", NAMES[:1])
    before = await everything(sql)
    with pytest.raises(GateRefused, match="extra") as refused:
        await put(CA.issue(NAMES))

    assert "names" == refused.value.rule
    assert before == await everything(sql)


async def test_an_upload_takes_the_place_of_what_a_worker_has_under_way(put, issuances, database, sql):
    declared = await issuances.declare()
    claim = await issuances.claim()
    await put(CA.issue(declared.domains))
    with pytest.raises(StaleLease):
        await issuances.store(claim, declared)
    await complete(database)

    assert (await served(database)).issuer.startswith("upload:")
    assert "internal" == (await secrets.get(database, "www")).issuer, "its issuer stays"
    assert 1 == await sql.fetchval("SELECT count(*) FROM certificate")


async def test_a_secret_of_a_ca_is_renewed_by_that_ca_and_an_uploaded_one_by_nobody(
    put, issuances, database, sql
):
    await issuances.declare("ordered", NAMES)
    await put(CA.issue(NAMES, days=30), "ordered")
    await put(CA.issue(NAMES, days=30), "uploaded")
    await complete(database, "ordered")
    await complete(database, "uploaded")
    await turn_clock(sql, timedelta(days=25))

    assert 1 == await rotations.open_due(database, limit=10, actor="r")
    claim = await issuances.claim()
    assert ("ordered", Reason.RENEWAL) == (claim.lease.secret, claim.reason)
    assert await rotations.claim(database, replica="a", lease_for=timedelta(1)) is None


async def test_an_uploaded_one_that_ends_is_expired(put, database, sql):
    await put(CA.issue(NAMES, days=1))
    await complete(database)
    await turn_clock(sql, timedelta(days=2))

    assert 1 == await certificates.lapse(database, limit=10, actor="r")
    assert S.EXPIRED == (await served(database)).status


async def test_what_the_publisher_rejects_waits_for_another_pair_and_never_for_a_ca(put, database, sql):
    await put(CA.issue(NAMES))
    await roll_outs.reject(
        database, "www", (await served(database)).id, error={"what": "gate", "hint": "mend"}, actor="r"
    )
    await turn_clock(sql, timedelta(hours=1))
    claimed = await rotations.claim(database, replica="a", lease_for=timedelta(1))
    await put(CA.issue(NAMES))

    assert claimed is None
    assert 2 == (await served(database)).generation
    assert 1 == await sql.fetchval("SELECT count(*) FROM certrotation")


async def test_a_rotation_of_uploaded_pairs_is_refused_with_the_commands_that_help(put, database):
    await put(CA.issue(NAMES))

    with pytest.raises(Conflict, match="not ordered from a CA") as refused:
        await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")
    assert "certvoy upload www" in refused.value.next_step
    assert "certvoy issue www" in refused.value.next_step


async def test_an_uploaded_certificate_is_revoked_elsewhere(put, database):
    await put(CA.issue(NAMES))

    with pytest.raises(Conflict, match="was uploaded"):
        await revocations.request(
            database, "www", generation=1, reason=RevocationReason.SUPERSEDED, at_once=True, actor="p"
        )


async def test_a_key_that_was_revoked_as_compromised_never_comes_back(put, issuances, database, sql):
    declared = await issuances.declare()
    stored = await issuances.issue(declared)
    sealed = await sealed_keys.get(database, stored.key_id)
    lost = keys.load_pkcs8(await issuances.sealer.open(sealed))
    await revocations.request(
        database, "www", generation=1, reason=RevocationReason.KEY_COMPROMISE, at_once=True, actor="p"
    )
    before = await everything(sql)

    with pytest.raises(GateRefused, match="generation 1 of www was revoked because this key is lost"):
        await put(CA.issue(declared.domains, key=lost))
    assert before == await everything(sql)


async def test_a_secret_whose_target_makes_the_keys_takes_no_pair_from_elsewhere(put, database, sql):
    declared = replace(secret(domains=NAMES), key_holder=KeyHolder.TARGET)
    await declarations.put(database, declared, actor="person:test")
    with pytest.raises(Conflict, match="its private keys are made by its target") as refused:
        await put(CA.issue(dns=NAMES))

    assert "key_holder: certvoy" in refused.value.next_step
    assert 0 == await sql.fetchval("SELECT count(*) FROM key_material")


async def test_a_deleted_secret_comes_back_with_the_pair(put, issuances, database):
    await declarations.put(database, secret(), actor="p")
    await declarations.remove(database, "www", actor="p")
    done = await put(CA.issue(NAMES))

    assert done.created
    assert ("upload", NAMES) == (
        (await secrets.get(database, "www")).issuer,
        (await secrets.get(database, "www")).domains,
    )


async def test_a_wildcard_can_be_uploaded_though_none_can_be_ordered(put, database):
    await put(CA.issue(["*.example.test", "example.test"]))

    assert ("*.example.test", "example.test") == (await served(database)).domains
