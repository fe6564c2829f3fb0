"""HTTP/3 beside TLS over TCP, in the configuration of an Envoy."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TYPES = "type.googleapis.com/envoy.extensions"
_ANSWER = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}


def quic_listener(common_tls: dict[str, Any], *, host: str, port: int = 0) -> dict[str, Any]:
    """Return a listener called ``quic`` that answers 200 to everything. Port 0: any."""
    http = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP3",
        "stat_prefix": "quic",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_ANSWER]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    transport = {
        "@type": f"{_TYPES}.transport_sockets.quic.v3.QuicDownstreamTransport",
        "downstream_tls_context": {"common_tls_context": common_tls},
    }
    return {
        "name": "quic",
        "address": {"socket_address": {"protocol": "UDP", "address": host, "port_value": port}},
        "udp_listener_config": {"quic_options": {}},
        "filter_chains": [
            {
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}],
                "transport_socket": {"name": "envoy.transport_sockets.quic", "typed_config": transport},
            }
        ],
    }


def of_files(pairs: Iterable[tuple[Path, Path]]) -> dict[str, Any]:
    """Return a TLS context of chains and keys in files."""
    return {
        "tls_certificates": [
            {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
            for chain, key in pairs
        ]
    }
