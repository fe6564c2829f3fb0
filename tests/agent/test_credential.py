"""The agent beside a proxy: enrols once, renews in time, and never loses what works."""

import asyncio
import itertools
import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from cryptography.hazmat.primitives import serialization

from sds_server import authority
from sds_server.agent.credential import LONGEST_PAUSE_S, NAP_S, Given, Keeper, Todo, plan
from sds_server.agent.files import CredentialFiles
from sds_server.authority import Ca
from sds_server.errors import ConfigError, Forbidden, OperatorError, Unauthenticated, Unavailable
from tests.support import pki
from tests.support.clocks import HastyClock

START = datetime(2030, 1, 1, tzinfo=UTC)
LIFE = timedelta(hours=24)


class ControlPlane:
    """Signs what it is asked for, unless it is told to fail."""

    def __init__(self, clock):
        key = pki.new_key()
        self.ca = Ca(authority.new_ca(key, name="own", now=START), key)
        self.clock = clock
        self.asked = []
        self.failures = []
        self.stop_after = 100

    async def enroll(self, token, csr):
        return self._answer("enroll", csr, token)

    async def renew(self, held, csr):
        return self._answer("renew", csr, held.certificate.serial_number)

    def _answer(self, what, csr, by):
        key = authority.public_key_of(csr)
        self.asked.append((what, by, self.clock.now() - START, key))
        if len(self.asked) >= self.stop_after:
            raise asyncio.CancelledError
        if self.failures:
            raise self.failures.pop(0)
        made = authority.credential(
            self.ca,
            key,
            identity="spiffe://certvoy/proxy/edge-1",
            enrolment=1,
            now=self.clock.now(),
            lifetime=LIFE,
        )
        return Given(authority.pem([made]), authority.pem([self.ca.certificate]))


@pytest.fixture
def clock():
    return HastyClock(START)


@pytest.fixture
def plane(clock):
    return ControlPlane(clock)


@pytest.fixture
def files(tmp_path):
    return CredentialFiles(tmp_path / "edge-1")


def agent(plane, files, token="token"):
    return Keeper(files, plane, token=token, clock=plane.clock, rng=Random(1))


async def run(kept):
    with pytest.raises(asyncio.CancelledError):
        await kept.run()


async def test_it_enrols_once_and_renews_before_two_thirds_of_each_life(plane, files):
    plane.stop_after = 5
    await run(agent(plane, files))
    moments = [after for _, _, after, _ in plane.asked]

    assert ["enroll", "renew", "renew", "renew", "renew"] == [what for what, *_ in plane.asked]
    for before, after in itertools.pairwise(moments):
        assert LIFE * (authority.RENEW_AT - authority.RENEW_JITTER) <= after - before
        assert after - before <= LIFE * authority.RENEW_AT + timedelta(seconds=NAP_S)


async def test_each_credential_has_a_key_of_its_own(plane, files):
    plane.stop_after = 4
    await run(agent(plane, files))

    assert 4 == len({_spki(key) for *_, key in plane.asked})


def _spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


async def test_a_restart_goes_on_with_what_is_there(plane, files):
    await agent(plane, files).once()
    wanted = await agent(plane, files, token=None).once()

    assert Todo.WAIT == wanted.todo
    assert ["enroll"] == [what for what, *_ in plane.asked]


async def test_a_token_is_not_used_up_for_a_directory_that_cannot_be_written(plane, files):
    files.directory.mkdir(mode=0o700)
    files.directory.chmod(0o777)  # the mode of mkdir goes through the umask
    with pytest.raises(OperatorError, match="may write"):
        await agent(plane, files).once()
    asked = list(plane.asked)
    files.directory.chmod(0o700)
    await agent(plane, files).once()

    assert ([], ["enroll"]) == (asked, [what for what, *_ in plane.asked])
    assert ["authorities.json", "credential.json", "current"] == sorted(
        path.name for path in files.directory.iterdir() if not path.name.startswith(".")
    )


@pytest.mark.parametrize("garbage", ["certificate_pem", "authorities_pem"])
async def test_an_answer_that_is_no_certificate_loses_nothing(plane, files, garbage):
    kept = agent(plane, files)
    await kept.once()
    held = files.held()
    plane.clock.turn(LIFE * 0.7)
    answer = plane._answer
    plane._answer = lambda *arguments: replace(answer(*arguments), **{garbage: "nonsense"})
    with pytest.raises(OperatorError, match="no certificate"):
        await kept.once()

    assert held == files.held()


async def test_two_agents_that_renew_in_the_same_second_leave_a_whole_credential(plane, files, tmp_path):
    """When one of them takes away what it does not know, the other's is not in its place yet."""
    other = CredentialFiles(tmp_path / "edge-1")
    await agent(plane, files).once()
    made = {
        "certificate_pem": files.held().paths[0].read_text(),
        "key_pem": files.held().paths[1].read_bytes(),
        "authorities_pem": files.held().paths[2].read_text(),
    }
    point = files._versions.point

    def meanwhile(link, version):
        with suppress(OperatorError):
            other.store(**made)
        point(link, version)

    files._versions.point = meanwhile
    files.store(**made)

    assert files.held() is not None
    assert all(path.exists() for path in files.held().paths)


