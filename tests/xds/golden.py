"""Golden transcripts: what a real Envoy 1.40 said to us, and what we answered, as JSON to read and to replay.

A recording is one scenario in one form of asking: its streams in the order of their opening, each a list of
what happened at its core:

    ["!", at, NAME, ENTRY]    what the Catalog offers under the name from now on; ``absent``, ``pending``
    [">", at, MESSAGE]        Envoy's message, its node cut down to id and user agent
    ["<", at, RESPONSE]       our answer
    ["=", EVENT]              what the core made of the message before it
    ["-", at]                 asked for more, the core had nothing to say

``at`` is in seconds from the first line on. A Resource is known by its name, version, and the SHA-256 of its
public key. What is different in each run is renamed: versions are v1, v2 by the order in which they came,
nonces n-1, n-2.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict

from sds_server.xds import codec
from sds_server.xds.catalog import ABSENT, PENDING, Resource
from sds_server.xds.stream import Response, Stream
from tests.xds.transcript import show_event, shown

FOLDER = Path(__file__).parent / "golden"
SCENARIOS = ("first-start", "rotate", "refusal", "listeners", "reconnect")
MISSING = {"absent": ABSENT, "pending": PENDING}
NONCE = "n-"


def message(data: bytes, *, delta: bool) -> dict[str, Any]:
    """Envoy's message as JSON, with nothing of the 61 kB of its node but who it is."""
    said: Any = (pb.DeltaDiscoveryRequest if delta else pb.DiscoveryRequest).FromString(data)
    if said.HasField("node"):
        node = said.node
        version = node.user_agent_build_version.version
        agent = f"{node.user_agent_name} {version.major_number}.{version.minor_number}.{version.patch}"
        node_id = node.id
        said.ClearField("node")
        return {
            "node": {"id": node_id, "user_agent_name": agent},
            **MessageToDict(said, preserving_proto_field_name=True),
        }
    return dict(MessageToDict(said, preserving_proto_field_name=True))


def data(said: dict[str, Any], *, delta: bool) -> bytes:
    """The message as it is sent."""
    kind: Any = pb.DeltaDiscoveryRequest if delta else pb.DiscoveryRequest
    return bytes(ParseDict(said, kind()).SerializeToString())


def answer(response: Response) -> dict[str, Any]:
    """Our answer, without its content."""
    one = {"nonce": response.nonce, "name": response.name}
    return one | ({"version": response.resource.version} if response.resource else {"removed": True})


def replayed(stream: dict[str, Any]) -> list[Any]:
    """What the core does today with the inputs of a recorded stream: the lines that it should have."""
    delta, lines, catalog = stream["delta"], [], {}
    core = Stream(delta=delta, now=0.0, rng=Random(0), nonce_prefix=NONCE)
    for kind, *given in stream["lines"]:
        match kind, given:
            case "!", [_at, name, entry]:
                catalog[name] = MISSING[entry] if isinstance(entry, str) else _resource(name, entry)
                core.changed(name)
                lines.append([kind, *given])
            case ">", [at, said]:
                events = core.receive(codec.decode(data(said, delta=delta), delta=delta).request, at)
                lines.append([kind, *given])
                lines += [["=", show_event(event)] for event in events if shown(event)]
            case "<" | "-", [at, *_answer]:
                response = core.respond(catalog.get, at)
                lines.append(["<", at, answer(response)] if response else ["-", at])
            case _:  # an event: it belongs to the message before it
                pass
    return lines


def _resource(name: str, entry: dict[str, Any]) -> Resource:
    return Resource(name, entry["version"], entry["generation"], b"")


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def written(recording: dict[str, Any]) -> str:
    """One line for each thing that happened."""
    streams = []
    for stream in recording["streams"]:
        lines = ",\n".join(f"   {json.dumps(line, separators=(',', ':'))}" for line in stream["lines"])
        streams.append(f'  {{"delta": {json.dumps(stream["delta"])}, "lines": [\n{lines}]}}')
    head = "".join(f' "{key}": {json.dumps(recording[key])},\n' for key in ("envoy", "form", "scenario"))
    return "{\n" + head + ' "streams": [\n' + ",\n".join(streams) + "]}\n"
