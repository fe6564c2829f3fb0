"""What Envoy 1.40 says over REST when it refuses: nothing. Why REST targets have no refusals, only proofs."""

import json

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.xds import codec
from sds_server.xds.bootstrap import Api
from tests.integration.test_envoy_matrix import until
from tests.integration.test_envoy_sds import NODE, configuration, site
from tests.xds.sds import deployed


@pytest.fixture
async def server(tmp_path):
    async with deployed(tmp_path) as deployment:
        yield deployment


async def test_an_envoy_that_refuses_says_nothing_of_it_in_its_next_polls(server, tmp_path, monkeypatch):
    polls = []
    decode = codec.decode_json

    def seen(data):
        polls.append(json.loads(data))
        return decode(data)

    monkeypatch.setattr(codec, "decode_json", seen)
    server.port = server.rest_port
    config = configuration(server, Api.REST).replace('"refresh_delay": "10s"', '"refresh_delay": "0.2s"')
    server.publish("a", 1, site(), key_of=site())  # a key of another pair: Envoy refuses it
    edge = await envoy.start(config, tmp_path)
    try:

        async def refused():
            answer = await edge.admin_get("/stats?filter=update_rejected&format=json")
            return any(stat["value"] for stat in json.loads(answer)["stats"])

        await until(refused)
        before = len(polls)

        async def asked_again():
            return len(polls) >= before + 3

        await until(asked_again)
    finally:
        await edge.stop()
    said = [poll.get("version_info", "") for poll in polls]

    assert {NODE} == {poll["node"]["id"] for poll in polls}
    assert not [poll for poll in polls if "error_detail" in poll]
    # The poll after the refusal says the version before, none; the same bytes again it says to have.
    assert ["", "", True] == [*said[:2], bool(said[-1])]
    assert not [fact for fact in server.witness.facts if fact[0] == "refused"]
