"""A story of push: the one Target of a Secret is an agent that fetches nothing."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from cryptography.hazmat.primitives import serialization

from sds_server import authority
from sds_server.agent.files import CredentialFiles
from sds_server.targets.probe import served_fingerprint
from tests.chaos.stories import Ca, Story
from tests.support.agents import Program, agent
from tests.support.fakes import Listener
from tests.support.pki import authority as any_authority
from tests.support.pki import new_key

NAME = "web-1"


class Pushed(Story):
    """The first Certificate is pushed to an agent, whose own handshake completes the Rotation."""

    ends: ClassVar[set[str]] = {"completed"}

    def __init__(
        self, points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca
    ) -> None:
        super().__init__(points, seed, directory, connect, ca)
        self._plane.settings["rotation"]["settle"] = "1h"  # only the agent completes
        self._plane.settings["push"] = {"allow": ["127.0.0.0/8"]}
        self._url: str | None = None
        self._deaths = 0

    def _vary(self) -> tuple[int, int]:
        return 1, 1

    async def _open(self, stack: AsyncExitStack) -> None:
        await super()._open(stack)
        self._stack = stack
        listener = await stack.enter_async_context(Listener(self._directory))
        listener.serve(any_authority().issue(dns=["stopgap.example.test"]))
        self._program = Program(listener)

    async def _push(self) -> None:
        async def stored() -> bool:
            return bool(await self._fetch("SELECT count(*) FROM certificate"))

        async def registered() -> bool:
            body = {
                "kind": "nginx",
                "identity": authority.proxy_identity("certvoy", NAME),
                "push": self._url,
                "secrets": ["s0"],
            }
            return await self._ask("PUT", f"/v1/targets/{NAME}", body)

        await self._alive_until(stored)
        if self._url is None:
            files = await self._enrolled()
            self._url = await self._stack.enter_async_context(agent(files, self._program, secret="s0"))
            await self._alive_until(registered)
        self._deaths += 1
        await self._lapse()

    async def _mended(self) -> bool:
        if self._deaths:
            self._deaths = 0
            await self._lapse()
        return True

    async def _lapse(self) -> None:
        """Let the time pass for which a push of the dead process keeps others from it."""
        await self._sql.execute("UPDATE delivery SET push_lease = certvoy_now() WHERE push_lease IS NOT NULL")

    async def _judge(self) -> list[str]:
        found = await super()._judge()
        leaf = await self._fetch("SELECT fingerprint FROM certificate WHERE status = 'active'")
        served = await served_fingerprint(self._program.listener.address, "s0.example.test")
        if served != leaf:
            found.append("the agent's program does not serve the active certificate")
        pushes = len(self._program.given)
        if not 1 <= pushes <= len(self._points) + 1:
            found.append(f"{pushes} pushes, with {len(self._points)} deaths")
        if await self._fetch(
            "SELECT count(*) FROM delivery WHERE push_lease IS NOT NULL OR push_at IS NOT NULL"
        ):
            found.append("a push is left over")
        return found

    async def _enrolled(self) -> CredentialFiles:
        """Enrol the agent as an operator and `certvoy agent` do."""
        invited = await self._told(f"/v1/proxies/{NAME}/enrolments", {"names": ["s0"]})
        key = new_key()
        body = {"token": invited["token"], "csr": authority.new_csr(key)}
        given = await self._told("/v1/enrolments", body)
        files = CredentialFiles(self._directory / "agent")
        files.store(
            certificate_pem=given["certificate"],
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            authorities_pem=given["authorities"],
        )
        return files

    async def _told(self, path: str, body: object) -> Mapping[str, Any]:
        connector = aiohttp.UnixConnector(str(self._directory / "state" / "admin.sock"))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as http,
            http.post(f"http://certvoy{path}", json=body, raise_for_status=True) as response,
        ):
            told: Mapping[str, Any] = await response.json()
            return told
