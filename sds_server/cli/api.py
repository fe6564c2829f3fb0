"""The admin API as the commands use it: by the standard library, as a command starts more often than it asks.

Without an address it is the Unix socket of the certvoy that runs on this machine, found through the
configuration file. Elsewhere it is HTTPS, with a token from the environment or a client certificate.
"""

import functools
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click

from sds_server.errors import CertvoyError, ConfigError, NotFound, Unavailable

DEFAULT_CONFIG: Final = "certvoy.yaml"
DEFAULT_STATE_DIR: Final = "./certvoy-state"
SOCKET: Final = "admin.sock"
TIMEOUT_S: Final = 30.0
PATIENCE_S: Final = 10.0
"""How long a question that may be repeated is: a replica restarts in two seconds, a database in five."""

QUIET_S: Final = 2.0
"""Then somebody who watches wants to know what is waited for."""

PAUSE_S: Final = 0.25
PAGE: Final = 500
BROKEN: Final = (OSError, http.client.HTTPException)

_SUCCESS: Final = range(200, 300)
_OTHER: Final = "is this certvoy? Name its admin.listen by --url"

Json = dict[str, Any]
T = TypeVar("T")


class Refused(CertvoyError):
    """The API said no; the message holds the CA's own words where it passed them on."""

    def __init__(self, problem: Json) -> None:
        lines = [str(problem.get("detail", "the server said no"))]
        lines += [
            f"the CA said: {item.get('type')}: {item.get('detail')}"
            for item in problem.get("ca_problems", ())
        ]
        super().__init__("\n".join(lines), hint=problem.get("hint"))


class Lost(CertvoyError):
    """The connection broke before the answer came."""

    hint = "it may have been done or not: look first, then ask again"


class Api:
    """Asks one server. Every method returns what its JSON says."""

    def __init__(
        self,
        connect: Callable[[float], http.client.HTTPConnection],
        *,
        where: str,
        start: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Connect by ``connect(timeout_s)`` to ``where``; ``start`` is the hint if nobody answers there."""
        self._connect = connect
        self._headers = dict(headers or {})
        self._where = where
        self._start = start

    def get(
        self, *path: str, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S, **query: Any
    ) -> Any:
        """Read; asked again for a while if nobody answers."""
        return self._ask("GET", path, query, None, timeout_s=timeout_s, patience_s=patience_s)

    def put(self, *path: str, body: Json) -> Any:
        """Make it so; it may be repeated, and is, if the answer is lost."""
        return self._ask("PUT", path, {}, body, patience_s=PATIENCE_S)

    def post(self, *path: str, body: Json | None = None, repeat: bool = False, **query: Any) -> Any:
        """Do it; ``repeat``: twice is the same as once, so it is asked again if the answer is lost."""
        return self._ask("POST", path, query, body or {}, patience_s=PATIENCE_S if repeat else 0.0)

    def delete(self, *path: str, **query: Any) -> Any:
        """Take it away."""
        return self._ask("DELETE", path, query, None)

    def pages(self, *path: str, limit: int | None = None, **query: Any) -> Iterator[Json]:
        """Yield the items of a list, page by page; ``limit``: at most so many."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.get(*path, limit=size, cursor=cursor, **query)
            yield from page["items"]
            cursor, left = page["next_cursor"], None if left is None else left - len(page["items"])
            if cursor is None:
                return

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, Any],
        body: Json | None,
        *,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = 0.0,
    ) -> Any:
        url = "/" + "/".join(quote(part, safe="") for part in path)
        asked = {key: _plain(value) for key, value in query.items() if value is not None}
        url += f"?{urlencode(asked)}" if asked else ""
        begun, told = time.monotonic(), False
        while True:
            try:
                return self._once(method, url, body, timeout_s)
            except (Unavailable, Lost) as e:
                waited = time.monotonic() - begun
                if waited >= patience_s:
                    raise
                if waited >= QUIET_S and not told:
                    told = True
                    click.echo(f"{e.message}; asking for {patience_s:g} s in all", err=True)
                time.sleep(PAUSE_S)

    def _once(self, method: str, url: str, body: Json | None, timeout_s: float) -> Any:
        try:
            connection = self._connect(timeout_s)
            connection.connect()
        except ssl.SSLCertVerificationError as e:  # to ask again would not help
            raise ConfigError(
                f"--url: the certificate of {self._where} is not trusted: {e.verify_message}",
                hint="name by --ca who issued it; of certvoy's own CA each agent has the certificate:"
                " current/authorities.pem in its `credentials`",
            ) from e
        except BROKEN as e:
            said = getattr(e, "strerror", None) or str(e)
            raise Unavailable(f"no certvoy answers at {self._where}: {said}", hint=self._start) from e
        try:
            content = None if body is None else json.dumps(body)
            headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
            connection.request(method, url, body=content, headers=headers)
            response = connection.getresponse()
            raw = response.read()
        except BROKEN as e:
            raise Lost(
                f"the connection to {self._where} broke before the answer came: {e or type(e).__name__}"
            ) from e
        finally:
            connection.close()
        return _answer(response.status, raw)


