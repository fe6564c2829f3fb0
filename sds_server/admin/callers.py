"""Who calls the API, and what they may do.

Three ways in: the Unix socket, whose caller the kernel names; a bearer token; a client certificate. Only the
first needs nothing set up, and only on the machine itself.
"""

import pwd
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from cryptography import x509

from sds_server.clock import Clock
from sds_server.errors import CallerError, Unauthenticated
from sds_server.identity import Holder
from sds_server.inventory.api_tokens import Token
from sds_server.log import get
from sds_server.model import Identity, Scope

BEARER: Final = "Bearer "
EVERYTHING: Final = frozenset(Scope)

_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

_log = get("admin")


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls. ``holder`` is that of its client certificate; None: it showed none."""

    actor: str
    scopes: frozenset[Scope]
    holder: Holder | None = None

    @property
    def identity(self) -> Identity | None:
        """The identity of the client certificate."""
        return None if self.holder is None else self.holder.identity

    @property
    def is_peer(self) -> bool:
        """Whether the client certificate alone says who calls: no token, no Unix socket."""
        return self.identity is not None and self.actor == _peer(self.identity)

    def may(self, scope: Scope) -> bool:
        """Whether the caller has the scope; ``admin`` is all of them."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Callers:
    """Tells who a request comes from."""

    def __init__(
        self,
        *,
        token: Callable[[str], Awaitable[Token | None]],
        identify: Callable[[bytes], Holder],
        clients: Mapping[Identity, frozenset[Scope]],
        clock: Clock,
    ) -> None:
        """Take how tokens are looked up, how a certificate (PEM) is read, and which identities may call."""
        self._token = token
        self._identify = identify
        self._clients = clients
        self._clock = clock

    async def of(self, request: web.Request) -> Caller | None:
        """Return who calls; None: nobody that can be named.

        Raises:
            Unauthenticated: a token or a certificate was shown, and it is worth nothing.
        """
        if (user := _local_user(request)) is not None:
            return Caller(actor=f"person:{user}", scopes=EVERYTHING)
        holder = self._holder(request)
        header = request.headers.get("Authorization")
        if header is not None:
            return await self._bearer(header, holder)
        if holder is not None:
            scopes = self._clients.get(holder.identity, frozenset())
            return Caller(_peer(holder.identity), scopes, holder)
        return None

    async def _bearer(self, header: str, holder: Holder | None) -> Caller:
        if not header.startswith(BEARER):
            raise Unauthenticated("Authorization: expected a bearer token", hint="send `Bearer certvoy_...`")
        token = await self._token(header.removeprefix(BEARER).strip())
        if token is None:
            raise Unauthenticated("the token is unknown, revoked or has expired")
        return Caller(f"token:{token.name}", frozenset(token.scopes), holder)

    def _holder(self, request: web.Request) -> Holder | None:
        channel = None if request.transport is None else request.transport.get_extra_info("ssl_object")
        certificate = None if channel is None else channel.getpeercert(binary_form=True)
        if certificate is None:
            return None
        try:
            holder = self._identify(ssl.DER_cert_to_PEM_cert(certificate).encode())
        except (CallerError, ValueError) as e:
            _log.warning("client.refused", reason=str(e))
            raise Unauthenticated(f"client certificate: {e}") from None
        # TLS looked when the connection began, which may have been kept open ever since.
        if x509.load_der_x509_certificate(certificate).not_valid_after_utc <= self._clock.now():
            raise Unauthenticated(f"client certificate: that of {holder.identity} has expired")
        return holder


def _peer(identity: Identity) -> str:
    return f"client:{identity}"


def _local_user(request: web.Request) -> str | None:
    """Return the user at the other end of a Unix socket, by the kernel's word; None: it is none."""
    channel = None if request.transport is None else request.transport.get_extra_info("socket")
    if channel is None or channel.family != socket.AF_UNIX:
        return None
    size = _PEER_CREDENTIALS.size
    _, uid, _ = _PEER_CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
