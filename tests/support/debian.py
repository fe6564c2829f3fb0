"""Programs that only Debian carries, unpacked into a cache and not installed.

``apt-get download`` and ``dpkg-deb -x`` need no root and change nothing outside the cache. Where they cannot
work (no Debian, no network) `Unavailable` says why, and the tests that want the program are skipped with it.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BIND = """
    bind9 bind9-libs libfstrm0 libicu72 libjemalloc2 libjson-c5 liblmdb0 libmaxminddb0 libnghttp2-14
    libprotobuf-c1 libuv1 libxml2
"""

CERTBOT = """
    certbot python3-certbot python3-acme python3-certifi python3-cffi-backend python3-chardet
    python3-charset-normalizer python3-configargparse python3-configobj python3-cryptography python3-distro
    python3-idna python3-josepy python3-openssl python3-parsedatetime python3-pkg-resources python3-requests
    python3-rfc3339 python3-six python3-tz python3-urllib3
"""

PDNS = """
    pdns-server pdns-backend-sqlite3 libboost-program-options1.74.0 libbrotli1 libcurl4 libldap-2.5-0
    libluajit2-5.1-2 libnghttp2-14 libp11-kit0 libpsl5 librtmp1 libsasl2-2 libsodium23 libsqlite3-0 libssh2-1
    libsystemd0
"""

PACKAGES = {
    "pebble": ("pebble",),
    "bind": tuple(BIND.split()),
    "pdns": tuple(PDNS.split()),
    "nginx": ("nginx",),
    "haproxy": ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
    "prometheus": ("prometheus",),
    "certbot": tuple(CERTBOT.split()),
    "lego": ("lego",),
}
"""A program set and its packages; what Debian's base system has (libc6, python3) is not unpacked again."""

DOWNLOAD_TIMEOUT_S = 300


class Unavailable(Exception):
    """The program cannot be had here; the message says why, on one line."""


def cache() -> Path:
    """Return where programs are kept: ``$CERTVOY_TEST_CACHE``, or below the user's cache."""
    return Path(os.environ.get("CERTVOY_TEST_CACHE") or Path.home() / ".cache" / "certvoy" / "debian")


def program(name: str, *, of: str) -> Path:
    """Return a program of a set: the system's own, or the one in the cache, unpacked now if need be."""
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    for directory in ("bin", "sbin"):
        path = unpack(of) / "usr" / directory / name
        if path.is_file():
            return path
    raise Unavailable(f"{of}: the package holds no program {name}")


def modules(of: str) -> Path:
    """Return the Python modules of an unpacked set; `/usr/bin/python3` takes them by PYTHONPATH."""
    return unpack(of) / "usr" / "lib" / "python3" / "dist-packages"


def environment(of: str) -> dict[str, str]:
    """Return what a program of an unpacked set needs besides itself: the libraries that came with it."""
    libraries = [str(path) for path in (cache() / of / "usr" / "lib").glob("*-linux-gnu*")]
    return {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}


def unpack(of: str) -> Path:
    """Return the root of an unpacked set. Two at once do no harm: a whole set appears by one rename."""
    root = cache() / of
    if root.is_dir():
        return root
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise Unavailable(f"{of}: {missing[0]} is not here (only Debian and its children have it)")
    try:
        cache().mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise Unavailable(f"{of}: the cache {cache()} cannot be made: {e.strerror}") from e
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{of}-") as scratch:
        new = Path(scratch) / "root"
        new.mkdir()
        for deb in _download(of, Path(scratch)):
            _run(of, ["dpkg-deb", "-x", deb, new], cwd=scratch)
        try:
            new.rename(root)
        except OSError:
            if not root.is_dir():  # else somebody was faster, with the same
                raise
    return root


def _download(of: str, scratch: Path) -> list[Path]:
    """Download with the system's package lists, else with lists of our own, which need no root."""
    own = scratch / "apt"
    (own / "lists" / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::Cache={own}", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20"]
    own_lists = [*options, "-o", f"Dir::State::Lists={own / 'lists'}"]
    try:
        _run(of, ["apt-get", *options, "download", *PACKAGES[of]], cwd=scratch)
    except Unavailable:
        _run(of, ["apt-get", *own_lists, "update"], cwd=scratch)
        _run(of, ["apt-get", *own_lists, "download", *PACKAGES[of]], cwd=scratch)
    return sorted(scratch.glob("*.deb"))


def _run(of: str, command: list[str | Path], *, cwd: str | Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.CalledProcessError as e:
        errors = [line for line in e.stderr.splitlines() if line.startswith("E:")] or e.stderr.splitlines()
        raise Unavailable(f"{of}: {command[0]} failed: {errors[0] if errors else e.returncode}") from e
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable(f"{of}: {command[0]}: {e}") from e
