"""What every KMS provider must do. A new one adds a factory to `PROVIDERS_UNDER_TEST` and passes."""

import asyncio
import contextlib

import pytest
from aiobotocore.session import get_session

from sds_server.errors import CustodyError
from sds_server.keys import aws
from sds_server.keys.aws import AwsKms
from sds_server.keys.gcp import GcpKms
from sds_server.keys.kms import Kms
from sds_server.keys.local import LocalKms
from sds_server.keys.providers import PROVIDERS
from sds_server.keys.vault import VaultKms
from sds_server.keys.vault_token import TokenFile
from tests.support import aws_kms
from tests.support.gcp_kms import RING, GcpKmsServer
from tests.support.openbao import OpenBao

DEK = bytes(range(32))
CONTEXT = {"key-id": "1", "purpose": "tls"}


class Local:
    """A KEK in a file."""

    def __init__(self, directory):
        self._directory = directory

    async def kms(self, name) -> Kms:
        return LocalKms(self._directory / name, create=True)

    async def stop(self):
        pass


class Gcp:
    """Google's own client on a server of ours, as there is no emulator."""

    def __init__(self, _directory):
        self.server = GcpKmsServer()
        self._started = False

    async def kms(self, name) -> Kms:
        if not self._started:
            await self.server.start()
            self._started = True
        return GcpKms(key=f"{RING}/{name}", client=self.server.client)

    async def rotate(self, name):
        self.server.rotate(f"{RING}/{name}")

    async def stop(self):
        await self.server.stop()


class Aws:
    """moto."""

    def __init__(self, directory):
        self._directory = directory
        self._keys = {}

    async def kms(self, name) -> Kms:
        moto = await SERVERS.get("aws", aws_kms.Moto.start)
        if name not in self._keys:
            self._keys[name] = await moto.key()
        return AwsKms(key=self._keys[name], endpoint=moto.endpoint)

    async def stop(self):
        pass


class Vault:
    """A real OpenBao."""

    def __init__(self, directory):
        self._token = directory / "token"

    async def kms(self, name) -> Kms:
        self.bao = await SERVERS.get("vault", OpenBao.start)
        await self.bao.key(name)
        self._token.write_text(self.bao.root)
        return VaultKms(
            address=self.bao.address, key=name, login=TokenFile(self._token), ca_file=self.bao.ca_file
        )

    async def rotate(self, name):
        await self.bao.rotate(name)

    async def stop(self):
        pass


class Servers:
    """Programs that take a second to start, one each for the whole module."""

    def __init__(self):
        self.running = {}
        self.directory = None

    async def get(self, name, start):
        if name not in self.running:
            (self.directory / name).mkdir()
            self.running[name] = await start(self.directory / name)
        return self.running[name]


SERVERS = Servers()
PROVIDERS_UNDER_TEST = {"local": Local, "gcp": Gcp, "aws": Aws, "vault": Vault}


@pytest.fixture(scope="module", autouse=True)
def servers(tmp_path_factory):
    SERVERS.directory, SERVERS.running = tmp_path_factory.mktemp("kms"), {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws_kms.CREDENTIALS.items():
            patch.setenv(name, value)
        session = get_session()  # one, as each reads the description of AWS from the disk
        patch.setattr(aws, "get_session", lambda: session)
        yield
    for server in SERVERS.running.values():
        asyncio.run(server.stop())


@pytest.fixture(params=sorted(PROVIDERS_UNDER_TEST))
async def provider(request, tmp_path):
    provider = PROVIDERS_UNDER_TEST[request.param](tmp_path)
    yield provider
    await provider.stop()


@pytest.fixture
async def make(provider):
    """Give the KMS of a name: the same name, the same KEK."""
    async with contextlib.AsyncExitStack() as stack:

        async def made(name):
            kms = await provider.kms(name)
            stack.push_async_callback(kms.close)
            return kms

        yield made


async def unwrap(kms, wrapped, context=CONTEXT):
    return await kms.unwrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=context)


