"""A proxy's credential as files, replaced whole: who reads them sees the old three or the new three.

``current`` is a link to the directory of the newest; it is put in its place by a rename, which is also what
Envoy's ``watched_directory`` waits for. Beside it lie the two file-based secrets that its bootstrap names.
"""

import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from sds_server.errors import OperatorError

CURRENT: Final = "current"
CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
AUTHORITIES: Final = "authorities.pem"
CREDENTIAL_SECRET: Final = "credential"  # noqa: S105 - the name of an Envoy Secret, and of its file
AUTHORITIES_SECRET: Final = "authorities"  # noqa: S105
_VERSION: Final = ".credential-"
_SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Held:
    """The credential that the directory holds."""

    certificate: x509.Certificate
    directory: Path

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """Where the certificate, its key and the CAs are."""
        return self.directory / CERTIFICATE, self.directory / KEY, self.directory / AUTHORITIES


class CredentialFiles:
    """The directory of one credential; who writes it is one agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    def held(self) -> Held | None:
        """Return what is there; None: nothing.

        Raises:
            OperatorError: it cannot be read.
        """
        current = self.directory / CURRENT
        try:
            certificate = x509.load_pem_x509_certificate((current / CERTIFICATE).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise OperatorError(f"{current}: {e}", hint="remove the directory, and enrol anew") from e
        return Held(certificate, current)

    def store(self, *, certificate_pem: str, key_pem: bytes, authorities_pem: str) -> None:
        """Replace what is there, in one step.

        Raises:
            OperatorError: it cannot be written; what was there stays.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = self._versions()
            version = self.directory / f"{_VERSION}{secrets.token_hex(8)}"
            version.mkdir(mode=0o700)
            _write(version / CERTIFICATE, certificate_pem.encode(), mode=0o644)
            _write(version / KEY, key_pem, mode=0o600)
            _write(version / AUTHORITIES, authorities_pem.encode(), mode=0o644)
            self._write_secrets()
            link = self.directory / f"{version.name}.link"
            link.symlink_to(version.name)
            was = (self.directory / CURRENT).resolve().name
            link.replace(self.directory / CURRENT)
            _sync(self.directory)
            for old in before:
                if old.name != was:  # who is reading now reads the one before
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as e:
            raise OperatorError(
                f"{self.directory}: {e.strerror}", hint="let the agent's user write there, and make room"
            ) from e

    def _versions(self) -> list[Path]:
        return [path for path in self.directory.glob(f"{_VERSION}*") if not path.is_symlink()]

    def _write_secrets(self) -> None:
        """Write what Envoy's ``path_config_source`` reads, once: only what it points to changes."""
        current, watched = self.directory / CURRENT, {"path": str(self.directory)}
        contents = {
            CREDENTIAL_SECRET: {
                "tls_certificate": {
                    "certificate_chain": {"filename": str(current / CERTIFICATE)},
                    "private_key": {"filename": str(current / KEY)},
                    "watched_directory": watched,
                }
            },
            AUTHORITIES_SECRET: {
                "validation_context": {
                    "trusted_ca": {"filename": str(current / AUTHORITIES)},
                    "watched_directory": watched,
                }
            },
        }
        for name, content in contents.items():
            text = json.dumps({"resources": [{"@type": _SECRET_TYPE, "name": name, **content}]}, indent=2)
            path = secret_file(self.directory, name)
            if not path.exists() or path.read_text() != text:
                partial = path.with_suffix(".partial")
                _write(partial, text.encode(), mode=0o644)
                partial.replace(path)


def secret_file(directory: Path, name: str) -> Path:
    """Return where the file-based Secret of this name is."""
    return directory / f"{name}.json"


def _write(path: Path, content: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
