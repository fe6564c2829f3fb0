"""Amazon Route 53: a set of records is changed in one batch that names what it was: nobody's value is lost.

``DELETE`` of exactly what was read and ``CREATE`` of what it shall be are one transaction: Route 53 refuses
both where the set is another one by now, whoever changed it, and then it is read again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

from acme_engine.dns.api import parents, quoted
from acme_engine.dns.locks import NameLocks
from acme_engine.dns.provider import TTL_S, scrub
from acme_engine.errors import DnsProviderError, Misconfigured

try:
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
    from aiobotocore.session import get_session  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
except ImportError as missing:
    raise Misconfigured(
        "route53 needs the package aiobotocore, which is not installed",
        hint="install certvoy with its extra `aws`: pip install 'certvoy[aws]'",
    ) from missing

CONNECT_S: Final = 5.0
READ_S: Final = 15.0
ATTEMPTS: Final = 2

TRIES: Final = 6
PAUSE_S: Final = 0.5
"""Before a batch that came too late is made again: Route 53 takes five requests a second of an account."""

SYNC_S: Final = 40.0
"""How long a change is waited for: as a rule it is at all servers within 60 s, half of them in 30."""

SYNC_POLL_S: Final = 3.0

CHANGED: Final = {"InvalidChangeBatch", "PriorRequestNotComplete"}
"""The set is another one than was read, or another change of the zone is under way."""

NOT_NOW: Final = {
    *("Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "SlowDown"),
    *("ServiceUnavailable", "InternalFailure", "InternalError", "RequestTimeout", "500", "502", "503", "504"),
    *CHANGED,
}

_RIGHTS: Final = (
    "let it call route53:ListHostedZonesByName, and for the zone ListResourceRecordSets and"
    " ChangeResourceRecordSets; route53:GetChange for any change"
)

Records = Mapping[str, Any]
"""A set as the API has it."""


class Route53:
    """Changes the TXT set of a name."""

    hashes = False

    def __init__(
        self,
        *,
        region: str,
        zone_id: str | None = None,
        endpoint: str | None = None,
        login: tuple[str, str] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``login`` None: credentials are what the SDK finds, such as a role of the machine."""
        self._region, self._zone_id, self._endpoint, self._login = region, zone_id, endpoint, login
        self._sleep, self._monotonic = sleep, monotonic
        self._locks = NameLocks()
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: Any = None

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        key_id, secret = settings.get("access_key_id"), settings.get("secret_access_key")
        if (key_id is None) != (secret is None):
            raise Misconfigured(
                "route53: access_key_id and secret_access_key go together",
                hint="give both; or neither, and the SDK finds a role or the environment",
            )
        return cls(
            region=settings["region"],
            zone_id=settings.get("hosted_zone_id"),
            endpoint=settings.get("endpoint"),
            login=(key_id, secret) if key_id is not None and secret is not None else None,
        )

    async def add(self, name: str, value: str) -> None:
        """Put the value into the set, and wait a while for it to be at all servers.

        Our questions reach one place of each server, the CA's reach others: only Route 53 knows of all.
        """
        what = f"{name}: no value could be added"
        change = await self._change(name, value, what, there=True)
        ends = self._monotonic() + SYNC_S
        while change is not None and self._monotonic() < ends:
            async with self._asked(what) as client:
                status = (await client.get_change(Id=change))["ChangeInfo"]["Status"]
            if status == "INSYNC":
                return
            await self._sleep(SYNC_POLL_S)

    async def remove(self, name: str, value: str) -> None:
        """Take the value out of the set; the last one takes the set with it."""
        await self._change(name, value, f"{name}: a value could not be removed", there=False)

    async def close(self) -> None:
        """Give the connections back."""
        self._client = None
        await self._stack.aclose()

    async def _change(self, name: str, value: str, what: str, *, there: bool) -> str | None:
        """Return the id of the change, None where there is nothing to change."""
        zone = await self._zone(name, what)
        async with self._locks.of(name):
            for last in range(TRIES - 1, -1, -1):
                batch = batch_of(await self._read(zone, name, what), name, value, there=there)
                if not batch:
                    return None
                async with self._asked(what) as client:
                    try:
                        done = await client.change_resource_record_sets(
                            HostedZoneId=zone, ChangeBatch={"Changes": batch, "Comment": "certvoy: DNS-01"}
                        )
                        return str(done["ChangeInfo"]["Id"])
                    except ClientError as e:
                        if not last or _code(e) not in CHANGED:
                            raise
                await self._sleep(PAUSE_S)
        raise AssertionError("the last try raised")

    async def _zone(self, name: str, what: str) -> str:
        if self._zone_id is not None:
            return self._zone_id
        for zone in parents(name):
            async with self._asked(what) as client:
                answer = await client.list_hosted_zones_by_name(DNSName=f"{zone}.", MaxItems="10")
            for found in answer["HostedZones"]:
                if found["Name"] == f"{zone}." and not found.get("Config", {}).get("PrivateZone"):
                    return str(found["Id"]).removeprefix("/hostedzone/")
        raise DnsProviderError(
            f"{what}: Route 53 has no public zone that it is in", retryable=False, hint=_RIGHTS
        )

    async def _read(self, zone: str, name: str, what: str) -> Records | None:
        async with self._asked(what) as client:
            answer = await client.list_resource_record_sets(
                HostedZoneId=zone, StartRecordName=f"{name}.", StartRecordType="TXT", MaxItems="1"
            )
        for found in answer["ResourceRecordSets"]:
            if (found["Name"], found["Type"]) != (f"{name}.", "TXT"):
                continue
            if "SetIdentifier" in found or "ResourceRecords" not in found:
                raise DnsProviderError(
                    f"{what}: its TXT records there have a routing policy",
                    retryable=False,
                    hint="give the name a simple TXT record, or none",
                )
            records: Records = found
            return records
        return None

    @asynccontextmanager
    async def _asked(self, what: str) -> AsyncIterator[Any]:
        """Give the client, and turn what it raises into a `DnsProviderError`."""
        try:
            yield await self._open()
        except ClientError as e:
            code, said = _code(e), e.response.get("Error", {}).get("Message", "")
            status = int(e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            words = scrub(f"{code}: {said}", self._login or ())
            again = code in NOT_NOW or status >= 500  # noqa: PLR2004 - the server's own failure
            raise DnsProviderError(
                f"{what}: Route 53 says {words}", retryable=again, hint=None if again else _RIGHTS
            ) from None
        except (BotoCoreError, OSError, TimeoutError) as e:
            raise DnsProviderError(
                f"{what}: Route 53 cannot be asked: {scrub(str(e) or type(e).__name__, self._login or ())}",
                retryable=True,
                hint="look at the network, and at where the SDK's credentials come from",
            ) from None

    async def _open(self) -> Any:
        async with self._opening:
            if self._client is None:
                key_id, secret = self._login or (None, None)
                config = AioConfig(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                )
                self._client = await self._stack.enter_async_context(
                    get_session().create_client(
                        "route53",
                        region_name=self._region,
                        endpoint_url=self._endpoint,
                        aws_access_key_id=key_id,
                        aws_secret_access_key=secret,
                        config=config,
                    )
                )
            return self._client


def batch_of(found: Records | None, name: str, value: str, *, there: bool) -> list[dict[str, Any]]:
    """Return the changes that make the value be there, or not, and leave the others. Pure."""
    content = quoted(value)
    values = [] if found is None else [str(record["Value"]) for record in found["ResourceRecords"]]
    if (content in values) is there:
        return []
    wanted = [*values, content] if there else [each for each in values if each != content]
    batch: list[dict[str, Any]] = []
    if found is not None:
        batch.append({"Action": "DELETE", "ResourceRecordSet": dict(found)})
    if wanted:
        records = [{"Value": each} for each in wanted]
        own = {"Name": f"{name}.", "Type": "TXT", "TTL": TTL_S, **(found or {})}
        batch.append({"Action": "CREATE", "ResourceRecordSet": {**own, "ResourceRecords": records}})
    return batch


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code"))
