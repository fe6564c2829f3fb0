"""Envoy's protobuf messages to and from core values; the only importer of Envoy messages on the wire path.

xds-protos (upb) and not envoy-data-plane: Envoy's first request is 61 kB, 516 extension entries of its Node,
and takes 0.04 ms to decode here against 14 ms there. `tests/xds/test_codec.py` holds both to the same bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import ControlPlane
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from sds_server.xds.catalog import Resource
from sds_server.xds.stream import Request, Response

TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
VERSION_BYTES: Final = 16


class Malformed(ValueError):
    """The bytes are not the message that the method takes."""


@dataclass(frozen=True, slots=True)
class Message:
    """A client message: the request, and what belongs to the stream rather than to it.

    ``node_id`` is empty where the message has no node: Envoy sends it first and need not repeat it.
    """

    type_url: str
    node_id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Poll:
    """A request of the REST form; ``known`` is the version that the client has, empty for none."""

    type_url: str
    node_id: str
    names: tuple[str, ...]
    known: str


def decode(data: bytes, *, delta: bool) -> Message:
    """Read a DiscoveryRequest or DeltaDiscoveryRequest.

    Raises:
        Malformed: it is none. The message quotes nothing of it.
    """
    message = DeltaDiscoveryRequest() if delta else DiscoveryRequest()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise Malformed(f"not a {message.DESCRIPTOR.name}") from None
    nonce = message.response_nonce
    error = message.error_detail.message if message.HasField("error_detail") else None
    if delta:
        request = Request(
            subscribe=tuple(message.resource_names_subscribe),
            unsubscribe=tuple(message.resource_names_unsubscribe),
            known=dict(message.initial_resource_versions),
            nonce=nonce,
            error=error,
        )
    else:
        request = Request(names=tuple(message.resource_names), nonce=nonce, error=error)
    return Message(message.type_url, message.node.id, request)


def decode_json(data: bytes) -> Poll:
    """Read a DiscoveryRequest in JSON, its fields by their own names or in camelCase.

    Only what is needed is looked at: Envoy's is 77 kB, and almost all of it is its Node.

    Raises:
        Malformed: it is none. The message quotes nothing of it.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if not isinstance(message, dict):
        raise Malformed("not a DiscoveryRequest: expected a JSON object")
    node = message.get("node") or {}
    if not isinstance(node, dict):
        raise Malformed("node: expected an object")
    names = _field(message, "resource_names", "resourceNames", default=[])
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_text(name) for name in names):
        raise Malformed("resource_names: expected a list of strings")
    texts = (
        _field(message, "type_url", "typeUrl", default=""),
        _field(message, "version_info", "versionInfo", default=""),
        _field(node, "id", default=""),
    )
    if not all(isinstance(text, str) and _is_text(text) for text in texts):
        raise Malformed("type_url, version_info and node.id: expected strings")
    type_url, known, node_id = texts
    return Poll(type_url, node_id, tuple(names), known)


def _field(message: Mapping[str, Any], *spellings: str, default: object) -> Any:
    """Return the field under the first of its spellings that is there; null is its default."""
    return next((message[key] for key in spellings if message.get(key) is not None), default)


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8, as protobuf's strings must: JSON can spell half a pair."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def encode(response: Response, *, delta: bool, identifier: str) -> bytes:
    """Write a DiscoveryResponse or DeltaDiscoveryResponse; ``identifier`` is shown in Envoy's stats."""
    message = DeltaDiscoveryResponse() if delta else DiscoveryResponse()
    message.type_url = TYPE_URL
    message.nonce = response.nonce
    message.control_plane.CopyFrom(ControlPlane(identifier=identifier))
    resource = response.resource
    if resource is None:
        message.removed_resources.append(response.name)
    elif delta:
        message.system_version_info = resource.version
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url, entry.resource.value = TYPE_URL, resource.body
    else:
        message.version_info = resource.version
        message.resources.add(type_url=TYPE_URL, value=resource.body)
    encoded: bytes = message.SerializeToString()
    return encoded


def encode_all(resources: Iterable[Resource], version_of_them: str, *, identifier: str) -> bytes:
    """Write the DiscoveryResponse of a fetch: all in one, and no nonce, as nothing answers it."""
    message = DiscoveryResponse(version_info=version_of_them, type_url=TYPE_URL)
    message.control_plane.identifier = identifier
    for resource in resources:
        message.resources.add(type_url=TYPE_URL, value=resource.body)
    encoded: bytes = message.SerializeToString()
    return encoded


def encode_json(resources: Iterable[Resource], version_of_them: str, *, identifier: str) -> bytes:
    """Write the same as JSON, under the fields' own names, as Envoy does."""
    secrets = [
        {"@type": TYPE_URL, **MessageToDict(Secret.FromString(one.body), preserving_proto_field_name=True)}
        for one in resources
    ]
    message = {
        "version_info": version_of_them,
        "type_url": TYPE_URL,
        "resources": secrets,
        "control_plane": {"identifier": identifier},
    }
    return json.dumps(message).encode()


def tls_certificate(name: str, chain_pem: bytes, key_pem: bytes) -> bytes:
    """Encode the Secret of a chain and its key, inline: a file name would make Envoy read its own disk."""
    secret = Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = chain_pem
    secret.tls_certificate.private_key.inline_bytes = key_pem
    encoded: bytes = secret.SerializeToString(deterministic=True)
    return encoded


def chain_and_key(body: bytes) -> tuple[bytes, bytes]:
    """Return what `tls_certificate` encoded, as PEM each: for who does not speak Envoy's messages."""
    pair = Secret.FromString(body).tls_certificate
    return pair.certificate_chain.inline_bytes, pair.private_key.inline_bytes


def version(key: bytes, body: bytes) -> str:
    """Return the version of a Secret's bytes: equal on all replicas that share ``key`` (64 bytes at most).

    Keyed, so that whoever reads a version cannot check a guess of the content against it.
    """
    return blake2b(body, key=key, digest_size=VERSION_BYTES).hexdigest()


def version_of_all(resources: Sequence[Resource]) -> str:
    """Return the version of several Resources together: of one its own, as on a stream."""
    if len(resources) == 1:
        return resources[0].version
    ordered = sorted((one.name, one.version) for one in resources)
    return blake2b(json.dumps(ordered).encode(), digest_size=VERSION_BYTES).hexdigest()
