"""AWS KMS when something is wrong, by a server that says what AWS says."""

import importlib
import json
import sys

import pytest
from aiobotocore.session import get_session
from aiohttp import web

from sds_server.errors import ConfigError, CustodyError, Unavailable
from sds_server.keys import aws
from sds_server.keys.aws import AwsKms
from sds_server.keys.kms import KMS_TIMEOUT_S
from sds_server.programs.child import free_port
from tests.support.aws_kms import CREDENTIALS

DEK = bytes(range(32))
CONTEXT = {"key-id": "1"}
KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd"
SESSION = get_session()


class Service:
    """Refuses every call with an error of AWS, or answers nothing."""

    status, code = 400, ""
    asked = ()

    async def answer(self, request):
        self.asked = (*self.asked, json.loads(await request.read()))
        return web.json_response(
            {"__type": self.code, "message": "as told"}, status=self.status, headers={"x-amzn-requestid": "1"}
        )


@pytest.fixture
async def service(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(aws, "get_session", lambda: SESSION)
    service = Service()
    app = web.Application()
    app.router.add_post("/", service.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    service.endpoint = f"http://127.0.0.1:{port}"
    yield service
    await runner.cleanup()


@pytest.fixture
async def kms(service):
    kms = AwsKms(key=KEY, endpoint=service.endpoint)
    yield kms
    await kms.close()


def test_without_its_extra_it_says_which_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiobotocore.config", None)
    monkeypatch.delitem(sys.modules, "sds_server.keys.aws")

    with pytest.raises(ConfigError) as refused:
        importlib.import_module("sds_server.keys.aws")
    assert "certvoy[aws]" in refused.value.next_step


def test_two_tries_end_before_the_sealer_gives_up():
    assert aws.READ_S * aws.ATTEMPTS < KMS_TIMEOUT_S


@pytest.mark.parametrize(
    "code",
    [
        "AccessDeniedException",
        "DisabledException",
        "IncorrectKeyException",
        "InvalidCiphertextException",
        "KMSInvalidStateException",
        "NotFoundException",
    ],
)
async def test_what_does_not_pass_is_refused_with_what_to_do(kms, service, code):
    service.code = code

    with pytest.raises(CustodyError, match=f"kek: aws:arn:.* refuses to decrypt: {code}") as refused:
        await kms.unwrap(b"x", kek_version=1, context=CONTEXT)
    assert "policy" in refused.value.next_step


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ThrottlingException"),
        (400, "ExpiredTokenException"),
        (400, "UnrecognizedClientException"),
        (500, "KMSInternalException"),
        (503, "KeyUnavailableException"),
    ],
)
async def test_what_may_pass_is_unavailable(kms, service, status, code):
    service.status, service.code = status, code

    with pytest.raises(Unavailable, match=code):
        await kms.unwrap(b"x", kek_version=1, context=CONTEXT)


async def test_the_key_is_always_named(kms, service):
    """Left to itself, AWS would open by whatever key a ciphertext names."""
    service.code = "NotFoundException"
    for call in (
        kms.wrap(DEK, CONTEXT),
        kms.unwrap(b"x", kek_version=1, context=CONTEXT),
        kms.rewrap(b"x", kek_version=1, context=CONTEXT),
    ):
        with pytest.raises(CustodyError):
            await call
    encrypt, decrypt, re_encrypt = service.asked

    assert KEY == encrypt["KeyId"] == decrypt["KeyId"]
    assert (KEY, KEY) == (re_encrypt["SourceKeyId"], re_encrypt["DestinationKeyId"])
    assert CONTEXT == re_encrypt["SourceEncryptionContext"] == re_encrypt["DestinationEncryptionContext"]


async def test_nobody_there_is_unavailable(service):
    kms = AwsKms(key=KEY, endpoint=f"http://127.0.0.1:{free_port()}")
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await kms.wrap(DEK, CONTEXT)
    finally:
        await kms.close()


async def test_a_refusal_shows_no_dek(kms, service):
    service.code = "AccessDeniedException"

    with pytest.raises(CustodyError) as refused:
        await kms.wrap(DEK, CONTEXT)
    assert refused.value.__cause__ is None
    assert "AAECAwQF" not in str(refused.value)
