"""Enrolment over the API: one token, one credential, renewed for as long as the proxy may."""

import asyncio
import json
import ssl
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from sds_server import authority
from sds_server.identity import Grant
from sds_server.inventory import deliveries
from sds_server.inventory.deliveries import News
from sds_server.model import Kind, Scope
from sds_server.xds import codec
from sds_server.xds.catalog import PENDING, Catalog, Resource
from tests.support.admin import SDS_PORT, Witness, serving
from tests.support.databases import turn_clock
from tests.support.pki import Pair, key_pem, new_key

EDGE = "spiffe://certvoy/proxy/edge-1"


async def invite(api, name="edge-1", **body):
    reply = await api.local("POST", f"/v1/proxies/{name}/enrolments", json=body)
    assert 201 == reply.status, reply.json
    return reply.json


async def enrol(api, token, key=None):
    """Enrol without a name of any kind; returns the reply and what it is worth as a client's pair."""
    key = key or new_key()
    body = {"token": token, "csr": authority.new_csr(key)}
    return await api.remote("POST", "/v1/enrolments", json=body), key


def pair(reply, key):
    chain = reply.json["certificate"].encode()
    return Pair(chain, key_pem(key), x509.load_pem_x509_certificate(chain), key)


async def enrolled(api, name="edge-1", **body):
    """Enrol a proxy, and wait until this replica has heard of it."""
    reply, key = await enrol(api, (await invite(api, name, **body))["token"])
    assert 201 == reply.status, reply.json
    made = pair(reply, key)
    await until(lambda: believed(api, made))
    return made


def believed(api, made):
    try:
        return bool(api.admission.holder(made.chain_pem))
    except Exception:
        return False


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_token_gives_a_credential_of_the_invited_name(api):
    invited = await invite(api, names=["www", "team/*"])
    reply, key = await enrol(api, invited["token"])
    certificate = x509.load_pem_x509_certificate(reply.json["certificate"].encode())
    (ca,) = x509.load_pem_x509_certificates(reply.json["authorities"].encode())

    assert (201, EDGE, EDGE) == (reply.status, invited["identity"], reply.json["identity"])
    assert key.public_key() == certificate.public_key()
    assert authority.issued_by(certificate, [ca])
    assert authority.digest(ca) == authority.ca_digest_of(invited["token"])
    assert SDS_PORT == reply.json["sds_port"]


async def test_an_enrolled_proxy_may_see_what_it_was_invited_for_and_is_shown_with_it(api):
    made = await enrolled(api, names=["www", "team/*"])
    shown = (await api.local("GET", "/v1/proxies/edge-1")).json["enrolment"]
    whoami = await api.remote("GET", "/v1/whoami", pair=made)

    assert EDGE == whoami.json["identity"]
    assert [True, True, False] == [api.admission.authorize(EDGE, n) for n in ("www", "team/a", "other")]
    assert ["team/*", "www"] == [grant["name"] for grant in shown["grants"]]
    assert shown["credential_until"] == made.certificate.not_valid_after_utc.isoformat().replace(
        "+00:00", "Z"
    )


def terms(shown):
    return {
        grant["name"]: (grant["kinds"], grant["issue"], grant["max_names"])
        for grant in shown.json["enrolment"]["grants"]
    }


async def test_an_invitation_says_on_what_terms_its_names_are_seen(api):
    await enrolled(api, names=["www"])
    await enrolled(api, names=["team/*"], kinds=["tls_certificate"], issue=True, max_names=20)
    shown = await api.local("GET", "/v1/proxies/edge-1")
    await until(lambda: api.admission.may_issue(EDGE, "team/a"))

    assert {"www": (None, False, None), "team/*": (["tls_certificate"], True, 20)} == terms(shown)
    assert 20 == api.admission.max_names(EDGE)
    assert not api.admission.may_issue(EDGE, "www")
    assert not api.admission.authorize(EDGE, "team/a", kind=Kind.GENERIC_SECRET)
    assert api.admission.authorize(EDGE, "www", kind=Kind.GENERIC_SECRET)


async def test_a_name_that_is_granted_again_is_granted_on_the_new_terms(api):
    await invite(api, names=["www"], issue=True, max_names=3)
    await until(lambda: api.admission.may_issue(EDGE, "www"))
    await invite(api, names=["www"], kinds=["validation_context"])
    await until(lambda: not api.admission.may_issue(EDGE, "www"))
    shown = await api.local("GET", "/v1/proxies/edge-1")

    assert {"www": (["validation_context"], False, None)} == terms(shown)
    assert api.admission.max_names(EDGE) is None


