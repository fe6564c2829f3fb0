"""Google Cloud KMS as its callers see it: gRPC on loopback, on the library's own types, with real AES-GCM.

Keys have versions, one of them primary; additional data is authenticated, checksums are compared and given as
Google documents it. It can fail, hang, or flip bits on the way.
"""

import asyncio
import os
from collections import Counter

import grpc.aio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcAsyncIOTransport,
)
from google.cloud.kms_v1.types import DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse

from sds_server.keys.gcp import crc32c

SERVICE = "google.cloud.kms.v1.KeyManagementService"
RING = "projects/p/locations/europe-west1/keyRings/certvoy/cryptoKeys"
NONCE = 12
STORED_VERSION = 4


class Refused(Exception):
    """Answered with this status."""

    def __init__(self, code, words):
        self.code, self.words = code, words


class GcpKmsServer:
    """Keys come into being when they are first named; `rotate` gives one its next version."""

    def __init__(self):
        self._keys = {}
        self.disabled = set()
        self.fails: grpc.StatusCode | None = None
        self.hangs = False
        self.flips: str | None = None
        """What has one bit flipped on its way: plaintext, aad, ciphertext or answer."""
        self.flip_times = 10**9
        self.calls: Counter[str] = Counter()

    async def start(self):
        self._server = grpc.aio.server()
        handlers = {
            "Encrypt": grpc.unary_unary_rpc_method_handler(
                self._answer(self._encrypt),
                request_deserializer=EncryptRequest.deserialize,
                response_serializer=EncryptResponse.serialize,
            ),
            "Decrypt": grpc.unary_unary_rpc_method_handler(
                self._answer(self._decrypt),
                request_deserializer=DecryptRequest.deserialize,
                response_serializer=DecryptResponse.serialize,
            ),
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self):
        await self._server.stop(None)

    def client(self):
        """Return Google's own client, on this server."""
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        return KeyManagementServiceAsyncClient(
            transport=KeyManagementServiceGrpcAsyncIOTransport(channel=channel)
        )

    def rotate(self, name):
        """Make the next version, and make it primary."""
        self._versions(name).append(os.urandom(32))

    def _versions(self, name):
        return self._keys.setdefault(name, [os.urandom(32)])

    def _answer(self, handler):
        async def answer(request, context):
            self.calls[handler.__name__] += 1
            if self.hangs:
                await asyncio.Event().wait()
            if self.fails is not None:
                await context.abort(self.fails, "told to fail")
            try:
                return handler(request)
            except Refused as e:
                await context.abort(e.code, e.words)

        return answer

    def _flip(self, what, value):
        if self.flips != what or self.flip_times <= 0:
            return value
        self.flip_times -= 1
        return bytes([value[0] ^ 1]) + value[1:]

    def _encrypt(self, request):
        plaintext = self._flip("plaintext", request.plaintext)
        aad = self._flip("aad", request.additional_authenticated_data)
        for value, sum_ in (
            (plaintext, request.plaintext_crc32c),
            (aad, request.additional_authenticated_data_crc32c),
        ):
            if sum_ is not None and sum_ != crc32c(value):
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "checksum does not match")
        versions = self._versions(request.name)
        number, nonce = len(versions), os.urandom(NONCE)
        if (request.name, number) in self.disabled:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"version {number} is not enabled")
        sealed = number.to_bytes(STORED_VERSION) + nonce + AESGCM(versions[-1]).encrypt(nonce, plaintext, aad)
        return EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/{number}",
            ciphertext=self._flip("answer", sealed),
            ciphertext_crc32c=crc32c(sealed),
            verified_plaintext_crc32c=request.plaintext_crc32c is not None,
            verified_additional_authenticated_data_crc32c=request.additional_authenticated_data_crc32c
            is not None,
        )

    def _decrypt(self, request):
        sealed = self._flip("ciphertext", request.ciphertext)
        if request.ciphertext_crc32c is not None and request.ciphertext_crc32c != crc32c(sealed):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "checksum does not match")
        versions = self._versions(request.name)
        number = int.from_bytes(sealed[:STORED_VERSION])
        if not 1 <= number <= len(versions):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid.")
        if (request.name, number) in self.disabled:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"version {number} is not enabled")
        body = sealed[STORED_VERSION:]
        try:
            plaintext = AESGCM(versions[number - 1]).decrypt(
                body[:NONCE], body[NONCE:], request.additional_authenticated_data
            )
        except (InvalidTag, ValueError):
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid."
            ) from None
        return DecryptResponse(
            plaintext=self._flip("answer", plaintext),
            plaintext_crc32c=crc32c(plaintext),
            used_primary=number == len(versions),
        )
