"""The prover: complete is what a handshake at every Target of the live set has shown."""

import json
from datetime import timedelta

import pytest

from sds_server.errors import Unavailable
from sds_server.inventory import declarations, deliveries, progress, roll_outs, rotations, targets
from sds_server.inventory.deliveries import News
from sds_server.inventory.voices import Look
from sds_server.lifecycle import looks
from sds_server.lifecycle import prover as provers
from sds_server.lifecycle.prover import SOON_S, Prover
from sds_server.model import Identity, Outcome, ProvedBy, Reason
from sds_server.programs.child import free_port
from sds_server.targets.verdict import NO_ADDRESS
from tests.support.clocks import HastyClock
from tests.support.fakes import CuttableDatabase, Listener, pair_of

SETTLE = timedelta(seconds=30)


@pytest.fixture
def clock():
    return HastyClock()


@pytest.fixture
def prover(database, clock):
    return Prover(database=CuttableDatabase(database), settle=SETTLE, clock=clock, actor="replica:test")


@pytest.fixture
async def listener(tmp_path):
    async with Listener(tmp_path) as listening:
        yield listening


@pytest.fixture
async def second(tmp_path):
    async with Listener(tmp_path) as listening:
        yield listening


async def register(database, name, address, *serves):
    await targets.register(
        database, name, probe=address, identity=None, node_id=None, serves=serves or ["www"], actor="p"
    )


async def rotate(issuances, declared):
    await rotations.open_for(issuances.database, declared.name, reason=Reason.OPERATOR, actor="person:test")
    return await issuances.issue(declared)


async def outcome(database, secret="www"):
    return (await progress.latest(database, secret)).outcome


async def told(database, secret="www"):
    """What is known of each Target: its proved generation, and why it is not proved."""
    return {i.target.name: (i.proved, i.probe_error) for i in await targets.live_set(database, secret)}


async def test_a_target_that_serves_the_new_leaf_is_proved_and_completes(
    issuances, prover, listener, database, sql
):
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    certificate = await issuances.issue(await issuances.declare())
    listener.serve(await pair_of(issuances, certificate))
    await prover.step()

    assert Outcome.COMPLETED == await outcome(database)
    assert {"edge-1": (1, None)} == await told(database)
    assert "active" == await sql.fetchval("SELECT status FROM certificate")
    (payload,) = await sql.fetchrow("SELECT payload FROM certaudit WHERE action = 'delivery.proved'")
    proof = json.loads(payload)
    assert (certificate.serial_number, str(certificate.key_id)) == (proof["serial_number"], proof["key_id"])


async def test_a_secret_that_is_removed_while_it_is_looked_at_blinds_nobody(
    issuances, prover, listener, database, monkeypatch
):
    look = looks.look

    async def meanwhile(*arguments, **named):
        seen = await look(*arguments, **named)
        await declarations.remove(database, "www", actor="person:test")
        return seen

    await issuances.declare()
    await register(database, "edge-1", listener.address)
    listener.serve(await pair_of(issuances, await issuances.issue(await issuances.declare())))
    prover._clock.turn(SETTLE)
    monkeypatch.setattr(looks, "look", meanwhile)
    await prover.step()

    assert prover.settled


async def test_what_was_seen_is_told_with_the_time_that_it_took(
    issuances, prover, listener, second, database
):
    """For metrics: each look, each proof with the time since the Certificate was stored, and the end."""
    looks, proofs, ends = [], [], []
    prover.on_look, prover.on_proof, prover.on_end = looks.append, proofs.append, ends.append
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    await register(database, "edge-2", second.address)
    await register(database, "edge-3", None)
    pair = await pair_of(issuances, await issuances.issue(await issuances.declare()))
    listener.serve(pair)
    second.serve(issuances.ca.issue(dns=["www.example.test"]))
    await prover.step()
    await targets.remove(database, "edge-3", actor="p")
    second.serve(pair)
    await prover.step()

    assert ["different", "proved", "unprobed"] == sorted(looks[:3])
    assert ["proved"] == looks[3:]
    assert 2 == len(proofs)
    assert 0 < proofs[0] < proofs[1] < 60
    assert [Outcome.COMPLETED] == ends