def _answer(status: int, raw: bytes) -> Any:
    try:
        content = json.loads(raw) if raw else None
    except ValueError:
        content = raw
    if status == http.HTTPStatus.NO_CONTENT or (status in _SUCCESS and isinstance(content, dict)):
        return content
    # Another server than certvoy may say anything: what is there to tell is that it is another.
    other = {"detail": f"it answered with {status}", "hint": _OTHER}
    problem = content if isinstance(content, dict) else other
    if status == http.HTTPStatus.NOT_FOUND:
        raise NotFound(str(problem.get("detail")), hint=problem.get("hint"))
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        raise Unavailable(str(problem.get("detail")), hint=problem.get("hint"))
    raise Refused(problem)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("certvoy", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        # Through its directory: the address of a socket has 107 bytes at most.
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        except OSError:
            self.sock.close()
            raise
        finally:
            os.close(directory)


def local(config: Path) -> Api:
    """Return the API of the certvoy that runs here by this configuration.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = _state_dir(config) / SOCKET
    return Api(
        lambda timeout_s: _UnixConnection(path, timeout_s),
        where=str(path),
        start=f"start it with `certvoy serve --config {config}`; elsewhere, name it by --url",
    )


def remote(url: str, *, ca: Path | None, certificate: Path | None, key: Path | None) -> Api:
    """Return the API at an https URL; the token is CERTVOY_TOKEN, or in the file CERTVOY_TOKEN_FILE.

    Raises:
        ConfigError: the URL is none, or a file cannot be read.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:  # a port that is no number
        host = None
    if not host or parts.scheme != "https":
        raise ConfigError(
            f"--url: must be https://host:port, got {url!r}", hint="the port is that of admin.listen"
        )
    context = _trusting(ca, certificate, key)
    token = _token()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return Api(
        lambda timeout_s: http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context),
        where=url,
        start="is it there, and `admin.listen` set? With a CA of your own, name it by --ca",
        headers=headers,
    )


def _trusting(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return what a server is verified by, and what it is shown."""
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as e:  # ssl's errors are some, and name no file
        raise ConfigError(f"--ca: cannot read {ca}: {e.strerror}", hint="name a file of roots, in PEM") from e
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as e:
        named = " and ".join(str(path) for path in (certificate, key) if path is not None)
        hint = "name a certificate by --cert and its key by --key, in PEM"
        raise ConfigError(f"--cert: cannot read {named}: {e.strerror}", hint=hint) from e
    return context


def _token() -> str | None:
    """Return the token to show, if there is one; what is wrong with one is said without repeating it."""
    file, token = os.environ.get("CERTVOY_TOKEN_FILE"), os.environ.get("CERTVOY_TOKEN")
    try:
        token = Path(file).read_text() if file else token
    except (OSError, UnicodeDecodeError) as e:
        hint = "write there what `certvoy token create` printed"
        raise ConfigError(f"CERTVOY_TOKEN_FILE: cannot read {file}: {e}", hint=hint) from e
    token = None if token is None else token.strip()
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"{'CERTVOY_TOKEN_FILE' if file else 'CERTVOY_TOKEN'}: holds no token",
            hint="it is one line: what `certvoy token create` printed",
        )
    return token


def _state_dir(config: Path) -> Path:
    """Return where the configuration keeps its state; nothing else of the file need be right."""
    import yaml  # noqa: PLC0415 - `certvoy --help` does without

    try:
        raw = yaml.safe_load(config.read_bytes())
    except OSError as e:
        hint = "name the configuration by --config, or a server elsewhere by --url"
        raise ConfigError(f"cannot read {config}: {e.strerror}", hint=hint) from e
    except (yaml.YAMLError, ValueError) as e:
        raise ConfigError(
            f"{config} is not YAML: {e}", hint=f"`certvoy config check {config}` says more"
        ) from e
    stated = raw.get("state_dir", DEFAULT_STATE_DIR) if isinstance(raw, dict) else DEFAULT_STATE_DIR
    expanded = os.path.expanduser(str(stated))  # noqa: PTH111 - pathlib raises where there is no such user
    return Path(os.path.normpath(config.absolute().parent / expanded))


def asks(command: Callable[..., T] | None = None, *, unless: Sequence[str] = ()) -> Callable[..., Any]:
    """Give a command its ``api``, and the options that say where it is.

    ``unless`` one of these options is given: then the command asks nobody, and ``api`` is None.
    """
    if command is None:
        return functools.partial(asks, unless=unless)

    @click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True)
    @click.option("--url", envvar="CERTVOY_URL", help="A server elsewhere; its token is in CERTVOY_TOKEN.")
    @click.option(
        "--ca", type=click.Path(path_type=Path), envvar="CERTVOY_CA", help="The roots to trust there."
    )
    @click.option(
        "--cert", type=click.Path(path_type=Path), envvar="CERTVOY_CERT", help="A client certificate."
    )
    @click.option("--key", type=click.Path(path_type=Path), envvar="CERTVOY_KEY", help="Its key.")
    @functools.wraps(command)
    def with_api(
        *args: Any,
        config: Path,
        url: str | None,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        **options: Any,
    ) -> T:
        api = None
        if not any(options.get(option) for option in unless):
            api = local(config) if url is None else remote(url, ca=ca, certificate=cert, key=key)
        return command(*args, api=api, **options)

    return with_api
