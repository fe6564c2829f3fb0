"""How an Envoy reaches the control plane: the cluster of its bootstrap.

HTTP/2 keepalive, as a dead control plane is not noticed without; more `max_requests` than the default 1,024,
as Envoy outside of ADS opens one stream a secret; a wider limit for WINDOW_UPDATE frames, as Envoy takes
those of gRPC for a flood when it subscribes to 1,500 names at once, and resets the stream that it asks on.
"""

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiVersion,
    ConfigSource,
    DataSource,
    Http2ProtocolOptions,
    KeepaliveSettings,
    PathConfigSource,
    Pipe,
    SocketAddress,
    TransportSocket,
    WatchedDirectory,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

CLUSTER: Final = "certvoy"
CREDENTIAL_SECRET: Final = "credential"  # noqa: S105 - the names of the files that an agent keeps
AUTHORITIES_SECRET: Final = "authorities"  # noqa: S105
MAX_REQUESTS: Final = 100_000
CONNECT_TIMEOUT: Final = timedelta(seconds=5)  # Envoy loads 1,500 listeners for more than one
MAX_WINDOW_UPDATES: Final = 1_000  # for each data frame sent; Envoy's default is 10
KEEPALIVE: Final = KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=5))
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Where we are, whom Envoy expects there (a DNS SAN), and the files of its mutual TLS."""

    host: str
    port: int
    server_name: str
    ca: Path
    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class LocalControlPlane:
    """The same, for an Envoy beside us: the Unix socket that is its identity's."""

    path: Path


@dataclass(frozen=True, slots=True)
class EnrolledControlPlane:
    """The same, for an Envoy whose client certificate an agent keeps in a directory, and renews there."""

    host: str
    port: int
    server_name: str
    credentials: Path


Anywhere = ControlPlane | EnrolledControlPlane | LocalControlPlane


def certvoy_cluster(control_plane: Anywhere, *, rest: bool = False) -> Cluster:
    """Return the cluster that certvoy is; ``rest``: its REST listener, which speaks HTTP/1.1."""
    local = isinstance(control_plane, LocalControlPlane)
    endpoint = Endpoint(address=_endpoint(control_plane))
    http2 = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                connection_keepalive=KEEPALIVE,
                max_inbound_window_update_frames_per_data_frame_sent=MAX_WINDOW_UPDATES,
            )
        )
    )
    return Cluster(
        name=CLUSTER,
        type=ClusterDiscoveryType.STATIC if local else ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.ALL,
        connect_timeout=CONNECT_TIMEOUT,
        typed_extension_protocol_options={} if rest else {HTTP_OPTIONS: Any.pack(http2)},
        circuit_breakers=CircuitBreakers(thresholds=[CircuitBreakersThresholds(max_requests=MAX_REQUESTS)]),
        load_assignment=ClusterLoadAssignment(
            cluster_name=CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=endpoint)])],
        ),
        transport_socket=None
        if isinstance(control_plane, LocalControlPlane)
        else tls(_upstream_tls(control_plane, alpn="http/1.1" if rest else "h2")),
    )


def _endpoint(control_plane: Anywhere) -> Address:
    if isinstance(control_plane, LocalControlPlane):
        return Address(pipe=Pipe(path=str(control_plane.path)))
    return address(control_plane.host, control_plane.port)


def _upstream_tls(control_plane: ControlPlane | EnrolledControlPlane, *, alpn: str) -> UpstreamTlsContext:
    name, is_address = control_plane.server_name, _is_address(control_plane.server_name)
    expected = SubjectAltNameMatcher(
        san_type=SubjectAltNameMatcherSanType.IP_ADDRESS if is_address else SubjectAltNameMatcherSanType.DNS,
        matcher=StringMatcher(exact=name),
    )
    common = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        ),
        alpn_protocols=[alpn],
    )
    if isinstance(control_plane, ControlPlane):
        common.tls_certificates = [
            TlsCertificate(
                certificate_chain=DataSource(filename=str(control_plane.certificate)),
                private_key=DataSource(filename=str(control_plane.private_key)),
            )
        ]
        common.validation_context = CertificateValidationContext(
            trusted_ca=DataSource(filename=str(control_plane.ca)), match_typed_subject_alt_names=[expected]
        )
    else:
        directory = control_plane.credentials
        common.tls_certificate_sds_secret_configs = [_from_file(directory, CREDENTIAL_SECRET)]
        common.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=[expected]),
            validation_context_sds_secret_config=_from_file(directory, AUTHORITIES_SECRET),
        )
    return UpstreamTlsContext(sni="" if is_address else name, common_tls_context=common)


def _from_file(directory: Path, name: str) -> SdsSecretConfig:
    """Return a secret that Envoy reads from a file, and again when something is moved into the directory."""
    source = PathConfigSource(
        path=str(directory / f"{name}.json"), watched_directory=WatchedDirectory(path=str(directory))
    )
    return SdsSecretConfig(
        name=name, sds_config=ConfigSource(path_config_source=source, resource_api_version=ApiVersion.V3)
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def tls(context: UpstreamTlsContext | DownstreamTlsContext) -> TransportSocket:
    """Return TLS as a transport socket."""
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def address(host: str, port: int) -> Address:
    """Return a TCP address."""
    return Address(socket_address=SocketAddress(address=host, port_value=port))