async def test_terms_without_names_are_refused(api):
    reply = await api.local("POST", "/v1/proxies/edge-1/enrolments", json={"issue": True})

    assert 400 == reply.status
    assert "terms of names" in reply.json["detail"]


async def test_names_in_the_request_change_nothing(api):
    key = new_key()
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, "999")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://certvoy/proxy/other")]),
            critical=True,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    token = (await invite(api))["token"]
    reply = await api.remote("POST", "/v1/enrolments", json={"token": token, "csr": csr})
    certificate = x509.load_pem_x509_certificate(reply.json["certificate"].encode())

    assert EDGE == reply.json["identity"]
    assert 999 != authority.enrolment_of(certificate)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


async def test_a_token_is_used_once_by_whoever_is_first(api):
    token = (await invite(api))["token"]
    replies = await asyncio.gather(*(enrol(api, token) for _ in range(5)))

    assert [201, 401, 401, 401, 401] == sorted(reply.status for reply, _ in replies)


async def test_whoever_lost_the_answer_asks_again_with_the_same_key(api):
    token = (await invite(api))["token"]
    first, key = await enrol(api, token)
    again, _ = await enrol(api, token, key)

    assert (201, 201) == (first.status, again.status)


async def test_a_token_ends(api, sql):
    token = (await invite(api, ttl="10m"))["token"]
    await turn_clock(sql, timedelta(minutes=11))
    reply, _ = await enrol(api, token)

    assert 401 == reply.status


@pytest.mark.parametrize(
    "token", ["", "certvoy_" + "A" * 43, "certvoy_enrol_x", f"certvoy_enrol_{'A' * 43}.{'0' * 64}"]
)
async def test_a_token_that_was_made_up_is_worth_nothing(api, token):
    reply, _ = await enrol(api, token)

    assert 401 == reply.status


async def test_a_bad_request_does_not_use_the_token_up(api):
    token = (await invite(api))["token"]
    bad = await api.remote("POST", "/v1/enrolments", json={"token": token, "csr": "garbage"})
    good, _ = await enrol(api, token)

    assert (400, 201) == (bad.status, good.status)


async def test_the_token_is_kept_as_its_digest_alone(api, sql):
    token = (await invite(api))["token"]
    random = token.removeprefix("certvoy_enrol_").split(".")[0]
    tables = ("enrolment_token", "proxy", "certaudit")
    rows = [str(row) for table in tables for row in await sql.fetch(f"SELECT {table}::text FROM {table}")]

    assert rows
    assert not [row for row in rows if random in row]


async def test_a_credential_is_renewed_as_the_same_identity(api):
    made = await enrolled(api)
    key = new_key()
    reply = await api.remote("POST", "/v1/credentials", pair=made, json={"csr": authority.new_csr(key)})
    renewed = pair(reply, key)

    assert (201, EDGE) == (reply.status, reply.json["identity"])
    assert believed(api, renewed)
    assert made.certificate.serial_number != renewed.certificate.serial_number


async def test_garbage_is_not_renewed(api):
    made = await enrolled(api)

    assert 400 == (await api.remote("POST", "/v1/credentials", pair=made, json={"csr": "garbage"})).status


async def test_a_certificate_of_another_ca_is_not_renewed_here(api):
    foreign = api.clients.issue(uris=["spiffe://td.test/edge"])
    body = {"csr": authority.new_csr(new_key())}

    assert 403 == (await api.remote("POST", "/v1/credentials", pair=foreign, json=body)).status


async def test_a_certificate_of_another_ca_that_claims_our_trust_domain_is_refused(api):
    await enrolled(api)
    foreign = api.clients.issue(uris=[EDGE])
    body = {"csr": authority.new_csr(new_key())}

    assert 401 == (await api.remote("GET", "/v1/whoami", pair=foreign)).status
    assert 401 == (await api.remote("POST", "/v1/credentials", pair=foreign, json=body)).status


async def test_a_mesh_whose_chains_have_an_intermediate_is_known_by_its_root(api):
    mesh = api.clients.intermediate("istiod")
    uris = ["spiffe://cluster.local/ns/web/sa/edge", "spiffe://cluster.local/ns/api/sa/edge"]
    seen = [(await api.remote("GET", "/v1/whoami", pair=mesh.issue(uris=[uri]))).json for uri in uris]
    two_names = await api.remote("GET", "/v1/whoami", pair=mesh.issue(uris=uris))

    assert uris == [who["identity"] for who in seen]
    assert 401 == two_names.status


