"""Keys for an Envoy beside an agent: laid where it finds them before anybody hears of them, and tidied."""

import os
import stat
from datetime import timedelta
from random import Random

import pytest

from acme_engine import keys
from acme_engine.keys import KeyType
from sds_server.agent.key_maker import KeyMaker, pause_s
from sds_server.agent.proxy_keys import ProxyKeys
from sds_server.agent.requester import HeldKey, Requester, WantedKey
from sds_server.agent.versions import Versions
from sds_server.errors import OperatorError, Unavailable
from tests.support import pki
from tests.support.clocks import HastyClock


def new():
    return keys.generate(KeyType.ECDSA_P256)


def spki(key):
    return keys.spki_sha256(key.public_key())


class Door:
    """A control plane: what waits, and what is served; `laid` are the keys that lay there at each request."""

    def __init__(self, directory):
        self.directory = directory
        self.waits, self.held, self.laid, self.lost = None, (), [], []
        self.away = False

    async def wanted_key(self, _secret):
        if self.away:
            raise Unavailable("away")
        return WantedKey(("www.example.test",), KeyType.ECDSA_P256, self.waits, self.held)

    async def bring(self, secret, csr_pem, *, target, lost):
        self.waits = keys.spki_sha256(pki.x509.load_pem_x509_csr(csr_pem.encode()).public_key())
        self.laid.append((self.directory / f"{self.waits.hex()}.pem").is_file())
        self.lost.append(lost)
        return await self.wanted_key(secret)

    def issue(self):
        """Order what waits: it is served now."""
        generation = self.held[0].generation + 1 if self.held else 1
        self.held = (HeldKey(generation, self.waits), *self.held[:1])
        self.waits = None


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "keys-of-www"


@pytest.fixture
def door(directory):
    return Door(directory)


@pytest.fixture
def maker(directory, door):
    kept = ProxyKeys(directory)
    return KeyMaker(
        "www",
        kept,
        Requester("www", kept, door, target="edge-1"),
        alone=Versions(directory).alone,
        every=timedelta(minutes=1),
        clock=HastyClock(),
        rng=Random(1),
    )


def laid(directory):
    return sorted(file.stem for file in directory.glob("*.pem"))


async def test_a_key_lies_where_its_envoy_looks_before_anybody_hears_of_it(maker, door, directory):
    await maker.step()
    (file,) = directory.glob("*.pem")

    assert [True] == door.laid
    assert door.waits.hex() == file.stem
    assert 0o400 == stat.S_IMODE(file.stat().st_mode)
    assert 0o700 == stat.S_IMODE((directory / "keys").stat().st_mode)


async def test_a_request_that_waits_is_left_alone_and_one_that_was_ordered_followed(maker, door, directory):
    await maker.step()
    await maker.step()
    once = len(door.laid)
    door.issue()
    await maker.step()

    assert (1, [True, True]) == (once, door.laid)
    assert 2 == len(laid(directory))


async def test_keys_of_what_is_served_and_of_what_was_before_stay_and_older_ones_go(maker, door, directory):
    for _ in range(5):
        await maker.step()
        door.issue()
    await maker.step()

    served = {key.spki_sha256.hex() for key in door.held}
    assert sorted(served | {door.waits.hex()}) == laid(directory)


async def test_a_copy_that_is_gone_is_laid_out_again(maker, door, directory):
    """Somebody took it away, or we were killed between the key and its copy."""
    await maker.step()
    before = laid(directory)
    (directory / f"{before[0]}.pem").unlink()
    await maker.step()

    assert before == laid(directory)
    assert [True] == door.laid, "it needs no other request"


async def test_where_the_key_of_what_is_served_is_gone_its_successor_is_asked_for(maker, door, directory):
    await maker.step()
    door.issue()
    for file in (*directory.glob("*.pem"), *(directory / "keys").iterdir()):
        file.unlink()
    await maker.step()

    assert [None, 1] == door.lost


async def test_while_nobody_answers_nothing_is_removed_or_made(maker, door, directory):
    await maker.step()
    door.issue()
    door.away = True

    assert await maker.step() is False
    assert 1 == len(laid(directory))


async def test_a_directory_where_others_may_write_takes_no_key(maker, directory):
    directory.mkdir(mode=0o777)
    os.chmod(directory, 0o777)  # noqa: PTH101 - on purpose, whatever the umask
    with pytest.raises(OperatorError, match="others may write there"):
        await maker.step()


def test_the_group_may_read_the_copies_and_not_the_keys_of_the_agent(directory):
    group = os.getgid()
    ProxyKeys(directory, group=group).add(new())
    (file,) = directory.glob("*.pem")

    assert (0o440, group) == (stat.S_IMODE(file.stat().st_mode), file.stat().st_gid)
    assert 0o750 == stat.S_IMODE(directory.stat().st_mode)
    assert 0o700 == stat.S_IMODE((directory / "keys").stat().st_mode)


def test_after_failures_it_is_asked_again_soon_and_never_later_than_after_a_good_round():
    assert [60.0, 1.0, 2.0, 4.0, 60.0] == [pause_s(failures, every_s=60.0) for failures in (0, 1, 2, 3, 99)]
    assert 0.3 == pause_s(1, every_s=0.3)
