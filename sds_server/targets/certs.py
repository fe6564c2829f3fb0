"""Envoy's own statement of what it serves: ``/certs`` of its admin interface.

Where a listener cannot be reached this is the next best proof: the certificates that are loaded in its TLS
contexts now. ``/config_dump``, ``version_text`` and the expiry gauge are none: after a refusal they show what
was refused. Envoy: docs/operations/admin, ``GET /certs``.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import aiohttp

from sds_server.targets.probe import TIMEOUT_S, ProbeFailed, failure, split

_NONE: Final[frozenset[int]] = frozenset()

T = TypeVar("T")

BODY_MAX: Final = 16 * 1024 * 1024
"""A certificate takes some hundred bytes there; this is an Envoy with tens of thousands."""


async def loaded_serials(address: str) -> frozenset[int]:
    """Return the serial numbers of the leaves that the Envoy at ``address`` (``host:port``) has loaded.

    Raises:
        ProbeFailed: no answer within 3 s, or none that can be read.
        CallerError: the address is none.
    """
    return _read(address, await _certificates(address), lambda entries: frozenset(map(_serial, entries)))


async def loaded_cas(address: str) -> frozenset[frozenset[int]]:
    """Return the serial numbers of the CAs of each TLS context of the Envoy at ``address`` that has any.

    All CAs of a bundle are there (1.40; older ones show the first alone). Errors as of `loaded_serials`.
    """
    return _read(
        address, await _certificates(address), lambda entries: frozenset(map(_cas, entries)) - {_NONE}
    )


def _read(address: str, body: bytes, read: Callable[[list[dict[str, Any]]], T]) -> T:
    try:
        return read(json.loads(body)["certificates"])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise ProbeFailed(f"{address}: /certs answered with something else than Envoy's list") from None


async def _certificates(address: str) -> bytes:
    host, port = split(address)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            aiohttp.ClientSession(trust_env=False, auto_decompress=False) as session,
            session.get(f"http://{authority}/certs", allow_redirects=False) as answer,
        ):
            if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                raise ProbeFailed(f"{address}: /certs answered with HTTP {answer.status}")
            body = await answer.content.read(BODY_MAX + 1)
            while len(body) <= BODY_MAX and (more := await answer.content.read(BODY_MAX + 1 - len(body))):
                body += more
    except TimeoutError:
        raise ProbeFailed(f"{address}: /certs was not answered within {TIMEOUT_S:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as e:
        raise failure(address, e, e) from None
    if len(body) > BODY_MAX:
        raise ProbeFailed(f"{address}: /certs answered with more than {BODY_MAX >> 20} MiB")
    return body


def _serial(entry: dict[str, Any]) -> int:
    """Return the leaf's serial number as a number: how many zeros stand before it is nobody's business."""
    chain = entry.get("cert_chain") or []
    return int(chain[0]["serial_number"], 16) if chain else -1


def _cas(entry: dict[str, Any]) -> frozenset[int]:
    return frozenset(int(ca["serial_number"], 16) for ca in entry.get("ca_cert") or [])
