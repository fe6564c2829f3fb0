# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""From a CA's wish to the renewal that says what it replaces: a real Pebble behind a door that has ARI."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from acme_engine import ari
from acme_engine import chain as chains
from acme_engine.errors import PREFIX
from acme_engine.ordering import Terms
from sds_server.inventory import certificates
from tests.support.ca_front import CaFront
from tests.support.issuances import Issuances
from tests.support.one_replica import one_replica

pytestmark = pytest.mark.debian


@pytest.fixture
async def front(pebble, tmp_path):
    front = CaFront(tmp_path, upstream=pebble.directory_url, upstream_ca=pebble.ca_file)
    url = front.directory_url.replace("/dir", "/renewal-info")
    front.change("/dir", lambda document: document | {"renewalInfo": url})
    await front.open()
    yield front
    await front.shut()


@pytest.fixture
async def issued(database, tmp_path):
    """Declare www, and return what its generations' ARI identifiers are."""
    await (await Issuances.open(database, tmp_path)).declare()

    async def identifiers(sql):
        rows = await sql.fetch("SELECT id FROM certificate ORDER BY generation")
        pairs = {p.certificate.id: p for p in await certificates.pairs(database, [row["id"] for row in rows])}
        leaves = [chains.parse(pairs[row["id"]].certificate.chain_pem).leaf for row in rows]
        return [ari.certificate_id(leaf) for leaf in leaves]

    return identifiers


def window(days):
    now = datetime.now(UTC)
    times = {"start": now + timedelta(days=days), "end": now + timedelta(days=days + 1)}
    return json.dumps({"suggestedWindow": {name: f"{at:%FT%TZ}" for name, at in times.items()}})


async def test_a_ca_that_wants_a_renewal_now_gets_it_and_is_told_what_is_replaced(
    database, tmp_path, front, pebble, sql, issued
):
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port) as replica:
        await replica.worker.step()
        front.answer("/renewal-info", 200, window(-3), Retry_After="3600")
        await replica.renewals.step()
        await replica.scheduler.step()
        await replica.worker.step()
    first, second = await issued(sql)
    asked = [visit.path for visit in front.visits if visit.path.startswith("/renewal-info")]

    assert [f"/renewal-info/{first}"] == asked
    assert [None, first] == [visit.order.get("replaces") for visit in front.orders]
    assert second != first


async def test_a_ca_that_counts_it_as_replaced_gets_the_order_without(
    database, tmp_path, front, pebble, sql, issued
):
    """RFC 9773 section 5: 409 alreadyReplaced."""
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port) as replica:
        await replica.worker.step()
        front.answer("/renewal-info", 200, window(-3))
        await replica.renewals.step()
        await replica.scheduler.step()
        front.answer("/order-plz", 409, json.dumps({"type": f"{PREFIX}alreadyReplaced"}))
        await replica.worker.step()
    first, _ = await issued(sql)

    assert [None, first, None] == [visit.order.get("replaces") for visit in front.orders]


async def test_a_ca_whose_ari_fails_has_its_certificate_renewed_at_its_share_of_life(
    database, tmp_path, front, pebble, sql, issued
):
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port) as replica:
        await replica.worker.step()
        front.answer("/renewal-info", 500, "broken")
        await replica.renewals.step()
        life = await sql.fetchrow("SELECT not_after - renew_at AS left, renew_reason FROM certificate")

    assert "third-left" == life["renew_reason"]
    assert timedelta(days=29) <= life["left"] <= timedelta(days=30)


async def test_the_chain_of_another_root_is_taken_where_it_is_preferred(
    database, tmp_path, front, pebble, sql, issued
):
    """Pebble signs its intermediates by two roots, and offers both chains."""
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port) as replica:
        await replica.worker.step()
    row = await sql.fetchval("SELECT chain_pem FROM certificate_chain")
    default = chains.parse(row.encode()).certificates[-1].issuer.rfc4514_string()
    other = (await pebble.root(1)).subject.rfc4514_string()
    await sql.execute("UPDATE certrotation SET completed_at = now(), outcome = 'superseded'")
    await (await Issuances.open(database, tmp_path)).declare("s2", ["s2.example.test"])
    terms = Terms(preferred_chain=other.removeprefix("CN="))
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port, terms=terms) as replica:
        await replica.worker.step()
    row = await sql.fetchval(
        "SELECT chain_pem FROM certificate_chain p JOIN certificate c ON c.id = p.cert_id WHERE secret = 's2'"
    )

    assert default != other
    assert other == chains.parse(row.encode()).certificates[-1].issuer.rfc4514_string()
