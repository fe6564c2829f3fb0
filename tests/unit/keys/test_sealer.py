"""The Sealer: one KMS call a key, an outage survived for a day, a withdrawn right felt within the hour."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from sds_server.clock import SystemClock
from sds_server.errors import CustodyError, Unavailable
from sds_server.keys import envelope
from sds_server.keys import kms as kms_module
from sds_server.keys.kms import CALLS_PER_S, HARD_TTL, PARALLEL_CALLS, RETRY_AFTER, SOFT_TTL, Sealer
from sds_server.keys.local import LocalKms
from sds_server.model import KeyId
from tests.unit.keys.test_envelope import KEY, SPKI, private_key

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

    unwrapped = rewrapped = 0
    error: Exception | None = None
    gate: asyncio.Event | None = None

    async def unwrap(self, wrapped, *, kek_version, context):
        self.unwrapped += 1
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return await super().unwrap(wrapped, kek_version=kek_version, context=context)

    async def rewrap(self, wrapped, *, kek_version, context):
        self.rewrapped += 1
        dek = await LocalKms.unwrap(self, wrapped, kek_version=kek_version, context=context)
        return await self.wrap(dek, context)


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

    assert "dek=<secret>" in repr(sealer._deks)


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


@pytest.fixture
def old(tmp_path):
    return WatchedKms(tmp_path / "old-kek", create=True)


@pytest.fixture
def before(old, clock):
    """The Sealer as it was before the KEK was changed."""
    return Sealer(old, deployment=DEPLOYMENT, clock=clock)


@pytest.fixture
def both(kms, old, clock):
    return Sealer(kms, deployment=DEPLOYMENT, clock=clock, previous=[old])


async def test_what_a_previous_kek_wrapped_opens(before, both, kms, old):
    assert KEY == await both.open(await sealed_key(before))
    assert (0, 1) == (kms.unwrapped, old.unwrapped)


async def test_a_previous_kek_wraps_nothing(both, kms):
    assert kms.kek_uri == both.kek_uri == (await sealed_key(both)).kek_uri


async def test_a_kek_that_is_not_there_any_more_is_named_with_what_to_do(before, sealer):
    sealed = await sealed_key(before)

    with pytest.raises(CustodyError) as refused:
        await sealer.open(sealed)
    assert sealed.kek_uri in refused.value.message
    assert "kms.previous" in refused.value.next_step


async def test_rewrapped_by_the_same_kek_no_dek_comes_out(sealer, kms):
    sealed = await sealed_key(sealer)
    again = await sealer.rewrap(sealed)

    assert (1, 0) == (kms.rewrapped, kms.unwrapped)
    assert replace(sealed, dek_wrapped=again.dek_wrapped) == again != sealed
    assert KEY == await sealer.open(again)


async def test_rewrapped_from_another_kek_it_opens_without_that(before, both, sealer):
    again = await both.rewrap(await sealed_key(before))

    assert KEY == await sealer.open(again)


async def test_rewrapping_opens_no_private_key(before, both, monkeypatch):
    sealed = await sealed_key(before)

    def opened(*_, **__):
        raise AssertionError("a private key was opened")

    monkeypatch.setattr("sds_server.keys.envelope.unseal", opened)
    await both.rewrap(await both.rewrap(sealed))


async def test_dek_of_another_envelope_is_not_rewrapped(before, both):
    """What opens must not be replaced by what does not, nor the other way round."""
    one, two = await sealed_key(before), await sealed_key(before)

    with pytest.raises(CustodyError, match="commitment"):
        await both.rewrap(replace(one, dek_wrapped=two.dek_wrapped))


async def test_a_previous_kms_that_is_away_keeps_nobody_from_the_other(before, both, old):
    sealed = await sealed_key(before)
    old.error = Unavailable("down")
    with pytest.raises(Unavailable):
        await both.open(sealed)

    await both.ready()
    assert KEY == await both.open(await sealed_key(both, 3))


async def test_a_key_that_was_rewrapped_opens_by_the_dek_in_memory_while_the_kms_is_away(sealer, kms):
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    again = await sealer.rewrap(sealed)
    kms.error = Unavailable("down")

    assert KEY == await sealer.open(again)
    assert kms.unwrapped == 2


async def test_a_dek_in_memory_opens_no_other_envelope_while_the_kms_is_away(sealer, kms):
    sealed, other = await sealed_key(sealer), await sealed_key(sealer)
    await sealer.open(sealed)
    kms.error = Unavailable("down")

    with pytest.raises(CustodyError, match="commitment"):
        await sealer.open(other)


async def test_own_key_of_a_previous_kek_comes_back_whether_its_name_is_known_or_not(before, both, old, kms):
    wrapped = await before.wrap_key(bytes(range(32)), purpose="version")

    for kek_uri in (old.kek_uri, None):
        assert bytes(range(32)) == await both.unwrap_key(wrapped, purpose="version", kek_uri=kek_uri)
    with pytest.raises(CustodyError):
        await both.unwrap_key(wrapped, purpose="version", kek_uri=kms.kek_uri)


async def test_the_public_half_of_one_envelope_is_looked_at_once_for_each_asking(sealer, clock, monkeypatch):
    sealed, looked = await sealed_key(sealer), []
    check = envelope._check_spki
    monkeypatch.setattr(envelope, "_check_spki", lambda *args: (looked.append(args), check(*args)))
    for _ in range(3):
        await sealer.open(sealed)
    assert 1 == len(looked)

    clock.turn(SOFT_TTL)
    await sealer.open(sealed)
    assert 2 == len(looked)


async def test_another_envelope_under_the_same_dek_is_looked_at(sealer, monkeypatch):
    """Whoever knows a DEK can seal anything by it."""
    sealed = await sealed_key(sealer)
    await sealer.open(sealed)
    (cached,) = sealer._deks.values()
    binding = envelope.Binding(DEPLOYMENT, sealed.key_id, sealed.purpose, sealed.spki_sha256)
    with monkeypatch.context() as patch:
        patch.setattr(envelope, "_check_spki", lambda *_: None)
        forged = envelope.seal(private_key()[0], dek=cached.dek.reveal(), binding=binding)

    for _ in range(2):
        with pytest.raises(CustodyError, match="spki"):
            await sealer.open(replace(sealed, envelope=forged))


@pytest.fixture
def turns(sealer):
    told = []
    sealer.on_turn = lambda *turn: told.append(turn)
    return told


async def test_a_kms_that_falls_silent_and_answers_again_is_told_of_once_each(sealer, kms, turns):
    sealed = await sealed_key(sealer)
    kms.error = Unavailable("down")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await sealer.open(sealed)
    kms.error = None
    for _ in range(3):
        await sealer.open(sealed)

    assert [(kms.kek_uri, "silent", "down"), (kms.kek_uri, "answers", None)] == turns


async def test_a_kms_that_refuses_to_wrap_is_told_of_and_one_that_opens_not_is_the_keys_matter(
    sealer, kms, turns, monkeypatch
):
    sealed = await sealed_key(sealer)
    kms.error = CustodyError("kek: damaged")
    with pytest.raises(CustodyError):
        await sealer.open(sealed)
    assert [] == turns

    async def wrap(dek, context):
        raise CustodyError("kek: no right")

    monkeypatch.setattr(kms, "wrap", wrap)
    for _ in range(2):
        with pytest.raises(CustodyError):
            await sealed_key(sealer)
    assert [(kms.kek_uri, "refused", "kek: no right")] == turns


async def test_no_more_calls_than_a_provider_takes_are_under_way_at_once(sealer, kms):
    """A replica that starts opens thousands of keys together."""
    keys = [await sealed_key(sealer, number) for number in range(2, 2 + 3 * PARALLEL_CALLS)]
    under_way = most = 0

    async def unwrap(wrapped, *, kek_version, context):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        try:
            return await LocalKms.unwrap(kms, wrapped, kek_version=kek_version, context=context)
        finally:
            under_way -= 1

    kms.unwrap = unwrap
    await asyncio.gather(*(sealer.open(key) for key in keys))

    assert PARALLEL_CALLS == most


async def test_a_kms_in_a_network_is_asked_no_faster_than_its_quota_and_a_file_is(
    tmp_path, clock, monkeypatch
):
    turns = []

    class Paced:
        def __init__(self, per_second):
            self.per_second = per_second

        async def turn(self):
            turns.append(self.per_second)

    class Remote(LocalKms):
        insecure = False

    monkeypatch.setattr(kms_module, "Pace", Paced)
    for kind in (LocalKms, Remote):
        one = Sealer(kind(tmp_path / kind.__name__, create=True), deployment=DEPLOYMENT, clock=clock)
        await one.open(await sealed_key(one))

    assert [CALLS_PER_S] * 2 == turns
