"""What is asked and brought so that a request always waits, whatever is lost in between."""

import pytest

from acme_engine import keys
from acme_engine.keys import KeyType
from sds_server.agent.local_keys import LocalKeys
from sds_server.agent.requester import Requester, Todo, WantedKey, plan
from sds_server.errors import CallerError, Conflict, OperatorError, Unavailable
from tests.support import pki

NAMES = ("www.example.test", "api.example.test")


def new(key_type=KeyType.ECDSA_P256):
    return keys.generate(key_type)


def spki(key):
    return keys.spki_sha256(key.public_key())


class Door:
    """A control plane: which request waits, which were ordered, what goes wrong."""

    def __init__(self):
        self.key_type = KeyType.ECDSA_P256
        self.names = NAMES
        self.waits = None
        self.used = set()
        self.brought, self.lost, self.asked = [], [], 0
        self.away = False
        self.answers_lost = 0
        self.refusal = None

    async def wanted_key(self, secret):
        self.asked += 1
        if self.away:
            raise Unavailable("away")
        return WantedKey(self.names, self.key_type, self.waits)

    async def bring(self, secret, csr_pem, *, target, lost):
        csr = pki.x509.load_pem_x509_csr(csr_pem.encode())
        hash_ = spki(csr)
        self.brought.append(hash_)
        self.lost.append(lost)
        if self.refusal is not None:
            raise self.refusal
        if hash_ not in self.used:
            self.waits = hash_
        names = csr.extensions.get_extension_for_class(pki.x509.SubjectAlternativeName).value
        assert list(self.names) == names.get_values_for_type(pki.x509.DNSName)
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("the answer was lost")
        return await self.wanted_key(secret)

    def order(self):
        self.used.add(self.waits)
        ordered, self.waits = self.waits, None
        return ordered


@pytest.fixture
def door():
    return Door()


@pytest.fixture
def kept(tmp_path):
    return LocalKeys(tmp_path)


@pytest.fixture
def start(door, kept):
    """A process of the agent; called again, the next one."""
    return lambda: Requester("www", kept, door, target="web-1")


def on_disk(tmp_path):
    return len(list((tmp_path / "keys").glob("*.pem")))


async def test_the_first_request_is_brought_and_nothing_more_while_it_waits(start, door, tmp_path):
    requester = start()
    for _ in range(3):
        await requester.step(None)

    assert 1 == len(door.brought) == on_disk(tmp_path)


async def test_a_key_is_on_the_disk_before_its_request_leaves(start, door, kept):
    seen = []
    bring = door.bring

    async def watched(secret, csr, **more):
        seen.append(kept.find(spki(pki.x509.load_pem_x509_csr(csr.encode()))) is not None)
        return await bring(secret, csr, **more)

    door.bring = watched
    await start().step(None)

    assert [True] == seen


async def test_a_key_that_cannot_be_written_is_heard_of_by_nobody(start, door, tmp_path):
    (tmp_path / "keys").mkdir(mode=0o777)
    (tmp_path / "keys").chmod(0o777)
    with pytest.raises(OperatorError, match="others may write there"):
        await start().step(None)

    assert [] == door.brought


async def test_an_ordered_request_is_followed_by_one_with_a_new_key(start, door, kept):
    requester = start()
    for _ in range(3):
        await requester.step(None)
        served = door.order()
        assert kept.find(served) is not None
    await requester.step(served)

    assert 4 == len(set(door.brought))
    assert door.waits not in door.used


async def test_a_lost_answer_changes_nothing(start, door, tmp_path):
    door.answers_lost = 1
    requester = start()
    await requester.step(None)
    await requester.step(None)

    assert 1 == len(door.brought) == on_disk(tmp_path)
    assert door.waits is not None


async def test_a_request_whose_answer_was_lost_and_that_is_ordered_is_followed_by_another(start, door, kept):
    door.answers_lost = 1
    requester = start()
    await requester.step(None)
    first = door.order()
    await requester.step(None)

    assert door.waits not in {None, first}
    assert kept.find(first) is not None


