"""The API of what is no certificate: put, changed, shown without what is secret, refused in words."""

import base64

import pytest

from sds_server.admin.table import ROUTES
from sds_server.payloads.trust import fingerprint_of
from tests.support.pki import authority, crl

OLD, NEW = authority("Old root"), authority("New root")
CLIENTS = "/v1/secrets/clients"


def coded(raw):
    return base64.b64encode(raw).decode()


async def put_bundle(api, *cas, **more):
    body = {"cas": "".join(ca.pem.decode() for ca in cas)} | more
    return await api.local("PUT", f"{CLIENTS}/trust-bundle", json=body)


async def test_a_bundle_is_created_changed_and_left_as_it_is(api):
    created = await put_bundle(api, OLD, sans=[{"type": "dns", "match": "suffix", "value": ".test"}])
    same = await put_bundle(api, OLD, sans=[{"type": "dns", "match": "suffix", "value": ".test"}])
    changed = await put_bundle(api, OLD, crls=crl(OLD))

    assert [201, 200, 202] == [reply.status for reply in (created, same, changed)]
    shown = (await api.local("GET", CLIENTS)).json
    assert ("validation_context", None, None, []) == tuple(
        shown[key] for key in ("kind", "issuer", "key_type", "domains")
    )
    bundle = shown["payload"]["bundle"]
    assert fingerprint_of(OLD.certificate) == bundle["cas"][0]["fingerprint"]
    assert (OLD.pem.decode(), crl(OLD)[:20]) == (bundle["pem"], bundle["crls"][:20])
    assert [2, 1] == [version["generation"] for version in shown["payload"]["versions"]]
    assert None is shown["certificate"] is shown["rotation"]


async def test_pem_alone_is_a_bundle_too(api):
    headers = {"Content-Type": "application/x-pem-file"}
    reply = await api.local("PUT", f"{CLIENTS}/trust-bundle", data=OLD.pem, headers=headers)

    assert (201, 1) == (reply.status, reply.json["payload"]["generation"])


async def test_a_bundle_that_the_gate_refuses_is_answered_in_words(api):
    reply = await put_bundle(api)

    assert "gate-refused" in reply.json["type"]
    assert "verification off" in reply.json["hint"]
    assert 404 == (await api.local("GET", CLIENTS)).status


async def test_a_root_is_rotated_and_the_last_step_says_what_is_in_the_way(api):
    await put_bundle(api, OLD)
    union = await api.local("POST", f"{CLIENTS}/trust-bundle/cas", json={"cas": NEW.pem.decode()})
    gone = f"{CLIENTS}/trust-bundle/cas/{fingerprint_of(OLD.certificate)}"
    early = await api.local("DELETE", gone)
    forced = await api.local("DELETE", f"{gone}?force=the+key+is+lost")
    again = await api.local("DELETE", gone)

    assert (202, 2) == (union.status, len(union.json["payload"]["bundle"]["cas"]))
    assert (409, True) == (early.status, "its roll-out has not ended" in early.json["detail"])
    assert (202, NEW.pem.decode()) == (forced.status, forced.json["payload"]["bundle"]["pem"])
    assert 404 == again.status


async def test_ticket_keys_are_scheduled_brought_and_never_shown(api):
    key = b"k" * 80
    scheduled = await api.local(
        "PUT", "/v1/secrets/tickets/ticket-keys", json={"rotate_every_s": 43_200, "keep": 2}
    )
    brought = await api.local("PUT", "/v1/secrets/tickets/ticket-keys", json={"keys": [coded(key)]})
    now = await api.local("POST", "/v1/secrets/tickets/ticket-keys/rotations")
    both = await api.local("PUT", "/v1/secrets/tickets/ticket-keys", json={"keys": [], "rotate_every_s": 60})
    short = await api.local("PUT", "/v1/secrets/tickets/ticket-keys", json={"keys": [coded(key[1:])]})

    assert [200, 202, 202, 422, 422] == [r.status for r in (scheduled, brought, now, both, short)]
    tickets = brought.json["payload"]["tickets"]
    assert (1, 43_200, 2) == tuple(tickets[name] for name in ("keys", "rotate_every_s", "keep"))
    assert not any(coded(key).encode() in r.raw for r in (scheduled, brought, now, both, short))