async def test_a_server_that_is_away_is_asked_again_with_growing_pauses_and_nothing_is_lost(plane, files):
    kept = agent(plane, files)
    await kept.once()
    held = files.held()
    plane.clock.turn(LIFE * 0.7)
    plane.failures = [Unavailable("away")] * 12
    plane.stop_after = 15
    plane.clock.slept.clear()
    seen = []
    answer = plane._answer

    def watched(*arguments):
        seen.append(files.held().certificate)
        return answer(*arguments)

    plane._answer = watched
    await run(kept)

    assert {held.certificate.serial_number} == {certificate.serial_number for certificate in seen[:13]}
    pauses = plane.clock.slept[:12]
    assert 0.5 <= pauses[0] <= 1.0
    assert LONGEST_PAUSE_S / 2 <= pauses[-1] <= LONGEST_PAUSE_S
    assert held.certificate.serial_number != files.held().certificate.serial_number


async def test_it_says_once_that_there_is_a_credential_that_works_and_not_before(plane, files):
    plane.failures, plane.stop_after, asked_before = [Unavailable("away")] * 3, 6, []
    kept = agent(plane, files)
    with pytest.raises(asyncio.CancelledError):
        await kept.run(on_ready=lambda: asked_before.append(len(plane.asked)))

    assert [4] == asked_before


async def test_what_works_still_is_enough_to_be_ready_while_the_control_plane_is_away(plane, files):
    await agent(plane, files).once()
    await plane.clock.sleep(LIFE.total_seconds() * 0.7)
    plane.failures, plane.stop_after, ready = [Unavailable("away")] * 3, 4, []
    with pytest.raises(asyncio.CancelledError):
        await agent(plane, files).run(on_ready=lambda: ready.append(len(plane.asked)))

    assert [2] == ready


async def test_a_lost_answer_is_asked_for_again_with_the_same_key(plane, files):
    """The token is good for one key alone."""
    plane.failures = [Unavailable("lost"), Unavailable("lost")]
    plane.stop_after = 4
    await run(agent(plane, files))
    keys = [_spki(key) for *_, key in plane.asked]

    assert ["enroll", "enroll", "enroll", "renew"] == [what for what, *_ in plane.asked]
    assert 1 == len(set(keys[:3]))
    assert keys[3] != keys[0]


async def test_a_removed_proxy_keeps_what_it_has_until_that_ends(plane, files):
    kept = agent(plane, files, token=None)
    await agent(plane, files).once()
    held = files.held()
    plane.clock.turn(LIFE * 0.7)
    plane.failures = [Forbidden("removed")] * 10_000
    plane.stop_after = 10_000
    with pytest.raises(ConfigError, match="no credential that works, and no token"):
        await kept.run()

    assert held.certificate == files.held().certificate
    assert plane.clock.now() >= held.certificate.not_valid_after_utc


async def test_a_token_that_is_worth_nothing_ends_it(plane, files):
    plane.failures = [Unauthenticated("used")]
    with pytest.raises(Unauthenticated):
        await agent(plane, files).run()

    assert None is files.held()


async def test_without_a_token_it_says_how_to_get_one(plane, files):
    with pytest.raises(ConfigError) as refused:
        await agent(plane, files, token=None).once()

    assert "certvoy proxies enroll" in refused.value.next_step


async def test_an_expired_credential_is_replaced_by_a_new_token(plane, files):
    await agent(plane, files).once()
    plane.clock.turn(LIFE * 2)
    await agent(plane, files, token="another").once()

    assert [("enroll", "token"), ("enroll", "another")] == [asked[:2] for asked in plane.asked]


async def test_another_keys_certificate_is_not_kept(plane, files):
    other = authority.new_csr(pki.new_key())
    answer = plane._answer
    plane._answer = lambda what, _csr, by: answer(what, other, by)
    with pytest.raises(OperatorError, match="another key"):
        await agent(plane, files).once()

    assert None is files.held()


def test_the_moment_of_a_renewal_is_fixed_by_the_certificate(plane):
    key = pki.new_key()
    made = authority.credential(
        plane.ca, key.public_key(), identity="spiffe://certvoy/proxy/a", enrolment=1, now=START, lifetime=LIFE
    )
    first = plan(made, START)

    assert Todo.WAIT == first.todo
    assert first == plan(made, first.at - timedelta(seconds=1))
    assert Todo.RENEW == plan(made, first.at).todo
    assert Todo.ENROL == plan(made, START + LIFE).todo


# The files


async def test_the_key_is_for_its_owner_alone(plane, files):
    await agent(plane, files).once()
    _, key, _ = files.held().paths

    assert 0o600 == stat.S_IMODE(key.stat().st_mode)
    assert 0o700 == stat.S_IMODE(files.directory.stat().st_mode)


async def test_what_is_replaced_is_replaced_by_one_rename(plane, files, monkeypatch):
    """Whoever dies in between leaves the old one in place."""
    kept = agent(plane, files)
    await kept.once()
    held = files.held()
    plane.clock.turn(LIFE * 0.7)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OperatorError, match="No space left"):
        await kept.once()

    certificate, key, authorities = files.held().paths
    assert held.certificate == files.held().certificate
    assert all(path.read_bytes() for path in (certificate, key, authorities))
    pair = serialization.load_pem_private_key(key.read_bytes(), None)
    assert pair.public_key() == files.held().certificate.public_key()


async def test_old_ones_go_but_for_the_one_before(plane, files):
    plane.stop_after = 6
    await run(agent(plane, files))

    assert 2 == len([path for path in files.directory.glob(".credential-*") if path.is_dir()])


async def test_envoys_secrets_name_the_link_and_the_directory_to_watch(plane, files):
    await agent(plane, files).once()
    (secret,) = json.loads((files.directory / "credential.json").read_text())["resources"]
    (roots,) = json.loads((files.directory / "authorities.json").read_text())["resources"]

    pair = secret["tls_certificate"]
    assert str(files.directory / "current" / "key.pem") == pair["private_key"]["filename"]
    for content in (pair, roots["validation_context"]):
        assert {"path": str(files.directory)} == content["watched_directory"]
