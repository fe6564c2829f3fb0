"""The probe: a TLS handshake that shows which leaf a listener serves. The only proof there is.

A fresh session each time: a resumed one would show what was served before.
"""

import asyncio
import hashlib
import ssl
from typing import Final

from sds_server.errors import CallerError

TIMEOUT_S: Final = 3.0
MAX_PORT: Final = 65535
BELOW_WILDCARD: Final = "certvoy-probe"
"""No server name is a wildcard (RFC 6066 section 3): a name that it covers is asked for instead."""


class ProbeFailed(Exception):
    """No leaf was seen; the message says why, in words for an operator."""


async def served_fingerprint(address: str, server_name: str) -> str:
    """Return the lower-case hex SHA-256 of the leaf; see `served_leaf`."""
    return hashlib.sha256(await served_leaf(address, server_name)).hexdigest()


async def served_leaf(address: str, server_name: str) -> bytes:
    """Return the leaf (DER) that ``address`` (``host:port``) serves for an SNI.

    The chain is not verified: which leaf is served is the question, and the gate has answered the rest.

    Raises:
        ProbeFailed: no connection, no handshake, or no answer within 3 s.
    """
    host, port = split(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name)
    except TimeoutError:
        raise ProbeFailed(f"{address} did not finish a TLS handshake within {TIMEOUT_S:g} s") from None
    except OSError as e:  # ssl.SSLError is one; a peer that hangs up in the handshake leaves no words
        raise ProbeFailed(f"{address}: {e.strerror or str(e) or 'it hung up in the handshake'}") from None
    except ValueError as e:  # a host that is no DNS name: the resolver's codec refuses it
        raise ProbeFailed(f"{address}: {e}") from None
    try:
        leaf: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        # Not a polite close: its wait would count against the next probe.
        writer.transport.abort()
    return leaf


def covered(domain: str) -> str:
    """Return a name to ask for: the DNS name itself, or one below a wildcard."""
    return domain.replace("*", BELOW_WILDCARD, 1)


def split(address: str, *, what: str = "probe address") -> tuple[str, int]:
    """Read ``host:port``; IPv6 in brackets. ``what`` it is, for the error.

    Raises:
        CallerError: it is neither.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[")
    if not bare or (":" in bare) != bracketed or not port.isdecimal() or not 0 < int(port) <= MAX_PORT:
        raise CallerError(
            f'{what}: must be host:port, got "{address}"',
            hint="write edge-1.example.com:443, or [::1]:443",
        )
    return bare, int(port)
