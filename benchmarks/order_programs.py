"""Other ACME clients as their users run them: a process an order, HTTP-01 on a port of their own."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.support import debian, pebble

HOST: Final = "127.0.0.1"
TIMEOUT_S: Final = 120
EMAIL: Final = "ops@example.com"


def lego(ca: pebble.Pebble, directory: Path) -> Callable[[str], None]:
    """Return what orders a certificate for a name with lego, whose account it keeps from one to the next."""
    program = debian.program("lego", of="lego")
    environment = {**os.environ, "LEGO_CA_CERTIFICATES": str(ca.ca_file)}

    def order(name: str) -> None:
        _run(
            [
                *(str(program), "--path", str(directory / "lego"), "--accept-tos", "--email", EMAIL),
                *("--server", ca.directory_url, "--http", "--http.port", f"{HOST}:{ca.http_port}"),
                *("--domains", name, "run"),
            ],
            environment,
        )

    return order


def certbot(ca: pebble.Pebble, directory: Path) -> Callable[[str], None]:
    """Return the same with certbot."""
    program = debian.program("certbot", of="certbot")
    environment = {**os.environ, "REQUESTS_CA_BUNDLE": str(ca.ca_file), "PYTHONWARNINGS": "ignore"}
    if shutil.which("certbot") is None:
        environment["PYTHONPATH"] = str(debian.modules("certbot"))
    places = [f"--{kind}-dir={directory / 'certbot' / kind}" for kind in ("config", "work", "logs")]

    def order(name: str) -> None:
        _run(
            [
                *(str(program), *places, "certonly", "-n", "--agree-tos", "-m", EMAIL),
                *("--standalone", "--http-01-address", HOST, "--http-01-port", str(ca.http_port)),
                *("--server", ca.directory_url, "-d", name),
            ],
            environment,
        )

    return order


def cpu_ms(order: Callable[[str], None], name: str) -> float:
    """Order a certificate, and return the CPU that took, of all its processes."""
    before = _of_children()
    order(name)
    return (_of_children() - before) * 1000


def _run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=TIMEOUT_S)


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
