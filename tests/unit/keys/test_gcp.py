"""Google Cloud KMS when something is wrong: on the way, in Google's KMS, or with our rights."""

import grpc
import pytest
from google.api_core.retry import AsyncRetry

from sds_server.errors import CustodyError, Unavailable
from sds_server.keys import gcp
from sds_server.keys.gcp import GcpKms, crc32c
from sds_server.keys.kms import KMS_TIMEOUT_S
from tests.support.gcp_kms import RING, GcpKmsServer

DEK = bytes(range(32))
CONTEXT = {"key-id": "1"}
KEY = f"{RING}/kek"


@pytest.fixture
async def server():
    server = GcpKmsServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def kms(server):
    kms = GcpKms(key=KEY, client=server.client)
    yield kms
    await kms.close()


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(gcp, "ATTEMPT_S", 0.05)
    monkeypatch.setattr(gcp, "RETRY", AsyncRetry(gcp.RETRY._predicate, initial=0.01, timeout=0.1))


async def unwrap(kms, wrapped):
    return await kms.unwrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=CONTEXT)


def test_checksum_is_castagnolis():
    assert 0xE3069283 == crc32c(b"123456789")


def test_a_call_with_its_retries_ends_before_the_sealer_gives_up():
    assert gcp.RETRY._timeout < KMS_TIMEOUT_S
    assert gcp.ATTEMPT_S < gcp.RETRY._timeout


@pytest.mark.parametrize("what", ["plaintext", "aad", "answer"])
async def test_a_bit_that_flips_once_while_wrapping_is_not_stored(kms, server, what):
    server.flips, server.flip_times = what, 1

    assert DEK == await unwrap(kms, await kms.wrap(DEK, CONTEXT))
    assert 2 == server.calls["_encrypt"]


@pytest.mark.parametrize("what", ["ciphertext", "answer"])
async def test_a_bit_that_flips_once_while_unwrapping_does_no_harm(kms, server, what):
    wrapped = await kms.wrap(DEK, CONTEXT)
    server.flips, server.flip_times = what, 1

    assert DEK == await unwrap(kms, wrapped)


async def test_answers_that_are_always_damaged_are_no_refusal(kms, server):
    """A DEK in memory must not be dropped for that."""
    wrapped = await kms.wrap(DEK, CONTEXT)
    server.flips = "answer"

    with pytest.raises(Unavailable, match="changed on its way"):
        await unwrap(kms, wrapped)
    with pytest.raises(Unavailable, match="changed on its way"):
        await kms.wrap(DEK, CONTEXT)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"]
)
async def test_what_may_pass_is_unavailable(kms, server, code):
    server.fails = grpc.StatusCode[code]

    with pytest.raises(Unavailable, match="Google did not encrypt"):
        await kms.wrap(DEK, CONTEXT)


@pytest.mark.parametrize(
    "code", ["PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT"]
)
async def test_what_does_not_pass_is_refused_with_what_to_do(kms, server, code):
    server.fails = grpc.StatusCode[code]

    with pytest.raises(CustodyError, match=r"kek: gcp:projects/.* refuses to encrypt") as refused:
        await kms.wrap(DEK, CONTEXT)
    assert "service account" in refused.value.next_step


async def test_a_disabled_version_opens_nothing(kms, server):
    wrapped = await kms.wrap(DEK, CONTEXT)
    server.rotate(KEY)
    server.disabled.add((KEY, 1))

    with pytest.raises(CustodyError, match="not enabled"):
        await unwrap(kms, wrapped)


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_hangs_is_unavailable(kms, server):
    server.hangs = True

    with pytest.raises(Unavailable):
        await kms.wrap(DEK, CONTEXT)


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_is_gone_is_unavailable_and_back_again_it_answers(kms, server):
    wrapped = await kms.wrap(DEK, CONTEXT)
    server.fails = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Unavailable):
        await unwrap(kms, wrapped)
    server.fails = None

    assert DEK == await unwrap(kms, wrapped)


async def test_credentials_that_are_none_are_unavailable_and_named(tmp_path):
    (tmp_path / "account.json").write_text("{}")

    with pytest.raises(Unavailable) as away:
        await GcpKms(key=KEY, credentials_file=tmp_path / "account.json").wrap(DEK, CONTEXT)
    assert "kms.credentials_file" in away.value.next_step
