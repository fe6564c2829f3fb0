"""Envoy bootstraps that fetch their certificates from here, built of envoy-data-plane's types.

What every one of them sets, and why: `set_node_on_first_message_only`, as Envoy otherwise repeats 61 kB on
each message; a short retry back-off, as the default takes 3 to 6 s to come back after 5 s down. What its
cluster sets is in `cluster`.

The text is JSON, because Envoy reads plain YAML scalars by YAML 1.1, where a node called ``n`` is false.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
)
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    BackoffStrategy,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Node,
    RetryPolicy,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener, ListenerFilter
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.cert_mappers.sni.v3 import Sni
from envoy_data_plane.envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3 import (
    Config as OnDemandSecret,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
)
from envoy_data_plane.google.protobuf import Any

from sds_server.xds.cluster import CLUSTER, Anywhere, address, certvoy_cluster, tls

FETCH_TIMEOUT: Final = timedelta(seconds=15)  # Envoy's default, said: a listener waits so long for its secret
REFRESH: Final = timedelta(seconds=10)
REQUEST_TIMEOUT: Final = timedelta(seconds=1)  # Envoy's default, said: by then we have answered
HANDSHAKE_TIMEOUT: Final = timedelta(seconds=15)
"""On demand: longer than we say nothing of a name that is being issued, and not for ever."""

NO_SNI: Final = "default"
"""What is asked for where a client names nothing: a Secret of that name, if there is one."""

RETRY_FIRST: Final = timedelta(milliseconds=100)
RETRY_LAST: Final = timedelta(seconds=1)


class Api(StrEnum):
    """How Envoy asks. ADS is one stream for all secrets; choose DELTA where somebody else owns the ADS.

    The state-of-the-world forms are for what speaks nothing else. REST asks every so often.
    """

    SOTW = "sotw"
    DELTA = "delta"
    ADS = "ads"
    ADS_SOTW = "ads-sotw"
    REST = "rest"

    @property
    def is_ads(self) -> bool:
        """Whether all secrets come on one stream."""
        return self in {Api.ADS, Api.ADS_SOTW}


_TYPES: Final = {
    Api.SOTW: ApiConfigSourceApiType.GRPC,
    Api.DELTA: ApiConfigSourceApiType.DELTA_GRPC,
    Api.ADS: ApiConfigSourceApiType.DELTA_GRPC,
    Api.ADS_SOTW: ApiConfigSourceApiType.GRPC,
    Api.REST: ApiConfigSourceApiType.REST,
}


@dataclass(frozen=True, slots=True)
class TlsListener:
    """A listener that answers 200 to everything, under the certificate of one Secret. Port 0: any.

    ``beside``: Secrets of the same names with keys of other types. Envoy shows each client what it can take:
    ECDSA where it takes both.
    """

    name: str
    secret: str
    port: int = 0
    host: str = "127.0.0.1"
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OnDemandListener:
    """The same, under the certificate of whatever name a client asks for (SNI). Envoy 1.37 and newer."""

    name: str
    port: int = 0
    host: str = "127.0.0.1"


def bootstrap(
    *,
    node_id: str,
    cluster: str,
    control_plane: Anywhere,
    listeners: Sequence[TlsListener | OnDemandListener],
    api: Api = Api.ADS,
    fetch_timeout: timedelta = FETCH_TIMEOUT,
    refresh: timedelta = REFRESH,
) -> str:
    """Return the bootstrap as JSON. The admin interface listens on a port of loopback that Envoy chooses.

    ``control_plane``: for REST its port is that of ``sds.rest``, and ``refresh`` is how often it is asked.
    """
    api_source = _rest_source(refresh) if api is Api.REST else _grpc_source(api)
    source = _source(api, api_source, fetch_timeout)
    config = Bootstrap(
        node=Node(id=node_id, cluster=cluster),
        admin=Admin(address=address("127.0.0.1", 0)),
        dynamic_resources=BootstrapDynamicResources(ads_config=api_source) if api.is_ads else None,
        static_resources=BootstrapStaticResources(
            listeners=[_listener(listener, source) for listener in listeners],
            clusters=[certvoy_cluster(control_plane, rest=api is Api.REST)],
        ),
    )
    return config.to_json(indent=2, casing=betterproto2.Casing.SNAKE)


def _source(api: Api, api_source: ApiConfigSource, fetch_timeout: timedelta) -> ConfigSource:
    """Return the same bytes for each listener: Envoy keys its provider, and so its stream, by them."""
    return ConfigSource(
        ads=AggregatedConfigSource() if api.is_ads else None,
        api_config_source=None if api.is_ads else api_source,
        initial_fetch_timeout=fetch_timeout,
        resource_api_version=ApiVersion.V3,
    )


def _grpc_source(api: Api) -> ApiConfigSource:
    backoff = BackoffStrategy(base_interval=RETRY_FIRST, max_interval=RETRY_LAST)
    grpc = GrpcServiceEnvoyGrpc(cluster_name=CLUSTER, retry_policy=RetryPolicy(retry_back_off=backoff))
    return ApiConfigSource(
        api_type=_TYPES[api],
        transport_api_version=ApiVersion.V3,
        set_node_on_first_message_only=True,
        grpc_services=[GrpcService(envoy_grpc=grpc)],
    )


def _rest_source(refresh: timedelta) -> ApiConfigSource:
    return ApiConfigSource(
        api_type=_TYPES[Api.REST],
        transport_api_version=ApiVersion.V3,
        cluster_names=[CLUSTER],
        refresh_delay=refresh,
        request_timeout=REQUEST_TIMEOUT,
    )


def _listener(listener: TlsListener | OnDemandListener, source: ConfigSource) -> Listener:
    on_demand = isinstance(listener, OnDemandListener)
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
        address=address(listener.host, listener.port),
        filter_chains=[
            FilterChain(
                filters=[
                    Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(http))
                ],
                transport_socket=tls(_context(listener, source)),
                transport_socket_connect_timeout=HANDSHAKE_TIMEOUT if on_demand else None,
            )
        ],
        listener_filters=[_INSPECTOR] if on_demand else [],
    )


_INSPECTOR: Final = ListenerFilter(
    name="envoy.filters.listener.tls_inspector", typed_config=Any.pack(TlsInspector())
)


def _context(listener: TlsListener | OnDemandListener, source: ConfigSource) -> DownstreamTlsContext:
    if isinstance(listener, TlsListener):
        return DownstreamTlsContext(
            common_tls_context=CommonTlsContext(
                tls_certificate_sds_secret_configs=[
                    SdsSecretConfig(name=secret, sds_config=source)
                    for secret in (listener.secret, *listener.beside)
                ]
            )
        )
    mapper = TypedExtensionConfig(name="sni", typed_config=Any.pack(Sni(default_value=NO_SNI)))
    selector = OnDemandSecret(config_source=source, certificate_mapper=mapper)
    return DownstreamTlsContext(
        # Envoy refuses the selector with either of them: a resumed session has no certificate to choose.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context=CommonTlsContext(
            custom_tls_certificate_selector=TypedExtensionConfig(
                name="on_demand", typed_config=Any.pack(selector)
            )
        ),
    )
