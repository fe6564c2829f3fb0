"""`certvoy targets test`: each step of a target's way, what failed, and what to do."""

from datetime import timedelta

import pytest

from sds_server.inventory import deliveries, targets
from sds_server.inventory.deliveries import News
from sds_server.model import Identity, TargetKind
from tests.support.admin import serving
from tests.support.agents import LOOPBACK, Program, agent, answering, enrolled, enroller_of, request_of
from tests.support.fakes import Listener, pair_of
from tests.support.pki import authority as any_authority

WEB = "spiffe://certvoy/proxy/web-1"


@pytest.fixture
async def enroller(database, tmp_path):
    return await enroller_of(database, tmp_path)


@pytest.fixture
async def api(database, tmp_path):
    async with serving(database, tmp_path, allowed=LOOPBACK) as running:
        yield running


@pytest.fixture
async def program(tmp_path):
    async with Listener(tmp_path) as listener:
        listener.serve(any_authority().issue(dns=["www.example.test"]))
        yield Program(listener)


async def add(api, **more):
    body = {"kind": "nginx", "identity": WEB, "secrets": ["www"]} | more
    put = await api.local("PUT", "/v1/targets/web-1", json=body)
    assert 200 == put.status, put.json
    return put.json


async def tried(api):
    """Each step with its result, detail and hint."""
    await api.admission.step()
    reply = await api.local("POST", "/v1/targets/web-1/tests")
    assert 200 == reply.status
    return {item["step"]: (item["result"], item["detail"], item["hint"]) for item in reply.json["items"]}


def results(steps):
    return {step: result for step, (result, _, _) in steps.items()}


async def test_all_is_tried_but_a_new_certificate(api, issuances, enroller, program, tmp_path):
    certificate = await issuances.issue(await issuances.declare())
    program.listener.serve(await pair_of(issuances, certificate))
    async with agent(await enrolled(enroller, tmp_path, "web-1"), program) as url:
        added = await add(api, push=url, probe=program.listener.address)
        steps = await tried(api)

    assert url == added["push"]
    assert dict.fromkeys(
        ["target", "grant", "address", "connection", "identity", "answer", "check", "probe"], "ok"
    ) == results(steps)
    assert [] == program.given, "the test changes nothing"
    assert f"it is {WEB}" == steps["identity"][1]


async def test_what_its_program_says_of_its_files_is_told(api, issuances, enroller, program, tmp_path):
    await issuances.issue(await issuances.declare())
    program.dislikes = "nginx: [emerg] host not found in upstream"
    async with agent(await enrolled(enroller, tmp_path, "web-1"), program) as url:
        await add(api, push=url)
        steps = await tried(api)

    assert ("failed", "nginx: [emerg] host not found in upstream") == steps["check"][:2]
    assert "ok" == steps["answer"][0]


async def test_an_agent_that_knows_no_such_bundle_says_what_to_do(
    api, issuances, enroller, program, tmp_path
):
    await issuances.issue(await issuances.declare())
    async with agent(await enrolled(enroller, tmp_path, "web-1"), program, secret="mail") as url:
        await add(api, push=url)
        steps = await tried(api)

    assert ("failed", "secret www: this agent has no bundle") == steps["check"][:2]
    assert "agent.yaml" in steps["check"][2]


async def test_an_answer_that_cannot_be_read_is_a_check_that_failed(api, issuances, enroller, tmp_path):
    await issuances.issue(await issuances.declare())
    shown = await enrolled(enroller, tmp_path, "web-1")

    async def answer(reader, writer):
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 60_000)
        await writer.drain()

    async with answering(answer, shown.held().paths[:2]) as url:
        await add(api, push=url)
        steps = await tried(api)

    assert ("failed", "the agent answered with HTTP 200") == steps["check"][:2]


async def test_the_step_that_failed_is_named_and_those_behind_it_are_not_reached(
    api, issuances, enroller, tmp_path
):
    await issuances.issue(await issuances.declare())
    await enrolled(enroller, tmp_path, "web-1")
    other = await enrolled(enroller, tmp_path, "web-2")

    async def hang_up(_reader, _writer):
        pass

    async with answering(hang_up, other.held().paths[:2]) as url:
        await add(api, push=url)
        impostor = await tried(api)
    await add(api, push="https://127.0.0.1:1")
    nobody = await tried(api)

    assert ("ok", "failed", "skipped") == tuple(
        impostor[step][0] for step in ("connection", "identity", "answer")
    )
    assert "web-2" in impostor["identity"][1]
    assert "find out who listens there" in impostor["identity"][2]
    assert ("ok", "failed", "skipped") == tuple(
        nobody[step][0] for step in ("address", "connection", "identity")
    )


async def test_an_address_that_is_not_listed_is_the_first_step_that_fails(database, issuances, tmp_path):
    await issuances.issue(await issuances.declare())
    async with serving(database, tmp_path) as api:
        refused = await api.local(
            "PUT", "/v1/targets/web-1", json={"identity": WEB, "push": "https://127.0.0.1:8446"}
        )
        await add(api, push="https://localhost:8446")  # a name is judged when it is connected to
        steps = await tried(api)

    assert (400, True) == (refused.status, "push.allow" in refused.json["detail"])
    assert ("failed", "skipped") == (steps["address"][0], steps["connection"][0])
    assert "loopback" in steps["address"][1]
    assert "push.allow" in steps["address"][2]


async def test_without_a_grant_the_test_says_so(api, issuances):
    await issuances.issue(await issuances.declare())
    await add(api, identity="spiffe://certvoy/proxy/nobody")

    result, detail, hint = (await tried(api))["grant"]

    assert ("failed", "no grant lets spiffe://certvoy/proxy/nobody see it") == (result, detail)
    assert "grants" in hint


async def test_of_who_fetches_it_is_said_when_it_was_heard_of(api, issuances, database, sql):
    await issuances.issue(await issuances.declare())
    await add(api)
    never = await tried(api)
    news = News(
        Identity(WEB), WEB, "www", 1, 1, None, None, None, timedelta(minutes=10), kind=TargetKind.NGINX
    )
    await deliveries.write(database, [news], actor="replica:test")
    lately = await tried(api)
    await sql.execute("UPDATE target SET last_seen = certvoy_now() - interval '2 hours'")
    late = await tried(api)

    assert ("failed", "it was never heard of") == never["fetch"][:2]
    assert ("ok", "heard of 0 s ago: sent 1, accepted 1") == lately["fetch"][:2]
    assert ("failed", "heard of 2 h ago: sent 1, accepted 1") == late["fetch"][:2]
    assert "skipped" == never["probe"][0]


async def test_what_is_seen_is_held_against_what_is_wanted(api, issuances, program):
    await issuances.issue(await issuances.declare())
    await add(api, probe=program.listener.address)
    foreign = await tried(api)
    await add(api, probe="127.0.0.1:1")
    unreachable = await tried(api)

    assert ("failed", True) == (foreign["probe"][0], "foreign" in foreign["probe"][1])
    assert ("failed", True) == (unreachable["probe"][0], "--probe HOST:PORT" in unreachable["probe"][2])


async def test_a_target_of_no_secret_has_that_to_mend(api, database):
    await targets.register(
        database, "web-1", probe=None, identity=None, node_id=None, serves=[], actor="person:test"
    )

    assert ("failed", "envoy, registered, but for no secret") == (await tried(api))["target"][:2]
    assert 404 == (await api.local("POST", "/v1/targets/nobody/tests")).status
