"""A proxy's credential as files, replaced whole: who reads them sees the old three or the new three.

``current`` is a link to the directory of the newest; it is put in its place by a rename, which is also what
Envoy's ``watched_directory`` waits for. Beside it lie the two file-based secrets that its bootstrap names.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from sds_server.agent.versions import CURRENT, Versions
from sds_server.errors import OperatorError

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
AUTHORITIES: Final = "authorities.pem"
CREDENTIAL_SECRET: Final = "credential"  # noqa: S105 - the name of an Envoy Secret, and of its file
AUTHORITIES_SECRET: Final = "authorities"  # noqa: S105
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
        self._versions = Versions(self.directory, prefix=".credential-")

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
        except OSError as e:
            hint = f"let the agent's user read and write {self.directory}, or name another directory"
            raise OperatorError(f"cannot read {current}: {e.strerror}", hint=hint) from e
        except ValueError as e:
            raise OperatorError(
                f"{current / CERTIFICATE}: it is no certificate: {e}",
                hint=f"remove {self.directory}, and enrol anew",
            ) from e
        return Held(certificate, current)

    def store(self, *, certificate_pem: str, key_pem: bytes, authorities_pem: str) -> None:
        """Replace what is there, in one step.

        Raises:
            OperatorError: it cannot be written, or another agent writes there just now; what was there stays.
        """
        with self._versions.alone():  # two agents of one credential renew it in the same second
            self._replace(certificate_pem, key_pem, authorities_pem)

    def check(self) -> None:
        """See that something could be stored, and store nothing.

        Raises:
            OperatorError: it cannot be written, or another agent writes there just now.
        """
        with self._versions.alone():
            before = self._versions.named(CURRENT)
            self._versions.add({})
            self._versions.tidy(keep=(before,))

    def _replace(self, certificate_pem: str, key_pem: bytes, authorities_pem: str) -> None:
        before = self._versions.named(CURRENT) if self.directory.is_dir() else None
        version = self._versions.add(
            {
                CERTIFICATE: (certificate_pem.encode(), 0o644),
                KEY: (key_pem, 0o600),
                AUTHORITIES: (authorities_pem.encode(), 0o644),
            }
        )
        self._write_secrets()
        self._versions.point(CURRENT, version)
        self._versions.tidy(keep=(version, before))  # who is reading now reads the one before

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
                self._versions.write(path.name, text.encode(), mode=0o644)


def secret_file(directory: Path, name: str) -> Path:
    """Return where the file-based Secret of this name is."""
    return directory / f"{name}.json"
