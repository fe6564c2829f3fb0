"""The TLS of our listeners: from files that may be renewed in place, or from the control plane's own CA."""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acme_engine.hidden import Hidden
from sds_server.errors import OperatorError
from sds_server.log import get

_FILE_HINT: Final = "clients are never served without mutual TLS: put the right PEM file there"

_log = get("credentials")


@dataclass(frozen=True, slots=True)
class Issued:
    """What our own CA gives our servers: whom to trust besides, and a pair if they have none."""

    authorities_pem: bytes = b""
    chain_pem: bytes | None = None
    key_pem: Hidden[bytes] | None = None


def _nothing() -> Issued:
    return Issued()


@dataclass(frozen=True, slots=True)
class Files:
    """The files that the configuration names; what is None comes from the control plane's own CA."""

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    section: str = "sds"


@dataclass(frozen=True, slots=True)
class _Material:
    chain: bytes
    key: Hidden[bytes]
    roots: bytes


def server_credentials(
    files: Files, issued: Callable[[], Issued] = _nothing, *, mutual: bool = True
) -> grpc.ServerCredentials:
    """Return gRPC credentials that demand a client certificate of a CA that is trusted.

    Not ``mutual``: that ask for none. gRPC for Python knows nothing in between.

    Everything is read again for each connection, so that it can be renewed in place; while the files are not
    usable, what was read last stays in force.

    Raises:
        OperatorError: a file is missing, empty or not what it should be; it names the file and the key.
    """
    source = _Source(files, issued)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(source.read()),
        # gRPC calls this in a thread of its own; None says "unchanged", which the stubs do not know.
        lambda: None if (new := source.read_again()) is None else _configuration(new),  # type: ignore[arg-type,return-value]
        require_client_authentication=mutual,
    )


def _configuration(material: _Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key.reveal(), material.chain)], root_certificates=material.roots
    )


class HttpsTls:
    """What a listener of HTTPS speaks TLS with; a client certificate is asked for, or demanded if ``mutual``.

    Everything is read again for each connection, as on the streams: what was renewed is shown, and a CA that
    is trusted no more lets nobody in.
    """

    def __init__(
        self,
        files: Files,
        issued: Callable[[], Issued] = _nothing,
        *,
        mutual: bool = False,
        oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> None:
        """Read it. ``mutual``: TLS 1.3 as well, as on the streams.

        Raises:
            OperatorError: a file is missing or not what it should be.
        """
        self._source = _Source(files, issued)
        self._mutual = mutual
        self._oldest = ssl.TLSVersion.TLSv1_3 if mutual else oldest
        self._current = self._made(self._source.read())
        self.context = _OfNow(ssl.PROTOCOL_TLS_SERVER)
        self.context.now = self._now

    def _now(self) -> ssl.SSLContext:
        if (new := self._source.read_again()) is not None:
            self._current = self._made(new)
        return self._current

    def _made(self, material: _Material) -> ssl.SSLContext:
        """Return a new context: OpenSSL takes in roots, and forgets none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._oldest
        context.verify_mode = ssl.CERT_REQUIRED if self._mutual else ssl.CERT_OPTIONAL
        _load_pair(context, material.chain, material.key.reveal())
        context.load_verify_locations(cadata=material.roots.decode("ascii", "ignore"))
        return context


class _OfNow(ssl.SSLContext):
    """What asyncio gets for a listener: begins each connection with the context of that moment."""

    now: Callable[[], ssl.SSLContext]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as in ssl
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection."""
        return self.now().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def caller_context(chain_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """Return TLS by which the control plane calls agents, with this certificate of its own.

    It verifies nothing. Agents have a client certificate that names a workload and no host, which OpenSSL
    takes for no server's: whoever calls judges what was shown, before it says anything.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_pair(context, chain_pem, key_pem)
    return context


def _load_pair(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    # load_cert_chain takes files alone; this one is memory.
    memory = os.memfd_create("certvoy-https")
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(key_pem.rstrip() + b"\n" + chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)


class _Source:
    """The pair and the roots, from files or from our CA, checked before use."""

    def __init__(self, files: Files, issued: Callable[[], Issued]) -> None:
        self._files = files
        self._issued = issued
        self._last: tuple[object, ...] = ()

    def read(self) -> _Material:
        now = self._contents()
        issued, chain, key, client_ca = now
        chain = chain if chain is not None else issued.chain_pem
        hidden = Hidden(key) if key is not None else issued.key_pem
        if chain is None or hidden is None:
            raise OperatorError(
                f"{self._files.section}.certificate: there is none", hint="name it, or let our CA issue it"
            )
        roots = (client_ca or b"").rstrip() + b"\n" + issued.authorities_pem
        leaf, *_ = self._certificates("certificate", chain)
        if client_ca is not None:
            self._certificates("client_ca", client_ca)
        elif not issued.authorities_pem:
            raise OperatorError(f"{self._files.section}.client_ca: there is none", hint=_FILE_HINT)
        try:
            public_key = serialization.load_pem_private_key(hidden.reveal(), password=None).public_key()
        except (ValueError, TypeError) as e:
            raise self._error("key", "holds no private key in PEM that can be read") from e
        if public_key != leaf.public_key():
            raise self._error("key", f"is not the key of {self._files.section}.certificate")
        self._last = now
        return _Material(chain, hidden, roots)

    def read_again(self) -> _Material | None:
        """Return what changed; None: nothing, or nothing that can be used."""
        try:
            return None if self._contents() == self._last else self.read()
        except OperatorError as e:
            _log.warning("credentials.kept", reason=str(e))
            return None

    def _contents(self) -> tuple[Issued, bytes | None, bytes | None, bytes | None]:
        files = self._files
        return (
            self._issued(),
            self._content("certificate", files.certificate),
            self._content("key", files.private_key),
            self._content("client_ca", files.client_ca),
        )

    def _content(self, setting: str, path: Path | None) -> bytes | None:
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError as e:
            raise OperatorError(
                f"{self._files.section}.{setting}: {path}: {e.strerror}", hint=_FILE_HINT
            ) from e
        if not content.strip():
            raise OperatorError(f"{self._files.section}.{setting}: {path} is empty", hint=_FILE_HINT)
        return content

    def _certificates(self, setting: str, pem: bytes) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(pem)
        except ValueError as e:
            raise self._error(setting, "holds no certificate in PEM that can be read") from e

    def _error(self, setting: str, what: str) -> OperatorError:
        paths = {
            "certificate": self._files.certificate,
            "key": self._files.private_key,
            "client_ca": self._files.client_ca,
        }
        return OperatorError(f"{self._files.section}.{setting}: {paths[setting]} {what}", hint=_FILE_HINT)
