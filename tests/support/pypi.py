"""Programs from PyPI that must not share our environment, in directories of their own in the cache.

``uv pip install --target`` from a list of exact versions and hashes: a second or two, once. A program runs
with its directory on ``PYTHONPATH``, before everything that we have installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.debian import Unavailable, cache

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INSTALL_TIMEOUT_S = 300

PROGRAMS = ("acme2certifier",)
"""Each with its list, NAME.txt, beside this module."""


def directory(name: str) -> Path:
    """Return where a program's modules are, installed now if need be; another list is another directory."""
    wanted = HERE / f"{name}.txt"
    key = hashlib.sha256(wanted.read_bytes() + sys.implementation.cache_tag.encode()).hexdigest()[:12]
    home = cache() / f"{name}-{key}"
    if home.is_dir():
        return home
    try:
        cache().mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise Unavailable(f"{name}: the cache {cache()} cannot be made: {e.strerror}") from e
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{name}-") as scratch:
        new = Path(scratch) / "modules"
        _install(name, wanted, new)
        try:
            new.rename(home)
        except OSError:
            if not home.is_dir():  # else somebody was faster, with the same
                raise
    return home


def _install(name: str, wanted: Path, target: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(target)]
    try:
        subprocess.run(
            [*command, "--require-hashes", "--only-binary", ":all:", "--requirement", str(wanted)],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as e:
        raise Unavailable(f"{name}: uv pip install failed: {' '.join(e.stderr.split())[:500]}") from e
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable(f"{name}: {uv}: {e}") from e
