"""The control plane's own CA: made once, succeeded in time; and the servers' certificates from it."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sds_server import authority
from sds_server.credentials import Files, HttpsTls, server_credentials
from sds_server.errors import Unavailable
from sds_server.identity import Grant
from sds_server.inventory import api_tokens, deployment, proxies
from sds_server.inventory.proxies import GrantedName
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.enroller import SERVER_LIFETIME, Enroller
from sds_server.model import Identity, Scope
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock, waits
from tests.support.fakes import CuttableDatabase

LIFE = timedelta(hours=24)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
async def replica(database, tmp_path, clock):
    """Make the Enroller of another replica of the same deployment."""
    identity, _ = await deployment.identify(database)
    LocalKms(tmp_path / "kek", create=True)

    def replica():
        return Enroller(
            database=database,
            sealer=Sealer(LocalKms(tmp_path / "kek"), deployment=identity, clock=clock),
            trust_domain="certvoy",
            lifetime=LIFE,
            clock=clock,
            actor="replica:test",
        )

    return replica


def admission_of(replica, database, clock, **more):
    options = {"configured": [], "trust_domain": "certvoy", "clock": clock, "own_ca": True}
    return Admission(database=database, enroller=replica(), **options | more)


async def test_replicas_that_start_together_agree_on_one_ca(replica, sql):
    found = await asyncio.gather(*(replica().authorities() for _ in range(5)))

    assert 1 == len({ca.certificate for cas in found for ca in cas})
    assert 1 == await sql.fetchval("SELECT count(*) FROM control_ca")
    assert 1 == await sql.fetchval("SELECT count(*) FROM key_material WHERE purpose = 'control-ca'")


async def test_a_ca_has_a_successor_in_time_and_both_are_trusted(replica, clock, sql):
    (first,) = await replica().authorities()
    clock.turn(authority.CA_LIFETIME - authority.CA_RENEWED + timedelta(days=1))
    old, new = await replica().authorities()

    assert first == old
    assert old.certificate != new.certificate
    assert new.certificate.not_valid_after_utc > old.certificate.not_valid_after_utc
    assert 2 == len(await replica().authorities())


async def test_a_ca_that_expired_is_trusted_no_more(replica, clock, sql):
    await replica().authorities()
    clock.turn(authority.CA_LIFETIME)
    await turn_clock(sql, authority.CA_LIFETIME)
    (only,) = await replica().authorities()

    assert 2 == only.generation


async def test_the_servers_own_certificate_is_made_anew_before_it_ends(replica, database, clock):
    admission = admission_of(replica, database, clock, server_names=["localhost"])
    changes = []
    admission.on_change = lambda: changes.append(clock.now())
    await admission.step()
    first = x509.load_pem_x509_certificate(admission.issued.chain_pem)
    clock.turn(SERVER_LIFETIME / 2)
    await admission.step()
    same = x509.load_pem_x509_certificate(admission.issued.chain_pem)
    clock.turn(SERVER_LIFETIME / 4)
    await admission.step()
    second = x509.load_pem_x509_certificate(admission.issued.chain_pem)

    assert first == same
    assert first.serial_number != second.serial_number
    assert clock.now() < first.not_valid_after_utc
    assert [clock.now()] == changes


async def test_both_listeners_take_what_our_ca_issues(replica, database, clock):
    admission = admission_of(replica, database, clock, server_names=["localhost", "127.0.0.1"])
    await admission.step()
    https = HttpsTls(Files(section="admin"), lambda: admission.issued)

    assert server_credentials(Files(), lambda: admission.issued)
    assert 1 == len(https.context.now().get_ca_certs())


async def test_a_grant_that_cannot_be_read_takes_no_other_away(replica, database, clock, sql):
    admission = admission_of(replica, database, clock, configured=[Grant("spiffe://td.test/a", ("x",))])
    insert = "INSERT INTO identity_grant (identity, name, granted_by) VALUES ($1, $2, 'person:test')"
    await sql.execute(insert, "spiffe://td.test/b", "*")
    await sql.execute(insert, "spiffe://td.test/c", "y")
    await admission.step()

    allowed = [
        admission.authorize(Identity(f"spiffe://td.test/{who}"), name) for who, name in ("ax", "by", "cy")
    ]
    assert [True, False, True] == allowed


async def test_what_was_read_last_counts_while_the_database_is_away(replica, database, clock):
    cut = CuttableDatabase(database)
    admission = admission_of(
        replica, cut, clock, configured=[Grant("spiffe://td.test/a", ("x",))], own_ca=False
    )
    await admission.step()
    cut.cut()
    with pytest.raises(Unavailable):
        await admission.step()

    assert admission.authorize(Identity("spiffe://td.test/a"), "x")


async def test_who_may_come_is_read_also_while_the_kms_is_away(replica, database, clock, sql, monkeypatch):
    """Our own certificate is due, and waits; a grant that was taken back must not."""
    insert = "INSERT INTO identity_grant (identity, name, granted_by) VALUES ($1, $2, 'person:test')"
    await sql.execute(insert, "spiffe://td.test/b", "y")
    admission = admission_of(replica, database, clock, server_names=["localhost"])
    await admission.step()

    async def away(*_key):
        raise Unavailable("the KMS is away")

    monkeypatch.setattr(admission._enroller._sealer, "open", away)
    clock.turn(SERVER_LIFETIME)
    await sql.execute("DELETE FROM identity_grant")
    with pytest.raises(Unavailable, match="KMS"):
        await admission.step()

    assert not admission.authorize(Identity("spiffe://td.test/b"), "y")


async def test_admission_reads_again_whose_rights_were_changed_and_nobody_elses(
    replica, database, clock, monkeypatch
):
    """Those of the configuration stay, for one whose others are taken away as well."""
    enroller = replica()
    for name in ("edge-1", "edge-2"):
        await enroller.invite(name, granted=[GrantedName("www")], lasts=LIFE, actor="person:test")
    one, two, three = (Identity(f"spiffe://certvoy/proxy/edge-{number}") for number in (1, 2, 3))
    admission = admission_of(replica, database, clock, configured=[Grant(one, ("api",))])
    await admission.step()
    asked = []
    real = proxies.rights

    async def rights(database, *, since):
        asked.append(await real(database, since=since))
        return asked[-1]

    monkeypatch.setattr(proxies, "rights", rights)
    await proxies.remove(database, "edge-1", actor="person:test")
    await enroller.invite("edge-3", granted=[GrantedName("mail")], lasts=LIFE, actor="person:test")
    await admission.step()
    await admission.step()
    allowed = {
        (identity, name)
        for identity in (one, two, three)
        for name in ("www", "api", "mail")
        if admission.authorize(identity, name)
    }

    assert {one, three} == asked[0].changed
    assert {three} == set(asked[0].enrolled)
    assert {(one, "api"), (two, "www"), (three, "mail")} == allowed


async def test_rights_that_are_committed_late_are_read_late(replica, database, clock, sql):
    """A change that began before another was read, and is committed after it, is not passed over."""
    admission = admission_of(replica, database, clock)
    await admission.step()
    edge, other = Identity("spiffe://certvoy/proxy/edge"), Identity("spiffe://certvoy/proxy/other")
    grant = "INSERT INTO identity_grant (identity, name, granted_by) VALUES ($1, 'www', 'test')"
    async with sql.transaction():
        await sql.execute(grant, edge)
        async with database.transaction() as tx:
            await tx.rows("put_grant", other, "www", "test", None, False, None)
        await admission.step()
        early = admission.authorize(edge, "www"), admission.authorize(other, "www")
    await admission.step()

    assert (False, True) == early
    assert admission.authorize(edge, "www")


async def test_all_rights_are_read_again_of_a_database_that_went_back(database):
    """A backup was restored under a replica that runs."""
    assert (await proxies.rights(database, since=str(2**40))).changed is None


async def test_a_token_of_an_identity_is_known_until_it_is_revoked_or_denied(replica, database, clock, sql):
    """Also on replicas that have read everything else before; the table holds its hash alone."""
    edge = Identity("spiffe://td.test/edge")
    admission = admission_of(replica, database, clock)
    await admission.step()
    lasts = timedelta(hours=1)
    token, text = await api_tokens.create(database, "edge", identity=edge, lasts=lasts, actor="person:test")
    early = admission.bearer(text)
    await admission.step()
    bearer = admission.bearer(text)
    admission.deny([edge])
    denied = bearer.admitted()
    admission.deny([])
    admitted = bearer.admitted()
    await api_tokens.revoke(database, token.id, actor="person:test")
    await admission.step()

    assert early is None
    assert (edge, token.expires_at) == (bearer.identity, bearer.expires)
    assert [False, True, False] == [denied, admitted, bearer.admitted()]
    assert admission.bearer(text) is None
    assert admission.bearer("Bearer") is None
    assert not [
        row for row in await sql.fetch("SELECT api_token::text AS t FROM api_token") if text in row["t"]
    ]


async def test_a_token_that_was_made_before_is_known_from_the_start_and_to_the_admin_api_it_is_none(
    replica, database, clock
):
    edge = Identity("spiffe://td.test/edge")
    lasts = timedelta(hours=1)
    _, text = await api_tokens.create(database, "edge", identity=edge, lasts=lasts, actor="person:test")
    _, other = await api_tokens.create(database, "ci", scopes=[Scope.READ], lasts=None, actor="person:test")
    admission = admission_of(replica, database, clock)
    await admission.step()

    assert edge == admission.bearer(text).identity
    assert admission.bearer(other) is None
    assert await api_tokens.find(database, text) is None
    assert "ci" == (await api_tokens.find(database, other)).name


async def test_who_enrols_while_it_is_removed_waits_and_holds_no_token(replica, database, connect, sql):
    """A removal takes the proxy first, and its tokens with it."""
    enroller, key = replica(), ec.generate_private_key(ec.SECP256R1())
    _, token, _ = await enroller.invite("edge-1", granted=[], lasts=LIFE, actor="person:test")
    removal = await asyncpg.connect(**connect)
    async with asyncio.timeout(30):
        async with removal.transaction():
            await removal.execute("SELECT FROM proxy FOR UPDATE")
            enrolling = asyncio.create_task(enroller.enroll(token, authority.new_csr(key)))
            waited = await waits(sql, enrolling)
            free = await removal.fetch("SELECT FROM enrolment_token FOR UPDATE SKIP LOCKED")
        await enrolling
    await removal.close()

    assert (True, 1) == (waited, len(free))