async def test_a_proxy_that_was_removed_is_refused_at_once_and_renews_nothing(api):
    made = await enrolled(api, names=["www"])
    removed = await api.local("DELETE", "/v1/proxies/edge-1")
    await until(lambda: not believed(api, made))
    body = {"csr": authority.new_csr(new_key())}

    assert 204 == removed.status
    assert 401 == (await api.remote("POST", "/v1/credentials", pair=made, json=body)).status
    assert not api.admission.authorize(EDGE, "www")
    assert 404 == (await api.local("GET", "/v1/proxies/edge-1")).status
    assert 404 == (await api.local("DELETE", "/v1/proxies/edge-1")).status


async def test_a_renewal_that_was_begun_before_a_removal_is_none_of_the_next_enrolment(api):
    old = await enrolled(api)
    context = ssl.create_default_context(cafile=str(api.directory / "server-ca.pem"))
    context.load_cert_chain(*old.write(api.directory, "old"))
    body = json.dumps({"csr": authority.new_csr(new_key())}).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.ports.api, ssl=context)
    try:
        writer.write(
            b"POST /v1/credentials HTTP/1.1\r\nHost: certvoy\r\nConnection: close\r\n" + head.encode()
        )
        assert b"100" in await reader.readuntil(b"\r\n\r\n")  # by now it is known who asks
        await api.local("DELETE", "/v1/proxies/edge-1")
        await enrolled(api)
        writer.write(body)

        assert b"401" in await reader.readline()
    finally:
        writer.close()


async def test_who_waits_for_a_bundle_while_it_is_removed_gets_nothing_of_the_next_enrolment(
    database, tmp_path
):
    catalog, witness = Catalog(), Witness()
    catalog.publish({"www": PENDING})
    async with serving(database, tmp_path, catalog=catalog, observer=witness) as api:
        old = await enrolled(api, names=["www"])
        waits = asyncio.create_task(
            api.remote("GET", "/v1/secrets/www/bundle", pair=old, headers={"Prefer": "wait=60"})
        )
        await until(lambda: witness.told)
        await api.local("DELETE", "/v1/proxies/edge-1")
        await enrolled(api, names=["www"])
        served = api.clients.issue(dns=["www.example.test"])
        body = codec.tls_certificate("www", served.chain_pem, served.key_pem)
        catalog.publish({"www": Resource(name="www", version="1", generation=1, body=body)})
        reply = await waits

        assert 401 == reply.status
        assert b"PRIVATE KEY" not in reply.raw


async def test_a_token_of_a_removed_proxy_goes_with_it(api):
    token = (await invite(api))["token"]
    await api.local("DELETE", "/v1/proxies/edge-1")
    reply, _ = await enrol(api, token)

    assert 401 == reply.status


async def test_a_proxy_that_is_enrolled_anew_is_not_let_in_by_its_old_credential(api):
    old = await enrolled(api)
    await api.local("DELETE", "/v1/proxies/edge-1")
    new = await enrolled(api)

    assert not believed(api, old)
    assert believed(api, new)
    assert 401 == (await api.remote("GET", "/v1/whoami", pair=old)).status


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("edge-1", {"names": ["*"]}, 422),
        ("edge-1", {"names": ["*.not a name"]}, 400),
        ("edge-1", {"ttl": "31d"}, 400),
        ("edge%20one", {}, 400),
        ("edge%2Fone", {}, 400),
    ],
)
async def test_an_invitation_that_cannot_be_is_refused(api, sql, name, body, status):
    reply = await api.local("POST", f"/v1/proxies/{name}/enrolments", json=body)

    assert status == reply.status
    assert 0 == await sql.fetchval("SELECT count(*) FROM proxy")


async def test_what_was_done_is_audited(api, sql):
    made = await enrolled(api, names=["www"])
    await api.remote("POST", "/v1/credentials", pair=made, json={"csr": authority.new_csr(new_key())})
    await api.local("DELETE", "/v1/proxies/edge-1")
    actions = await sql.fetch("SELECT action, actor FROM certaudit WHERE subject = 'edge-1' ORDER BY id")

    assert ["proxy.invited", "proxy.enrolled", "credential.renewed", "proxy.removed"] == [
        row["action"] for row in actions
    ]
    assert ["proxy:edge-1"] * 2 == [row["actor"] for row in actions][1:3]


