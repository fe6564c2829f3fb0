# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""What certvoy logs of an order at its most talkative level: no token, nothing signed, no binding's key."""

import json

import pytest

from acme_engine import Eab
from acme_engine.hidden import Hidden
from tests.support.ca_front import CaFront
from tests.support.control_plane import ControlPlane, dsn, until
from tests.support.pebble import Pebble

pytestmark = pytest.mark.debian

EAB = Eab("kid-1", Hidden("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"))

LONG = 20
"""Characters; `{}` in base64 is three, which any log has."""


@pytest.fixture
async def pebble(tmp_path):
    """Every second nonce is refused: what is signed anew is talked of too."""
    pebble = Pebble(tmp_path, kind=True, nonce_reject_percent=50, eab=EAB)
    await pebble.ready()
    yield pebble
    await pebble.stop()


@pytest.fixture
async def tokens(front):
    """The tokens that the CA gives out."""
    seen = set()

    def note(document):
        seen.update(challenge["token"] for challenge in document.get("challenges", ()))
        return document

    front.change("/authZ", note)
    return seen


@pytest.fixture
async def front(pebble, tmp_path):
    front = CaFront(tmp_path, upstream=pebble.directory_url, upstream_ca=pebble.ca_file)
    await front.open()
    yield front
    await front.shut()


async def test_no_log_holds_a_token_or_what_was_signed_or_the_key_of_a_binding(
    pebble, front, tokens, connect, sql, tmp_path
):
    """Though much of it fails, and what fails is told of."""
    (tmp_path / "hmac").write_text(EAB.hmac_key.reveal())
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=pebble.http_port)
    eab = {"kid": EAB.key_id, "hmac_key_file": str(tmp_path / "hmac")}
    plane.issuer(front.directory_url, front.ca_file, terms_agreed=True, eab=eab)
    plane.settings["log"] = {"level": "debug"}
    front.answer("/sign-me-up", 500, "<html>")
    front.answer("/order-plz", 503, "<html>")
    front.cut("/authZ")
    front.answer("/finalize-order", 500)

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate") == 1

    await plane.start()
    try:
        await until(issued)
    finally:
        await plane.stop()
    signed = [json.loads(visit.body) for visit in front.visits if visit.method == "POST"]
    parts = {part for jws in signed for part in jws.values() if len(part) > LONG}
    log = plane.log()

    assert (True, True) == (len(tokens) >= 3, len(signed) > 8)
    assert [] == [part for part in (*parts, *tokens, EAB.hmac_key.reveal()) if part in log]
