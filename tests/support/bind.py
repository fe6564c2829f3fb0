"""BIND 9 on loopback: a primary whose zones take signed updates, or a secondary of one."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update
import pytest

from sds_server.programs.child import Child, free_port
from tests.support import debian

HOST = "127.0.0.1"
KEY_NAME = "certvoy"
KEY_SECRET = base64.b64encode(bytes(range(32))).decode()

_CONFIG = """\
options {{
	directory "{directory}"; pid-file none; session-keyfile "{directory}/session.key";
	listen-on port {port} {{ {host}; }}; listen-on-v6 {{ none; }};
	recursion no; dnssec-validation no; allow-transfer {{ {host}; }}; minimal-responses no;
	notify no; max-refresh-time 3600; min-refresh-time 3600;
}};
controls {{ }};
key "{key_name}" {{ algorithm hmac-sha256; secret "{key_secret}"; }};
"""

_ZONE = """\
$TTL 60
@ IN SOA ns1 hostmaster 1 3600 3600 86400 3600
@ IN NS ns1
@ IN A {host}
* IN A {host}
ns1 IN A {host}
{records}
"""


@dataclass(frozen=True)
class Zone:
    """A zone; ``policy`` says what the key may change, by default every TXT record."""

    name: str
    records: Sequence[str] = ()
    policy: str = "zonesub TXT"
    primary_port: int | None = None
    """Of a secondary: where its primary listens."""

    def section(self) -> str:
        if self.primary_port is not None:
            return (
                f'zone "{self.name}" {{ type secondary; file "{self.name}";'
                f" primaries port {self.primary_port} {{ {HOST}; }}; allow-notify {{ any; }}; }};\n"
            )
        policy = f"update-policy {{ grant {KEY_NAME} {self.policy}; }};"
        return f'zone "{self.name}" {{ type primary; file "{self.name}"; {policy} }};\n'


@dataclass
class Bind:
    """A running server."""

    directory: Path
    zones: Sequence[Zone]
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        named = debian.program("named", of="bind")
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "named.conf"
        filled = _CONFIG.format(
            directory=self.directory, port=self.port, host=HOST, key_name=KEY_NAME, key_secret=KEY_SECRET
        )
        config.write_text(filled + "".join(zone.section() for zone in self.zones))
        for zone in self.zones:
            if zone.primary_port is None:
                records = "\n".join(zone.records)
                (self.directory / zone.name).write_text(_ZONE.format(host=HOST, records=records))
        self._child = Child(
            "named",
            [named, "-4", "-g", "-n", "1", "-p", str(self.port), "-c", config],
            log=self.directory / "named.log",
            env=debian.environment("bind"),
            cwd=self.directory,
        )

    @classmethod
    async def start(cls, directory: Path, zones: Sequence[Zone], *, port: int | None = None) -> "Bind":
        """Start it and wait for it; skips the test, with the reason, where BIND cannot be had."""
        try:
            bind = cls(directory, zones, port or free_port())
        except debian.Unavailable as e:
            pytest.skip(str(e))
        await bind.ready()
        return bind

    async def ready(self) -> None:
        """Wait until it answers for every zone."""

        async def answers() -> bool:
            try:
                replies = [await self._ask(zone.name, "SOA") for zone in self.zones]
            except dns.exception.Timeout:
                return False
            return all(reply.answer for reply in replies)

        await self._child.ready(answers)

    async def stop(self) -> None:
        await self._child.stop()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def settings(self) -> Mapping[str, str]:
        """Return what the provider `rfc2136` needs to know."""
        return {"server": self.address, "key_name": KEY_NAME, "key_secret": KEY_SECRET}

    async def txt(self, name: str) -> set[str]:
        """Return the TXT values that it serves."""
        reply = await self._ask(name, "TXT")
        return {
            b"".join(record.strings).decode()
            for rrset in reply.answer
            if rrset.rdtype == dns.rdatatype.TXT
            for record in rrset
        }

    async def alias(self, name: str, to: str, *, zone: str) -> None:
        """Have a name be an alias; the zone's policy must allow CNAME."""
        keyring = dns.tsigkeyring.from_text({KEY_NAME: KEY_SECRET})
        update = dns.update.UpdateMessage(zone, keyring=keyring, keyalgorithm=dns.tsig.HMAC_SHA256)
        update.replace(f"{name}.", 60, "CNAME", f"{to}.")
        reply = await dns.asyncquery.tcp(update, HOST, timeout=5, port=self.port)
        assert reply.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(reply.rcode())

    async def told_of_change(self, zone: str) -> None:
        """Tell a secondary that its primary has something newer, which that does not by itself here."""
        notify = dns.message.make_query(zone, "SOA", flags=dns.flags.AA)
        notify.set_opcode(dns.opcode.NOTIFY)
        await dns.asyncquery.udp(notify, HOST, timeout=5, port=self.port)

    async def _ask(self, name: str, kind: str) -> dns.message.Message:
        question = dns.message.make_query(name, kind, flags=0)
        return await dns.asyncquery.tcp(question, HOST, timeout=1, port=self.port)
