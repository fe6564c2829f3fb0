"""What every KMS provider must do. A new one adds a factory to `PROVIDERS_UNDER_TEST` and passes."""

import pytest

from sds_server.errors import CustodyError
from sds_server.keys.kms import Kms
from sds_server.keys.local import LocalKms
from sds_server.keys.providers import PROVIDERS

DEK = bytes(range(32))
CONTEXT = {"key-id": "1", "purpose": "tls"}


def local(directory, name) -> Kms:
    return LocalKms(directory / name, create=True)


PROVIDERS_UNDER_TEST = {"local": local}


@pytest.fixture(params=sorted(PROVIDERS_UNDER_TEST))
def make(request, tmp_path):
    """Give the KMS of a name: the same name, the same KEK."""
    factory = PROVIDERS_UNDER_TEST[request.param]
    return lambda name: factory(tmp_path, name)


async def unwrap(kms, wrapped, context=CONTEXT):
    return await kms.unwrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=context)


def test_every_provider_is_here():
    assert set(PROVIDERS) == set(PROVIDERS_UNDER_TEST)


async def test_round_trip(make):
    kms = make("kek")

    assert await unwrap(kms, await kms.wrap(DEK, CONTEXT)) == DEK


async def test_dek_outlives_the_process(make):
    wrapped = await make("kek").wrap(DEK, CONTEXT)

    assert await unwrap(make("kek"), wrapped) == DEK


async def test_wrapped_dek_shows_neither_the_dek_nor_itself(make):
    wrapped = await make("kek").wrap(DEK, CONTEXT)

    assert DEK not in wrapped.ciphertext
    assert repr(wrapped.ciphertext) not in repr(wrapped)


async def test_order_of_the_context_does_not_matter(make):
    kms = make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    assert await unwrap(kms, wrapped, dict(reversed(CONTEXT.items()))) == DEK


OTHERS = [
    {},
    {"key-id": "1"},
    {**CONTEXT, "key-id": "2"},
    {**CONTEXT, "more": "x"},
    {"key-id": "1purposetls"},
]


@pytest.mark.parametrize("context", OTHERS)
async def test_other_context_is_refused(make, context):
    kms = make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await unwrap(kms, wrapped, context)


async def test_every_flipped_bit_is_refused(make):
    kms = make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    for position in range(len(wrapped.ciphertext)):
        damaged = bytearray(wrapped.ciphertext)
        damaged[position] ^= 1
        with pytest.raises(CustodyError, match="kek"):
            await kms.unwrap(bytes(damaged), kek_version=wrapped.kek_version, context=CONTEXT)


async def test_stump_is_refused(make):
    kms = make("kek")

    with pytest.raises(CustodyError, match="kek"):
        await kms.unwrap(b"", kek_version=1, context=CONTEXT)


async def test_other_kek_is_refused(make):
    wrapped = await make("kek").wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await unwrap(make("other"), wrapped)


async def test_unknown_version_is_refused(make):
    kms = make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await kms.unwrap(wrapped.ciphertext, kek_version=99, context=CONTEXT)


async def test_name_of_the_kek_begins_with_the_provider(make):
    assert make("kek").kek_uri.partition(":")[0] in PROVIDERS_UNDER_TEST
