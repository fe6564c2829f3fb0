"""The Sealer: one KMS call a key, an outage survived for a day, a withdrawn right felt within the hour."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from sds_server.clock import SystemClock
from sds_server.errors import CustodyError, Unavailable
from sds_server.keys import kms as kms_module
from sds_server.keys.kms import HARD_TTL, RETRY_AFTER, SOFT_TTL, Sealer
from sds_server.keys.local import LocalKms
from sds_server.model import KeyId
from tests.unit.keys.test_envelope import KEY, SPKI

DEPLOYMENT = UUID(int=1)
SECOND = timedelta(seconds=1)


class TurnedClock(SystemClock):
    elapsed_s = 0.0

    def monotonic(self):
        return self.elapsed_s

    def turn(self, by):
        self.elapsed_s += by.total_seconds()


class WatchedKms(LocalKms):
    """Counts what it is asked for; can be down, or refuse."""

    unwrapped = 0
    error: Exception | None = None
    gate: asyncio.Event | None = None

    async def unwrap(self, wrapped, *, kek_version, context):
        self.unwrapped += 1
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return await super().unwrap(wrapped, kek_version=kek_version, context=context)


@pytest.fixture
def kms(tmp_path):
    return WatchedKms(tmp_path / "kek", create=True)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def sealer(kms, clock):
    return Sealer(kms, deployment=DEPLOYMENT, clock=clock)


async def sealed_key(sealer, number=2):
    return await sealer.seal(KEY, key_id=KeyId(UUID(int=number)), purpose="tls", spki_sha256=SPKI)


async def test_opened_is_what_was_sealed(sealer):
    assert await sealer.open(await sealed_key(sealer)) == KEY


async def test_sealed_key_says_who_wrapped_it(sealer, kms):
    sealed = await sealed_key(sealer)

    assert (kms.kek_uri, 1) == (sealed.kek_uri, sealed.kek_version)


async def test_each_key_has_a_dek_of_its_own(sealer, kms):
    one, two = await sealed_key(sealer), await sealed_key(sealer)

    with pytest.raises(CustodyError, match="commitment"):
        await sealer.open(replace(one, dek_wrapped=two.dek_wrapped))


async def test_row_moved_to_another_key_is_refused(sealer):
    sealed = await sealed_key(sealer)

    with pytest.raises(CustodyError, match="kek"):
        await sealer.open(replace(sealed, key_id=KeyId(UUID(int=9))))


async def test_other_deployment_cannot_open(sealer, kms, clock):
    sealed = await sealed_key(sealer)

    with pytest.raises(CustodyError):
        await Sealer(kms, deployment=UUID(int=9), clock=clock).open(sealed)


async def test_key_under_another_kek_names_both(sealer, tmp_path, clock):
    other = LocalKms(tmp_path / "other", create=True)
    sealed = await sealed_key(sealer)

    with pytest.raises(CustodyError, match=f"kek: .*{sealed.kek_uri}, .* {other.kek_uri}"):
        await Sealer(other, deployment=DEPLOYMENT, clock=clock).open(sealed)


async def test_second_opening_asks_no_kms(sealer, kms):
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    await sealer.open(sealed)

    assert kms.unwrapped == 1


async def test_many_who_want_one_key_ask_once(sealer, kms):
    sealed = await sealed_key(sealer)
    await asyncio.gather(*(sealer.open(sealed) for _ in range(100)))

    assert kms.unwrapped == 1


async def test_one_who_gives_up_does_not_cancel_the_call_of_the_others(sealer, kms):
    sealed = await sealed_key(sealer)
    kms.gate = asyncio.Event()
    first, second = asyncio.create_task(sealer.open(sealed)), asyncio.create_task(sealer.open(sealed))
    while not kms.unwrapped:
        await asyncio.sleep(0)
    first.cancel()
    kms.gate.set()

    assert await second == KEY
    assert first.cancelled()


async def test_kms_is_asked_again_after_the_soft_limit(sealer, kms, clock):
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    clock.turn(SOFT_TTL)
    await sealer.open(sealed)

    assert kms.unwrapped == 2


async def test_outage_is_survived_until_the_hard_limit(sealer, kms, clock):
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    kms.error = Unavailable("down")
    clock.turn(HARD_TTL - SECOND)
    assert await sealer.open(sealed) == KEY

    clock.turn(SECOND)
    with pytest.raises(Unavailable):
        await sealer.open(sealed)


async def test_kms_that_is_down_is_not_asked_at_every_opening(sealer, kms, clock):
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    kms.error = Unavailable("down")
    clock.turn(SOFT_TTL)
    for _ in range(10):
        await sealer.open(sealed)
    assert kms.unwrapped == 2

    clock.turn(RETRY_AFTER)
    await sealer.open(sealed)
    assert kms.unwrapped == 3


async def test_withdrawn_right_ends_at_the_soft_limit(sealer, kms, clock):
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    kms.error = CustodyError("no right")
    clock.turn(SOFT_TTL)
    with pytest.raises(CustodyError):
        await sealer.open(sealed)

    kms.error = Unavailable("down")  # and what was cached is forgotten
    with pytest.raises(Unavailable):
        await sealer.open(sealed)


async def test_cache_is_bounded_and_the_least_recently_used_goes_first(sealer, kms, monkeypatch):
    monkeypatch.setattr(kms_module, "CACHED_DEKS", 2)
    one, two, three = [await sealed_key(sealer, number) for number in (1, 2, 3)]
    for sealed in (one, two, one, three):
        await sealer.open(sealed)
    assert kms.unwrapped == 3

    await sealer.open(one)
    assert kms.unwrapped == 3
    await sealer.open(two)
    assert kms.unwrapped == 4


async def test_kms_that_hangs_is_unavailable(sealer, kms, monkeypatch):
    monkeypatch.setattr(kms_module, "KMS_TIMEOUT_S", 0)
    sealed = await sealed_key(sealer)
    kms.gate = asyncio.Event()

    with pytest.raises(Unavailable, match="did not answer"):
        await sealer.open(sealed)


async def test_own_key_comes_back(sealer):
    assert bytes(range(32)) == await sealer.unwrap_key(
        await sealer.wrap_key(bytes(range(32)), purpose="version"), purpose="version"
    )


async def test_own_key_of_another_purpose_is_refused(sealer):
    wrapped = await sealer.wrap_key(bytes(32), purpose="version")

    with pytest.raises(CustodyError):
        await sealer.unwrap_key(wrapped, purpose="tickets")


async def test_damaged_own_key_is_refused(sealer):
    with pytest.raises(CustodyError):
        await sealer.unwrap_key(b"", purpose="version")


async def test_cached_dek_does_not_show_in_a_repr(sealer):
    await sealer.open(await sealed_key(sealer))

    assert "dek=" not in repr(sealer._deks)


async def test_silence_about_one_dek_is_not_waited_for_about_the_others(sealer, kms, clock):
    keys = [await sealed_key(sealer, number) for number in range(2, 7)]
    for sealed in keys:
        await sealer.open(sealed)
    kms.error = Unavailable("down")
    clock.turn(SOFT_TTL)
    for sealed in keys:
        assert KEY == await sealer.open(sealed)

    assert len(keys) + 1 == kms.unwrapped


async def test_ready_asks_only_a_kms_that_was_silent(sealer, kms, clock, monkeypatch):
    sealed = await sealed_key(sealer)
    wrapped = []

    async def wrap(dek, context):
        wrapped.append(context)
        if kms.error:
            raise kms.error

    monkeypatch.setattr(kms, "wrap", wrap)
    await sealer.ready()
    assert [] == wrapped

    kms.error = Unavailable("down")
    for attempt in (sealer.open(sealed), sealer.ready(), sealer.ready()):
        with pytest.raises(Unavailable):
            await attempt
    assert 2 == len(wrapped)

    kms.error = None
    await sealer.ready()
    await sealer.ready()
    assert 3 == len(wrapped)
