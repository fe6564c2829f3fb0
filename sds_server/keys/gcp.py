"""A KEK in Google Cloud KMS: a symmetric key with its versions; the context is its additional data.

What is sent and what comes back is held against CRC32C checksums, as Google asks its callers to do: a bit
that flips on the way is found before a DEK is stored that nobody can unwrap.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import google.auth
from google.api_core import exceptions as said
from google.api_core.client_options import ClientOptions
from google.api_core.retry import AsyncRetry, if_exception_type
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.cloud.kms_v1.types import DecryptRequest, EncryptRequest
from google.oauth2 import service_account

from sds_server.errors import CustodyError, Unavailable
from sds_server.keys.kms import WrappedDek, canonical

ATTEMPT_S: Final = 2.0
"""For one call; without it a call waits for 60 s."""

RETRY: Final = AsyncRetry(
    if_exception_type(said.ServiceUnavailable, said.DeadlineExceeded, said.InternalServerError),
    initial=0.1,
    maximum=0.5,
    timeout=4.0,
)
"""Ends before the Sealer's five seconds."""

SCOPE: Final = "https://www.googleapis.com/auth/cloudkms"
VERSION_BYTES: Final = 4

REFUSED_FOR_EVER: Final = (
    said.Forbidden,
    said.NotFound,
    said.BadRequest,  # also a version that is disabled or destroyed: FailedPrecondition
)

Client = KeyManagementServiceAsyncClient
T = TypeVar("T")


class Corrupted(Exception):
    """A checksum says that bytes were changed on their way."""


class GcpKms:
    """Wraps by ``Encrypt``; there is no way to rewrap inside of Google's KMS, so a DEK comes out for that.

    Credentials are the file's, or those of the machine. Timeouts: 2 s a call, 4 s with its retries.
    """

    insecure = False

    def __init__(
        self,
        *,
        key: str,
        endpoint: str | None = None,
        credentials_file: Path | None = None,
        client: Callable[[], Client] | None = None,
    ) -> None:
        """``key`` is ``projects/.../cryptoKeys/NAME``. Nothing is asked before the first operation.

        ``client`` makes another client than the one of ``endpoint`` and ``credentials_file``.
        """
        self.kek_uri = f"gcp:{key}"
        self._key = key
        self._endpoint = endpoint
        self._credentials_file = credentials_file
        self._make = client
        self._opening = asyncio.Lock()
        self._client: Client | None = None

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes; the version is what Google took, and kept in front of the ciphertext."""
        async with self._asked("encrypt") as client:
            return await self._intact(self._encrypt, client, dek, canonical(context))

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`."""
        # Google finds the version by itself, and does not say which it was.
        if wrapped[:VERSION_BYTES] != kek_version.to_bytes(VERSION_BYTES):
            raise CustodyError(f"kek: {self.kek_uri}: version {kek_version} did not wrap this DEK")
        async with self._asked("decrypt") as client:
            return await self._intact(self._decrypt, client, wrapped[VERSION_BYTES:], canonical(context))

    async def rewrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        """Wrap the same DEK by the primary version."""
        return await self.wrap(await self.unwrap(wrapped, kek_version=kek_version, context=context), context)

    async def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.transport.close()  # type: ignore[no-untyped-call]

    async def _encrypt(self, client: Client, dek: bytes, aad: bytes) -> WrappedDek:
        answer = await client.encrypt(
            request=EncryptRequest(
                name=self._key,
                plaintext=dek,
                plaintext_crc32c=crc32c(dek),
                additional_authenticated_data=aad,
                additional_authenticated_data_crc32c=crc32c(aad),
            ),
            retry=RETRY,
            timeout=ATTEMPT_S,
        )
        arrived = answer.verified_plaintext_crc32c and (
            answer.verified_additional_authenticated_data_crc32c or not aad
        )
        if not arrived or crc32c(answer.ciphertext) != answer.ciphertext_crc32c:
            raise Corrupted
        key, _, version = answer.name.rpartition("/cryptoKeyVersions/")
        if key != self._key or not version.isdecimal():
            raise Corrupted
        return WrappedDek(int(version).to_bytes(VERSION_BYTES) + answer.ciphertext, int(version))

    async def _decrypt(self, client: Client, ciphertext: bytes, aad: bytes) -> bytes:
        answer = await client.decrypt(
            request=DecryptRequest(
                name=self._key,
                ciphertext=ciphertext,
                ciphertext_crc32c=crc32c(ciphertext),
                additional_authenticated_data=aad,
                additional_authenticated_data_crc32c=crc32c(aad),
            ),
            retry=RETRY,
            timeout=ATTEMPT_S,
        )
        if crc32c(answer.plaintext) != answer.plaintext_crc32c:
            raise Corrupted
        return bytes(answer.plaintext)

    async def _intact(
        self, call: Callable[[Client, bytes, bytes], Awaitable[T]], client: Client, content: bytes, aad: bytes
    ) -> T:
        """Call once more where bytes were changed; Google says INVALID_ARGUMENT when it was the request's."""
        try:
            return await call(client, content, aad)
        except (Corrupted, said.InvalidArgument):
            return await call(client, content, aad)

    @asynccontextmanager
    async def _asked(self, operation: str) -> AsyncIterator[Client]:
        """Give the client, and turn what it raises into what a `Kms` raises."""
        try:
            yield await self._open()
        except Corrupted:
            raise Unavailable(
                f"{self.kek_uri}: what went to {operation}, or came back, was changed on its way",
                hint="look at what lies between certvoy and Google; it is tried again by itself",
            ) from None
        except REFUSED_FOR_EVER as e:
            raise CustodyError(
                f"kek: {self.kek_uri} refuses to {operation}: {_words(e)}",
                hint="look at the key's versions, and at what certvoy's service account may do",
            ) from None
        except said.GoogleAPIError as e:
            raise Unavailable(f"{self.kek_uri}: Google did not {operation}: {_words(e)}") from None
        except (GoogleAuthError, OSError) as e:
            raise Unavailable(
                f"{self.kek_uri}: no credentials of Google: {_words(e)}",
                hint="name kms.credentials_file, or give the machine a service account",
            ) from None

    async def _open(self) -> Client:
        async with self._opening:
            if self._client is None:
                self._client = self._make() if self._make else await self._default()
            return self._client

    async def _default(self) -> Client:
        # In a thread: it reads files, and may ask the machine's metadata server.
        credentials = await asyncio.to_thread(self._credentials)
        host = None if self._endpoint is None else urlsplit(self._endpoint).netloc
        return Client(credentials=credentials, client_options=ClientOptions(api_endpoint=host))

    def _credentials(self) -> Credentials:
        # By its own loader: one that takes any kind of file would also take one that names a program to run.
        if self._credentials_file is not None:
            return service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call,no-any-return]
                str(self._credentials_file), scopes=[SCOPE]
            )
        found, _ = google.auth.default(scopes=[SCOPE])
        return found


def _words(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]


def _table() -> tuple[int, ...]:
    entries = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_CRC32C: Final = _table()


def crc32c(content: bytes) -> int:
    """Return Castagnoli's checksum (RFC 3720 appendix B.4): of a few hundred bytes, so not by a library."""
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