async def test_the_next_process_goes_on_with_the_key_that_is_there(start, door, kept, tmp_path):
    """Killed after the key was written: nobody has heard of it."""
    kept.add(new())
    await start().step(None)

    assert 1 == on_disk(tmp_path)
    assert door.waits == spki(kept.newest(after=None))


async def test_the_next_process_finds_out_that_its_newest_key_was_ordered(start, door, kept):
    await start().step(None)
    first = door.order()
    await start().step(None)

    assert door.waits not in {None, first}
    assert kept.find(first) is not None


async def test_a_control_plane_from_a_backup_gets_the_newest_request_and_not_a_used_key(start, door, kept):
    """There the request of the key that is served waits still."""
    requester = start()
    await requester.step(None)
    served = door.order()
    await requester.step(served)
    newest = door.waits
    door.waits, door.used = served, set()
    await start().step(served)

    assert newest == door.waits
    assert kept.find(served) is not None


async def test_another_type_of_key_gets_another_key(start, door):
    requester = start()
    await requester.step(None)
    door.waits, door.key_type = None, KeyType.ECDSA_P384
    await requester.step(None)

    assert 2 == len(set(door.brought))


async def test_other_names_get_another_request(start, door):
    requester = start()
    await requester.step(None)
    door.waits, door.names = None, ("other.example.test",)
    await requester.step(None)

    assert door.waits is not None


async def test_where_another_target_has_the_keys_it_says_so_and_makes_no_more(start, door, tmp_path):
    door.refusal = Conflict("web-2 has its keys")
    requester = start()
    for _ in range(3):
        with pytest.raises(Conflict, match="web-2 has its keys"):
            await requester.step(None)

    assert 1 == len(set(door.brought)) == on_disk(tmp_path)
    door.refusal = None
    await requester.step(None)
    assert 1 == on_disk(tmp_path)


@pytest.mark.parametrize("error", [Unavailable("503"), CallerError("400")])
async def test_what_fails_again_and_again_makes_no_heap_of_keys(start, door, tmp_path, error):
    door.refusal = error
    requester = start()
    for _ in range(5):
        await requester.step(None)

    assert 1 == on_disk(tmp_path)
    assert 5 == len(door.brought)


async def test_a_control_plane_that_is_away_hinders_nothing(start, door, tmp_path):
    door.away = True
    await start().step(None)

    assert 1 == door.asked
    assert not (tmp_path / "keys").exists()


async def test_a_lost_key_is_told_of_until_it_is_not_lost_any_more(start, door):
    requester = start()
    await requester.step(None)
    requester.lost = 7
    await requester.step(None)
    await requester.step(None)
    requester.lost = None
    await requester.step(None)

    assert [None, 7, 7] == door.lost
    assert 1 == len(set(door.brought))


WAITING = new()


@pytest.mark.parametrize(
    ("waits", "newest", "taken", "lost", "todo"),
    [
        (None, None, None, False, Todo.MAKE),
        (spki(WAITING), None, None, False, Todo.MAKE),
        (spki(WAITING), WAITING, None, False, Todo.NOTHING),
        (spki(WAITING), WAITING, None, True, Todo.BRING),
        (None, WAITING, None, False, Todo.BRING),
        (None, WAITING, spki(WAITING), False, Todo.MAKE),
        (spki(new()), WAITING, spki(WAITING), False, Todo.MAKE),
        (spki(new()), WAITING, None, False, Todo.BRING),
        (None, new(KeyType.ECDSA_P384), None, False, Todo.MAKE),
    ],
    ids=[
        "nothing there",
        "all keys lost",
        "it waits",
        "what is current is lost",
        "perhaps never brought",
        "ordered",
        "replaced by an older one",
        "perhaps never brought, an older one waits",
        "of another type",
    ],
)
def test_what_is_done(waits, newest, taken, lost, todo):
    wanted = WantedKey(NAMES, KeyType.ECDSA_P256, waits)

    assert todo is plan(wanted, newest, taken=taken, lost=lost).todo
