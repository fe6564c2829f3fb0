"""A KEK in AWS KMS: a symmetric key, by its ARN, with the context as its EncryptionContext."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from sds_server.errors import ConfigError, CustodyError, Unavailable
from sds_server.keys.kms import WrappedDek

try:
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    from aiobotocore.session import get_session  # type: ignore[import-untyped]
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        ParamValidationError,
    )
except ImportError as missing:
    raise ConfigError(
        "kms.provider: aws needs the package aiobotocore, which is not installed",
        hint="install certvoy with its extra `aws`: pip install 'certvoy[aws]'",
    ) from missing

CONNECT_S: Final = 1.0
READ_S: Final = 2.0
ATTEMPTS: Final = 2

VERSION: Final = 1
"""AWS keeps the key material of every rotation, and does not say which of them it took."""

REFUSED_FOR_EVER: Final = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "IncorrectKeyException",
        "InvalidArnException",
        "InvalidCiphertextException",
        "InvalidKeyUsageException",
        "KMSInvalidStateException",
        "NotFoundException",
        "UnsupportedOperationException",
        "ValidationException",
    }
)
"""What asking again does not help against: the KEK, its policy, the context or the bytes are others.

Everything else may pass: an expired session or unknown credentials, too, are mended where they come from.
"""


class AwsKms:
    """Wraps by ``Encrypt``, rewraps inside AWS by ``ReEncrypt``; KeyId is named each time, never guessed.

    Credentials are what the SDK finds: a role of the machine, of the pod, or the environment. Timeouts: 1 s
    to connect, 2 s an answer, two tries.
    """

    insecure = False

    def __init__(self, *, key: str, endpoint: str | None = None) -> None:
        """``key`` is the key's own ARN. Nothing is asked before the first operation."""
        self.kek_uri = f"aws:{key}"
        self._key = key
        self._endpoint = endpoint
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes."""
        async with self._asked("encrypt") as client:
            answer = await client.encrypt(KeyId=self._key, Plaintext=dek, EncryptionContext=dict(context))
        return WrappedDek(answer["CiphertextBlob"], VERSION)

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`."""
        self._check(kek_version)
        async with self._asked("decrypt") as client:
            answer = await client.decrypt(
                KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=dict(context)
            )
        dek: bytes = answer["Plaintext"]
        return dek

    async def rewrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        """Have AWS wrap the same DEK by its newest key material: it does not leave it."""
        self._check(kek_version)
        async with self._asked("re-encrypt") as client:
            answer = await client.re_encrypt(
                CiphertextBlob=wrapped,
                SourceKeyId=self._key,
                SourceEncryptionContext=dict(context),
                DestinationKeyId=self._key,
                DestinationEncryptionContext=dict(context),
            )
        return WrappedDek(answer["CiphertextBlob"], VERSION)

    async def close(self) -> None:
        """End the connections."""
        self._client = None
        await self._stack.aclose()

    def _check(self, kek_version: int) -> None:
        if kek_version != VERSION:
            raise CustodyError(f"kek: {self.kek_uri} has no version {kek_version}")

    @asynccontextmanager
    async def _asked(self, operation: str) -> AsyncIterator[Any]:
        """Give the client, and turn what it raises into what a `Kms` raises; no cause: it may quote a DEK."""
        try:
            yield await self._open()
        except ParamValidationError:
            raise CustodyError(f"kek: {self.kek_uri} did not wrap this: it is no ciphertext") from None
        except ClientError as e:
            code = str(e.response.get("Error", {}).get("Code"))
            said = " ".join(str(e.response.get("Error", {}).get("Message", "")).split())[:300]
            if code in REFUSED_FOR_EVER:
                raise CustodyError(
                    f"kek: {self.kek_uri} refuses to {operation}: {code}: {said}",
                    hint="look at the key's state and policy, and at what certvoy's role may do",
                ) from None
            raise Unavailable(
                f"{self.kek_uri}: AWS did not {operation}: {code}: {said}",
                hint="renew the credentials, or wait: everything goes on by itself",
            ) from None
        except (BotoCoreError, OSError, TimeoutError) as e:
            raise Unavailable(
                f"{self.kek_uri}: AWS KMS does not answer: {e or type(e).__name__}",
                hint="look at the network, and at where the SDK's credentials come from",
            ) from None

    async def _open(self) -> Any:
        async with self._opening:
            if self._client is None:
                config = AioConfig(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                )
                self._client = await self._stack.enter_async_context(
                    get_session().create_client(
                        "kms",
                        region_name=self._key.split(":")[3],
                        endpoint_url=self._endpoint,
                        config=config,
                    )
                )
            return self._client
