"""A network between certvoy and PostgreSQL that can fail."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.fault_proxy import Address, FaultProxy


@dataclass(frozen=True)
class Network:
    """``connect`` are the connection arguments that lead through ``proxy``."""

    proxy: FaultProxy
    connect: Mapping[str, Any]


@asynccontextmanager
async def behind(connect: Mapping[str, Any]) -> AsyncIterator[Network]:
    """Put a network between the server of these connection arguments and whoever uses the new ones."""
    async with FaultProxy(_address(connect)) as proxy:
        host, port = proxy.address
        if "dsn" in connect:
            parts = urlsplit(connect["dsn"])
            credentials = parts.netloc.rpartition("@")[0]
            there = {"dsn": parts._replace(netloc=f"{credentials}@{host}:{port}").geturl()}
        else:
            there = {"host": host, "port": port}
        yield Network(proxy, {**connect, **there})


def _address(connect: Mapping[str, Any]) -> Address:
    if "dsn" in connect:
        parts = urlsplit(connect["dsn"])
        return parts.hostname or "127.0.0.1", parts.port or 5432
    if str(connect["host"]).startswith("/"):
        return Path(connect["host"]) / f".s.PGSQL.{connect['port']}"
    return connect["host"], connect["port"]