async def test_an_accepted_certificate_that_is_not_served_is_not_proved(
    issuances, prover, listener, database
):
    """An ACK is a hint, never a proof."""
    declared = await issuances.declare()
    await register(database, "edge-1", listener.address)
    first = await issuances.issue(declared)
    listener.serve(await pair_of(issuances, first))
    await prover.step()
    second = await rotate(issuances, declared)
    prover.said("www")
    await prover.hear()
    ((proved, why),) = (await told(database)).values()

    assert await outcome(database) is None
    assert 1 == proved
    assert f"{listener.address} serves {first.fingerprint[:16]}... for www.example.test" in why
    assert second.fingerprint[:16] in why


async def test_the_old_one_is_replaced_once_the_new_one_is_served(issuances, prover, listener, database, sql):
    declared = await issuances.declare()
    await register(database, "edge-1", listener.address)
    listener.serve(await pair_of(issuances, await issuances.issue(declared)))
    await prover.step()
    listener.serve(await pair_of(issuances, await rotate(issuances, declared)))
    await prover.step()

    assert ["replaced", "active"] == [
        row["status"] for row in await sql.fetch("SELECT status FROM certificate ORDER BY generation")
    ]


async def test_an_unreachable_target_keeps_it_open_and_is_named(issuances, prover, database):
    await issuances.declare()
    await register(database, "edge-1", f"127.0.0.1:{free_port()}")
    await issuances.issue(await issuances.declare())
    await prover.step()
    ((_, why),) = (await told(database)).values()

    assert await outcome(database) is None
    assert "127.0.0.1" in why


async def test_a_target_that_comes_back_completes_and_its_error_is_gone(
    issuances, prover, listener, database
):
    await issuances.declare()
    await register(database, "edge-1", f"127.0.0.1:{free_port()}")
    certificate = await issuances.issue(await issuances.declare())
    await prover.step()
    listener.serve(await pair_of(issuances, certificate))
    await register(database, "edge-1", listener.address)
    await prover.step()

    assert Outcome.COMPLETED == await outcome(database)
    assert {"edge-1": (1, None)} == await told(database)


async def test_a_target_that_was_only_seen_has_no_address_to_probe(issuances, prover, database):
    await issuances.issue(await issuances.declare())
    fields = dict.fromkeys(("sent", "refused", "refusal", "refused_version"))
    seen = News(
        identity=Identity("spiffe://example.test/edge"),
        node_id="edge-1",
        secret="www",
        accepted=1,
        seen_for=timedelta(minutes=10),
        **fields,
    )
    await deliveries.write(database, [seen], actor="replica:test")
    await prover.step()

    assert await outcome(database) is None
    assert {"edge-1": (None, NO_ADDRESS)} == await told(database)


async def test_an_address_that_cannot_be_read_is_a_reason_and_not_a_crash(issuances, prover, database):
    await issuances.declare()
    await register(database, "edge-1", "nonsense")
    await issuances.issue(await issuances.declare())
    await prover.step()

    assert "must be host:port" in (await told(database))["edge-1"][1]


async def test_one_of_two_proved_keeps_it_open_and_only_the_other_is_probed_again(
    issuances, prover, listener, second, database
):
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    await register(database, "edge-2", second.address)
    declared = await issuances.declare()
    certificate = await issuances.issue(declared)
    listener.serve(await pair_of(issuances, certificate))
    second.serve(issuances.ca.issue(["www.example.test"]))
    await prover.step()
    await prover.step()
    known = await told(database)

    assert await outcome(database) is None
    assert (1, None) == known["edge-1"]
    assert known["edge-2"][0] is None
    assert second.address in known["edge-2"][1]
    assert 1 == len(listener.names) < len(second.names)


async def test_every_domain_is_probed(issuances, prover, listener, database):
    names = ["www.example.test", "api.example.test"]
    declared = await issuances.declare(domains=names)
    await register(database, "edge-1", listener.address)
    certificate = await issuances.issue(declared)
    listener.serve(await pair_of(issuances, certificate))
    listener.serve(issuances.ca.issue(["api.example.test"]), "api.example.test")
    await prover.step()
    unproved = await told(database)
    listener.serve(await pair_of(issuances, certificate), "api.example.test")
    await prover.step()

    assert "for api.example.test" in unproved["edge-1"][1]
    assert Outcome.COMPLETED == await outcome(database)


