"""The published Envoy configurations, changed in addresses, ports and directories alone: else as they are."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from sds_server.programs import envoy

ROOT = Path(__file__).parents[2]
FILES = ROOT / "envoy-configs"
INSTALLED = "/etc/envoy"
"""Where the files expect themselves to be."""


def replaced(text: str, changes: Mapping[str, object]) -> str:
    """Change each of the texts, which must all be there: a file that moved on is not tested by accident."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, str(new))
    return text


def endpoint(address: str, port: int) -> str:
    """An address as the files write it."""
    return f"{{ address: {address}, port_value: {port} }}"


def loopback(changes: Mapping[tuple[str, int], int]) -> dict[str, str]:
    """Move each (address, port) to a port of loopback."""
    return {endpoint(*old): endpoint("127.0.0.1", new) for old, new in changes.items()}


def install_credentials(directory: Path) -> Path:
    """Copy the snippets to ``DIRECTORY/credentials``, with their paths; certificates are the caller's."""
    credentials = directory / "credentials"
    credentials.mkdir()
    for file in (FILES / "credentials").glob("*.yaml"):
        text = replaced(file.read_text(), {INSTALLED: directory})
        (credentials / file.name).write_text(text)
    return credentials


def validated(bootstrap: Path) -> str:
    """Let Envoy read a bootstrap; returns what it complains of, which should be nothing."""
    argv = [envoy.binary(), "--mode", "validate", "-c", bootstrap, "-l", "warning"]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return "\n".join(line for line in (run.stdout + run.stderr).splitlines() if line.startswith("["))
