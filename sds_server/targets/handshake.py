"""A TLS 1.3 handshake over TCP by a client that takes some types of keys only, and shows what it was given.

The records (RFC 8446 section 5) around the messages of `tls13`. They carry no data.
"""

import asyncio
import os
import struct
from collections.abc import Collection
from typing import Final

from sds_server.targets import tls13
from sds_server.targets.tls13 import BROKEN, HandshakeFailed, KeyKind, Shown, Suite, expand

RECORD_MAX: Final = (1 << 14) + 256

_ALERT, _HANDSHAKE, _APPLICATION, _CHANGE_CIPHER_SPEC = 21, 22, 23, 20


async def shake(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server_name: str, kinds: Collection[KeyKind]
) -> Shown:
    """Make a handshake for an SNI, as a client that takes these types of keys only.

    The caller bounds the time, and closes.

    Raises:
        HandshakeFailed: the server has no leaf of such a type, or speaks otherwise than RFC 8446.
        OSError: the connection broke.
    """
    # As of a session: what stands between may know TLS 1.2 alone.
    client = tls13.Client(server_name, kinds, session=os.urandom(32))
    records = _Records(client)
    writer.write(struct.pack("!BHH", _HANDSHAKE, 0x0301, len(client.hello)) + client.hello)
    try:
        while client.shown is None:
            header = await reader.readexactly(5)
            size = int.from_bytes(header[3:])
            if size > RECORD_MAX:
                raise HandshakeFailed("it answered with something else than TLS")
            records.receive(header, await reader.readexactly(size))
    except asyncio.IncompleteReadError:
        # Without an alert it may be of an older version: some say none.
        raise HandshakeFailed("it hung up in the handshake", only_older=not client.greeted) from None
    except BROKEN as e:
        raise HandshakeFailed(f"its handshake is broken ({type(e).__name__})") from None
    writer.write(records.end())
    await writer.drain()
    return client.shown


class _Records:
    """Takes the server's messages out of its records, and puts the client's last ones into one."""

    def __init__(self, client: tls13.Client) -> None:
        self._client = client
        self._read: _Protection | None = None

    def receive(self, header: bytes, record: bytes) -> None:
        kind, client = header[0], self._client
        if kind == _CHANGE_CIPHER_SPEC:
            return  # for what stands between: "an implementation ... MUST simply drop it" (section 5)
        protected = kind == _APPLICATION and client.suite is not None
        if protected:
            inner = self._protection().open(header, record).rstrip(b"\0")
            kind, record = inner[-1], inner[:-1]
        if kind == _ALERT:
            raise tls13.refused(record[1])
        if kind != _HANDSHAKE:
            raise HandshakeFailed("it answered with something else than a handshake")
        client.receive(record, protected=protected)

    def end(self) -> bytes:
        suite, (mine, _) = self._client.suite, self._client.secrets
        assert suite is not None  # noqa: S101 - a ServerHello came first
        return _Protection(suite, mine).seal(self._client.end)

    def _protection(self) -> "_Protection":
        suite, (_, theirs) = self._client.suite, self._client.secrets
        assert suite is not None  # noqa: S101
        self._read = self._read or _Protection(suite, theirs)
        return self._read


class _Protection:
    """One direction's records (section 5.2)."""

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._aead = suite.aead(expand(suite, secret, "key", b"", suite.key_bytes))
        self._iv = int.from_bytes(expand(suite, secret, "iv", b"", 12))
        self._count = 0

    def open(self, header: bytes, record: bytes) -> bytes:
        return self._aead.decrypt(self._nonce(), record, header)

    def seal(self, messages: bytes) -> bytes:
        inner = messages + bytes([_HANDSHAKE])
        header = struct.pack("!BHH", _APPLICATION, 0x0303, len(inner) + 16)
        return header + self._aead.encrypt(self._nonce(), inner, header)

    def _nonce(self) -> bytes:
        nonce = (self._iv ^ self._count).to_bytes(12)
        self._count += 1
        return nonce