async def test_an_empty_live_set_is_believed_only_after_a_while(issuances, prover, clock, database):
    """A control plane that has just started has not an empty set but an unknown one."""
    await issuances.issue(await issuances.declare())
    await prover.step()
    at_first = await outcome(database)
    clock.turn(SETTLE)
    await prover.step()

    assert at_first is None
    assert Outcome.COMPLETED_UNOBSERVED == await outcome(database)


async def test_after_an_acceptance_the_target_is_looked_at_until_it_switches(
    issuances, prover, listener, clock, database
):
    """Envoy's workers take some milliseconds."""
    declared = await issuances.declare()
    await register(database, "edge-1", listener.address)
    pair = await pair_of(issuances, await issuances.issue(declared))
    listener.serve(issuances.ca.issue(["www.example.test"]))
    real = clock.sleep

    async def sleep(seconds):
        await real(seconds)
        if len(clock.slept) == 3:
            listener.serve(pair)

    clock.sleep = sleep
    prover.said("www")
    await prover.hear()

    assert Outcome.COMPLETED == await outcome(database)
    assert list(SOON_S[:3]) == clock.slept


async def test_an_acceptance_asks_for_a_step(prover):
    hints = []
    prover.on_hint = lambda: hints.append(True)
    prover.said("www")

    assert [True] == hints


async def test_a_secret_that_is_proved_already_is_not_probed(issuances, prover, listener, database):
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    listener.serve(await pair_of(issuances, await issuances.issue(await issuances.declare())))
    await prover.step()
    prover.said("www")
    await prover.hear()

    assert 1 == len(listener.names)


async def test_rotations_that_stay_open_hide_no_later_one(issuances, listener, database, clock, monkeypatch):
    monkeypatch.setattr(provers, "SECRETS_A_STEP", 2)
    prover = Prover(database=database, settle=SETTLE, clock=clock, actor="p", every=timedelta(minutes=1))
    dark = f"127.0.0.1:{free_port()}"
    for number in range(3):
        name = f"dark-{number}"
        declared = await issuances.declare(name, [f"{name}.example.test"])
        await register(database, name, dark, name)
        await issuances.issue(declared)
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    listener.serve(await pair_of(issuances, await issuances.issue(await issuances.declare())))
    await prover.step()

    assert Outcome.COMPLETED == await outcome(database)


async def test_a_secret_that_cannot_be_looked_at_keeps_no_other_from_it(
    issuances, prover, listener, database, monkeypatch
):
    real = roll_outs.get

    async def roll_out(database, secret, **more):
        if secret == "broken":
            raise RuntimeError("a bug")
        return await real(database, secret, **more)

    await issuances.issue(await issuances.declare("broken", ["broken.example.test"]))
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    listener.serve(await pair_of(issuances, await issuances.issue(await issuances.declare())))
    monkeypatch.setattr(provers.roll_outs, "get", roll_out)
    with pytest.raises(RuntimeError, match="a bug"):
        await prover.step()

    assert Outcome.COMPLETED == await outcome(database)


@pytest.mark.parametrize("transactions", range(3))
async def test_cut_off_from_the_database_it_says_so_and_goes_on_when_it_is_back(
    issuances, prover, listener, database, transactions
):
    await issuances.declare()
    await register(database, "edge-1", listener.address)
    listener.serve(await pair_of(issuances, await issuances.issue(await issuances.declare())))
    prover._database.cut(after=transactions)  # what is to be looked at, the Targets, the proof
    with pytest.raises(Unavailable):
        await prover.step()
    prover._database.heal()
    await prover.step()

    assert Outcome.COMPLETED == await outcome(database)


@pytest.mark.parametrize(
    "now", [{"probe": "127.0.0.1:2"}, {"probe": None, "proxy_protocol": True}, {"probe": None, "http3": True}]
)
async def test_what_was_seen_at_an_address_proves_nothing_at_another(issuances, database, now):
    """It was changed during the look, or how it is to be asked."""
    declared = await issuances.declare()
    await register(database, "edge-1", "127.0.0.1:1")
    await issuances.issue(declared)
    roll_out = await roll_outs.get(database, "www")
    await targets.register(database, "edge-1", identity=None, node_id=None, serves=["www"], actor="p", **now)
    looks = [Look(item.target.id, by=ProvedBy.HANDSHAKE) for item in roll_out.live]
    await roll_outs.settle(database, roll_out, looks, known=True, actor="r")

    assert {"edge-1": (None, None)} == await told(database)
    assert await outcome(database) is None
