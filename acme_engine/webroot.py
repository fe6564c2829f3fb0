"""HTTP-01 tokens as files below the root of a web server that has port 80 already."""

import asyncio
import os
import re
from pathlib import Path
from typing import Final

from acme_engine.errors import BadReply, Misconfigured
from acme_engine.messages import TOKEN

PLACE: Final = ".well-known/acme-challenge"
"""Where a CA asks, below the root (RFC 8555 section 8.3)."""


class Webroot:
    """A `TokenStore` whose readers are a web server's. The files are for all to read, as their content is.

    A file outlives its time if nobody deletes it: what a crash leaves is taken away when the order goes on.
    """

    def __init__(self, root: Path | str) -> None:
        self._directory = Path(root) / PLACE

    async def put(self, token: str, key_authorization: str, *, ttl_s: int) -> None:  # noqa: ARG002
        """Write the file whole: a server never serves half of it.

        Raises:
            Misconfigured: it cannot be written.
        """
        await asyncio.to_thread(self._write, _safe(token), key_authorization)

    async def get(self, token: str) -> str | None:
        """Return what the file holds; None: there is none."""
        try:
            return await asyncio.to_thread((self._directory / _safe(token)).read_text, "ascii")
        except FileNotFoundError:
            return None

    async def delete(self, token: str) -> None:
        """Remove the file, and leave the directories: others may have files there."""
        await asyncio.to_thread((self._directory / _safe(token)).unlink, missing_ok=True)

    def _write(self, token: str, key_authorization: str) -> None:
        """Write it with modes of its own, whatever our umask: the web server is another user."""
        partial = self._directory / f".{token}.partial"
        try:
            for directory in (self._directory.parent, self._directory):
                if not directory.exists():
                    directory.mkdir(exist_ok=True)
                    directory.chmod(0o755)
            partial.unlink(missing_ok=True)
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                os.fchmod(fd, 0o644)
                file.write(key_authorization)
            partial.replace(self._directory / token)
        except OSError as e:
            raise Misconfigured(
                f"{self._directory}: a token cannot be written there: {e.strerror or e}",
                hint="let the user that certvoy runs as write below the web server's root",
            ) from e


def _safe(token: str) -> str:
    """Let nothing out of the directory, whoever chose the token."""
    if not re.fullmatch(TOKEN, token):
        raise BadReply(f"a token must match {TOKEN.pattern}")
    return token