async def test_grants_of_the_configuration_stay_beside_those_of_the_database(database, tmp_path):
    async with serving(database, tmp_path, grants=[Grant(EDGE, ("a",))]) as api:
        await enrolled(api, names=["b"])

        assert [True, True] == [api.admission.authorize(EDGE, name) for name in ("a", "b")]
        await api.local("DELETE", "/v1/proxies/edge-1")
        await until(lambda: not api.admission.authorize(EDGE, "b"))


async def test_without_a_certificate_the_api_is_served_with_one_of_our_own_ca(database, tmp_path):
    async with serving(database, tmp_path, own_ca=True) as api:
        told = await api.local("GET", "/v1/authorities")
        context = ssl.create_default_context(cadata=told.json["authorities"])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", api.ports.api, ssl=context, server_hostname="localhost"
        )
        writer.close()


async def test_the_scope_that_enrols_is_enroll(api):
    token = await api.token(Scope.ENROLL)
    reply = await api.remote("POST", "/v1/proxies/edge-1/enrolments", token=token, json={})

    assert 201 == reply.status


async def listed(api, path="/v1/proxies"):
    return [(item["name"], item["state"]) for item in (await api.local("GET", path)).json["items"]]


async def seen(database, identity, node_id):
    hour = timedelta(hours=1)
    await deliveries.write(
        database, [News(identity, node_id, "www", 1, 1, None, None, None, hour)], actor="r"
    )


async def test_who_was_invited_is_listed_with_how_far_it_has_come(api, database, issuances):
    await issuances.issue(await issuances.declare())
    await invite(api, "b-invited", names=["www"])
    made = await enrolled(api, "a-enrolled")
    await enrolled(api, "c-seen")
    await seen(database, "spiffe://certvoy/proxy/c-seen", "c-seen")
    items = (await api.local("GET", "/v1/proxies")).json["items"]

    assert [("a-enrolled", "enrolled"), ("b-invited", "invited"), ("c-seen", "seen")] == await listed(api)
    assert [None, None, "envoy"] == [item["kind"] for item in items]
    assert [0, 0, 1] == [len(item["deliveries"]) for item in items]
    assert [[], ["www"], []] == [[g["name"] for g in item["enrolment"]["grants"]] for item in items]
    ends = f"{made.certificate.not_valid_after_utc:%FT%TZ}"
    asked = "it was not seen asking for a name that it may see"
    assert f"{asked}; its credential ends at {ends}" == items[0]["reason"]
    assert (ends, None) == tuple(item["enrolment"]["credential_until"] for item in items[:2])


async def test_an_enrolled_proxy_is_known_by_its_identity_whatever_its_node_is_called(
    api, database, issuances
):
    await issuances.issue(await issuances.declare())
    await enrolled(api, "edge-1")
    await seen(database, EDGE, "another-name")
    (item,) = (await api.local("GET", "/v1/proxies")).json["items"]

    assert ("another-name", "seen", EDGE) == (item["name"], item["state"], item["enrolment"]["identity"])


async def test_a_target_and_a_proxy_of_one_name_are_one_until_another_identity_has_it(
    api, database, issuances
):
    await issuances.issue(await issuances.declare())
    await api.local("PUT", "/v1/targets/edge-1", json={"probe": "127.0.0.1:1"})
    alone = await listed(api)
    await invite(api)
    invited = await listed(api)
    await invite(api, "edge-2")
    await seen(database, "spiffe://example.test/elsewhere", "edge-2")

    assert [("edge-1", "registered")] == alone
    assert [("edge-1", "invited")] == invited
    assert [("edge-1", "invited"), ("edge-2", "seen"), ("edge-2", "invited")] == await listed(api)


async def test_pages_of_proxies_leave_none_out_and_say_none_twice(api, database, issuances):
    await issuances.issue(await issuances.declare())
    for name in ("a", "b", "c"):
        await invite(api, name)
    await seen(database, "spiffe://example.test/elsewhere", "b")
    found, path = [], "/v1/proxies?limit=1"
    while path:
        reply = (await api.local("GET", path)).json
        found += [(item["name"], item["state"]) for item in reply["items"]]
        path = reply["next_cursor"] and f"/v1/proxies?limit=1&cursor={reply['next_cursor']}"

    assert [("a", "invited"), ("b", "seen"), ("b", "invited"), ("c", "invited")] == found