def test_every_provider_is_here():
    assert set(PROVIDERS) == set(PROVIDERS_UNDER_TEST)


async def test_round_trip(make):
    kms = await make("kek")

    assert await unwrap(kms, await kms.wrap(DEK, CONTEXT)) == DEK


async def test_dek_outlives_the_process(make):
    wrapped = await (await make("kek")).wrap(DEK, CONTEXT)

    assert await unwrap(await make("kek"), wrapped) == DEK


async def test_wrapped_dek_shows_neither_the_dek_nor_itself(make):
    wrapped = await (await make("kek")).wrap(DEK, CONTEXT)

    assert DEK not in wrapped.ciphertext
    assert repr(wrapped.ciphertext) not in repr(wrapped)


async def test_order_of_the_context_does_not_matter(make):
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    assert await unwrap(kms, wrapped, dict(reversed(CONTEXT.items()))) == DEK


OTHERS = [
    {},
    {"key-id": "1"},
    {**CONTEXT, "key-id": "2"},
    {**CONTEXT, "more": "x"},
]


@pytest.mark.parametrize("context", OTHERS)
async def test_other_context_is_refused(make, context):
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await unwrap(kms, wrapped, context)


@pytest.mark.parametrize("provider", ["gcp", "local", "vault"], indirect=True)
async def test_neighbours_in_a_context_are_kept_apart(make):
    """Where it becomes bytes here; AWS takes it as it is, and moto, unlike AWS, runs it together."""
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await unwrap(kms, wrapped, {"key-id": "1purposetls"})


async def test_every_flipped_bit_is_refused(make):
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    for position in range(len(wrapped.ciphertext)):
        damaged = bytearray(wrapped.ciphertext)
        damaged[position] ^= 1
        with pytest.raises(CustodyError, match="kek"):
            await kms.unwrap(bytes(damaged), kek_version=wrapped.kek_version, context=CONTEXT)


async def test_stump_is_refused(make):
    kms = await make("kek")

    with pytest.raises(CustodyError, match="kek"):
        await kms.unwrap(b"", kek_version=1, context=CONTEXT)


async def test_other_kek_is_refused(make):
    wrapped = await (await make("kek")).wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await unwrap(await make("other"), wrapped)


async def test_unknown_version_is_refused(make):
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await kms.unwrap(wrapped.ciphertext, kek_version=99, context=CONTEXT)


async def test_name_of_the_kek_begins_with_the_provider(make):
    assert (await make("kek")).kek_uri.partition(":")[0] in PROVIDERS_UNDER_TEST


async def test_rewrapped_dek_is_the_same_in_other_bytes(make):
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)
    again = await kms.rewrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=CONTEXT)

    assert again.ciphertext != wrapped.ciphertext
    assert DEK == await unwrap(kms, again)
    assert DEK == await unwrap(kms, wrapped)


async def test_dek_of_another_context_is_not_rewrapped(make):
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)

    with pytest.raises(CustodyError, match="kek"):
        await kms.rewrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context={"key-id": "2"})


@pytest.mark.parametrize("provider", ["gcp", "vault"], indirect=True)
async def test_rewrapping_moves_a_dek_to_the_newest_version(make, provider):
    """Of the providers whose KEKs have versions that they tell of."""
    kms = await make("kek")
    wrapped = await kms.wrap(DEK, CONTEXT)
    await provider.rotate("kek")
    by_old = await unwrap(kms, wrapped)
    again = await kms.rewrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=CONTEXT)

    assert DEK == by_old == await unwrap(kms, again)
    assert wrapped.kek_version < again.kek_version == (await kms.wrap(DEK, CONTEXT)).kek_version


async def test_closed_twice_is_closed(make):
    kms = await make("kek")
    await kms.wrap(DEK, CONTEXT)
    await kms.close()
    await kms.close()


async def test_only_a_file_is_insecure(make, provider):
    assert isinstance(provider, Local) == (await make("kek")).insecure
