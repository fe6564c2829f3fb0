"""Envoy bootstraps that fetch their certificates from here, built of envoy-data-plane's types.

What every one of them sets, and why: `set_node_on_first_message_only`, as Envoy otherwise repeats 61 kB on
each message; a short retry back-off, as the default takes 3 to 6 s to come back after 5 s down; HTTP/2
keepalive, as a dead control plane is not noticed without; more `max_requests` than the default 1,024, as
Envoy outside of ADS opens one stream a secret; a wider limit for WINDOW_UPDATE frames, as Envoy takes those
of gRPC for a flood when it subscribes to 1,500 names at once, and resets the stream that it asks on.

The text is JSON, because Envoy reads plain YAML scalars by YAML 1.1, where a node called ``n`` is false.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
)
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    BackoffStrategy,
    ConfigSource,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http2ProtocolOptions,
    KeepaliveSettings,
    Node,
    PathConfigSource,
    RetryPolicy,
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
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
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
FETCH_TIMEOUT: Final = timedelta(seconds=15)  # Envoy's default, said: a listener waits so long for its secret
MAX_REQUESTS: Final = 100_000
RETRY_FIRST: Final = timedelta(milliseconds=100)
RETRY_LAST: Final = timedelta(seconds=1)
CONNECT_TIMEOUT: Final = timedelta(seconds=5)  # Envoy loads 1,500 listeners for more than one
MAX_WINDOW_UPDATES: Final = 1_000  # for each data frame sent; Envoy's default is 10
KEEPALIVE: Final = KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=5))


class Api(StrEnum):
    """How Envoy asks. ADS is one stream for all secrets; choose DELTA where somebody else owns the ADS."""

    SOTW = "sotw"
    DELTA = "delta"
    ADS = "ads"


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
class EnrolledControlPlane:
    """The same, for an Envoy whose client certificate an agent keeps in a directory, and renews there."""

    host: str
    port: int
    server_name: str
    credentials: Path


@dataclass(frozen=True, slots=True)
class TlsListener:
    """A listener that answers 200 to everything, under the certificate of one Secret. Port 0: any."""

    name: str
    secret: str
    port: int = 0
    host: str = "127.0.0.1"


def bootstrap(
    *,
    node_id: str,
    cluster: str,
    control_plane: ControlPlane | EnrolledControlPlane,
    listeners: Sequence[TlsListener],
    api: Api = Api.ADS,
    fetch_timeout: timedelta = FETCH_TIMEOUT,
) -> str:
    """Return the bootstrap as JSON. The admin interface listens on a port of loopback that Envoy chooses."""
    source = _source(api, fetch_timeout)
    config = Bootstrap(
        node=Node(id=node_id, cluster=cluster),
        admin=Admin(address=_address("127.0.0.1", 0)),
        dynamic_resources=BootstrapDynamicResources(ads_config=_api_source(api)) if api is Api.ADS else None,
        static_resources=BootstrapStaticResources(
            listeners=[_listener(listener, source) for listener in listeners],
            clusters=[_cluster(control_plane)],
        ),
    )
    return config.to_json(indent=2, casing=betterproto2.Casing.SNAKE)


def _source(api: Api, fetch_timeout: timedelta) -> ConfigSource:
    """Return the same bytes for each listener: Envoy keys its provider, and so its stream, by them."""
    return ConfigSource(
        ads=AggregatedConfigSource() if api is Api.ADS else None,
        api_config_source=None if api is Api.ADS else _api_source(api),
        initial_fetch_timeout=fetch_timeout,
        resource_api_version=ApiVersion.V3,
    )


def _api_source(api: Api) -> ApiConfigSource:
    backoff = BackoffStrategy(base_interval=RETRY_FIRST, max_interval=RETRY_LAST)
    grpc = GrpcServiceEnvoyGrpc(cluster_name=CLUSTER, retry_policy=RetryPolicy(retry_back_off=backoff))
    return ApiConfigSource(
        api_type=ApiConfigSourceApiType.GRPC if api is Api.SOTW else ApiConfigSourceApiType.DELTA_GRPC,
        transport_api_version=ApiVersion.V3,
        set_node_on_first_message_only=True,
        grpc_services=[GrpcService(envoy_grpc=grpc)],
    )


def _cluster(control_plane: ControlPlane | EnrolledControlPlane) -> Cluster:
    endpoint = Endpoint(address=_address(control_plane.host, control_plane.port))
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
        type=ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.ALL,
        connect_timeout=CONNECT_TIMEOUT,
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(http2)
        },
        circuit_breakers=CircuitBreakers(thresholds=[CircuitBreakersThresholds(max_requests=MAX_REQUESTS)]),
        load_assignment=ClusterLoadAssignment(
            cluster_name=CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=endpoint)])],
        ),
        transport_socket=_tls(_upstream_tls(control_plane)),
    )


def _upstream_tls(control_plane: ControlPlane | EnrolledControlPlane) -> UpstreamTlsContext:
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
        alpn_protocols=["h2"],
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


def _listener(listener: TlsListener, source: ConfigSource) -> Listener:
    tls = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_certificate_sds_secret_configs=[SdsSecretConfig(name=listener.secret, sds_config=source)]
        )
    )
    answer = Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=200))
    http = HttpConnectionManager(
        stat_prefix=listener.name,
        route_config=RouteConfiguration(
            virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=[answer])]
        ),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router()))],
    )
    return Listener(
        name=listener.name,
        address=_address(listener.host, listener.port),
        filter_chains=[
            FilterChain(
                filters=[
                    Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(http))
                ],
                transport_socket=_tls(tls),
            )
        ],
    )


def _tls(context: UpstreamTlsContext | DownstreamTlsContext) -> TransportSocket:
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _address(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))
