"""Run acme2certifier's WSGI application over TLS on loopback; a program, run with its modules on the path.

    python -P acme2certifier_server.py PORT CERTIFICATE KEY DNS_PORT

Its DNS servers are addresses, always at port 53, which needs root: they are asked at ``DNS_PORT``.
"""

import ssl
import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import dns.resolver

DNS_LIFETIME_S = 2.0


class Threading(ThreadingMixIn, WSGIServer):
    """A thread for each connection, whose TLS handshake is the thread's own."""

    daemon_threads = True
    request_queue_size = 128
    tls: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)


def _redirect_dns(port: int) -> None:
    reset = dns.resolver.BaseResolver.reset

    def reset_to_port(self: dns.resolver.BaseResolver) -> None:
        reset(self)
        self.port = port
        self.lifetime = DNS_LIFETIME_S

    dns.resolver.BaseResolver.reset = reset_to_port  # type: ignore[method-assign]


def main(port: str, certificate: str, key: str, dns_port: str) -> None:
    """Serve until we are stopped."""
    _redirect_dns(int(dns_port))
    # Imported here: what stands at the module's top reads the configuration.
    from acme2certifier.share import acme2certifier_wsgi as wsgi

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.url_scheme"] = "https"  # or its URLs are http, and no signature is for them
        return wsgi.application(environ, start_response)

    server = make_server(
        "127.0.0.1", int(port), application, server_class=Threading, handler_class=wsgi.get_handler_cls()
    )
    server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.tls.load_cert_chain(Path(certificate), Path(key))
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
