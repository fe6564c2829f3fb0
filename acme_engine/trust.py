"""What a CA's own certificate is verified by: the system's roots, or one file."""

import ssl
import time
from functools import lru_cache
from pathlib import Path

from acme_engine.errors import Misconfigured

TRUST_S = 3600
"""How soon a change of the system's roots counts."""

MAX_CONTEXTS = 16
"""Each is about a megabyte where it holds the system's roots."""


def tls(ca_file: Path | str | None) -> ssl.SSLContext:
    """Return the context of connections to a CA: only that file's CAs are trusted, or else the system's.

    Reading some 140 of these takes 23 ms, in which nothing else runs, so one context serves all clients for
    an hour; a file that has changed is read at once.
    """
    try:
        path = Path(ca_file) if ca_file is not None else None
        seen = path.stat() if path is not None else None
        version = (seen.st_mtime_ns, seen.st_ino, seen.st_size) if seen is not None else ()
        return _context(path, version, int(time.monotonic() // TRUST_S))
    except OSError as e:  # ssl.SSLError is one, for a file without a certificate
        raise Misconfigured(
            f"the CA file {ca_file} cannot be used: {e.strerror or e}",
            hint="give a PEM file with the CA certificates that the ACME server's certificate builds to",
        ) from e


@lru_cache(maxsize=MAX_CONTEXTS)
def _context(ca_file: Path | None, _version: tuple[int, ...], _hour: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)