async def test_generic_secrets_show_the_names_of_their_values_alone(api):
    path = "/v1/secrets/token/generic-secret"
    one = await api.local("PUT", path, json={"value": coded(b"first")})
    named = await api.local("PUT", path, json={"values": {"id": coded(b"a"), "secret": coded(b"second")}})
    empty = await api.local("PUT", path, json={})
    both = await api.local("PUT", path, json={"value": coded(b"a"), "values": {"b": coded(b"c")}})

    assert [201, 202, 422, 400] == [reply.status for reply in (one, named, empty, both)]
    shown = await api.local("GET", "/v1/secrets/token")
    assert ["id", "secret"] == shown.json["payload"]["values"]
    assert not any(word in shown.raw for word in (coded(b"first").encode(), coded(b"second").encode()))


async def test_a_list_shows_all_kinds_and_how_many_have_taken_each(api):
    await put_bundle(api, OLD)
    await api.local("PUT", "/v1/secrets/token/generic-secret", json={"value": coded(b"x")})
    (bundle, token) = (await api.local("GET", "/v1/secrets")).json["items"]

    assert ("validation_context", 1, 0) == (bundle["kind"], bundle["generation"], bundle["accepted"])
    assert bundle["not_after"].startswith(f"{OLD.certificate.not_valid_after_utc:%F}")
    assert ("generic_secret", None) == (token["kind"], token["not_after"])


async def test_a_name_has_one_kind_and_what_is_no_certificate_is_not_rotated(api):
    await put_bundle(api, OLD)
    pair = OLD.issue(dns=["a.test"])
    answers = [
        await api.local("PUT", f"{CLIENTS}/generic-secret", json={"value": coded(b"x")}),
        await api.local("PUT", f"{CLIENTS}/ticket-keys", json={"rotate_every_s": 60}),
        await api.local(
            "PUT",
            f"{CLIENTS}/certificate",
            json={"chain": pair.chain_pem.decode(), "private_key": pair.key_pem.decode()},
        ),
        await api.local("PUT", CLIENTS, json={"domains": ["a.test"], "issuer": "internal"}),
        await api.local("POST", f"{CLIENTS}/rotations"),
        await api.local("POST", f"{CLIENTS}/ticket-keys/rotations"),
        await api.local("POST", f"{CLIENTS}/rollback"),
    ]

    assert [409] * 7 == [reply.status for reply in answers]
    assert all(reply.json["hint"] for reply in answers)


@pytest.mark.parametrize("method", ["trust-bundle", "ticket-keys", "generic-secret"])
async def test_what_the_configuration_declares_is_left_to_it(api, method):
    bodies = {
        "trust-bundle": {"cas": OLD.pem.decode()},
        "ticket-keys": {"rotate_every_s": 60},
        "generic-secret": {"value": coded(b"x")},
    }
    reply = await api.local("PUT", f"/v1/secrets/declared/{method}", json=bodies[method])

    assert (409, True) == (reply.status, "configuration" in reply.json["detail"])


@pytest.mark.parametrize(
    "route",
    [r for r in ROUTES if r.path.startswith("/v1/secrets/{name}/")],
    ids=lambda r: f"{r.method} {r.path}",
)
async def test_every_route_of_a_secret_has_words_for_one_that_is_no_certificate(api, route):
    await put_bundle(api, OLD)
    path = route.path.replace("{name}", "clients").replace("{fingerprint}", "00" * 32)
    body = {"reason": "a launch"} if path.endswith("/freeze") else {}
    reply = await api.local(route.method, path, json=body)

    assert reply.status < 500, reply.raw
    assert reply.status < 400 or reply.json["hint"]


async def test_a_deleted_one_is_gone(api):
    await put_bundle(api, OLD)

    assert 204 == (await api.local("DELETE", CLIENTS)).status
    assert 404 == (await api.local("GET", CLIENTS)).status
