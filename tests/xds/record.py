"""`make golden`, or `python -m tests.xds.record`: record the golden transcripts anew, with the Envoy of now.

For a new release of Envoy, or after a change of what we answer that is meant. Then read the difference: each
line of it is something that a proxy in the world will see.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import hashes, serialization
from structlog.testing import capture_logs

import tests.xds.quiet  # noqa: F401
from sds_server.xds import codec, session
from sds_server.xds.catalog import Missing, Resource
from sds_server.xds.stream import Stream
from tests.xds import golden
from tests.xds.edge import Edge, is_gone, site, until
from tests.xds.transcript import show_event, shown

FORMS = ("sds-sotw", "sds-delta", "ads-sotw", "ads-delta")
SETTLE_S = 0.3
"""After the last thing that a scenario waits for: the ACKs of it."""


class Recorder:
    """Stands where a session makes its core, and writes down all that goes in and comes out."""

    def __init__(self) -> None:
        self.streams: list[dict[str, Any]] = []
        self._cores: list[Recorded] = []
        self._versions: dict[str, str] = {}
        self._data = b""
        self._began: float | None = None

    def __enter__(self) -> Self:
        self._decode = codec.decode
        codec.decode = self._decoding  # type: ignore[assignment]
        session.Stream = self._stream  # type: ignore[misc,assignment]
        return self

    def __exit__(self, *_error: object) -> None:
        codec.decode = self._decode
        session.Stream = Stream  # type: ignore[misc]
        for core in self._cores:
            core.finish()

    def _decoding(self, data: bytes, *, delta: bool) -> codec.Message:
        self._data = data
        return self._decode(data, delta=delta)

    def _stream(self, **arguments: Any) -> "Recorded":
        lines: list[Any] = []
        self.streams.append({"delta": arguments["delta"], "lines": lines})
        core = Recorded(self, lines, **arguments)
        self._cores.append(core)
        return core

    def at(self, now: float) -> float:
        """Seconds since the first line of all."""
        if self._began is None:
            self._began = now
        return round(now - self._began, 6)

    def entry(self, entry: Any) -> Any:
        """An entry of the Catalog, by what may be told of it."""
        if isinstance(entry, Missing):
            return entry.value
        assert isinstance(entry, Resource)
        _, key_pem = codec.chain_and_key(entry.body)
        key = serialization.load_pem_private_key(key_pem, None)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(public)
        return {
            "version": self.version(entry.version),
            "generation": entry.generation,
            "key_sha256": digest.finalize().hex(),
        }

    def version(self, version: str) -> str:
        return self._versions.setdefault(version, f"v{len(self._versions) + 1}")

    def plain(self, value: Any, prefix: str) -> Any:
        """Without what is different in each run: our versions, and the nonces of this stream."""
        if isinstance(value, dict):
            return {key: self.plain(one, prefix) for key, one in value.items()}
        if isinstance(value, list):
            return [self.plain(one, prefix) for one in value]
        if isinstance(value, str):
            for version, short in self._versions.items():
                value = value.replace(version, short)
            return value.replace(prefix, golden.NONCE)
        return value


class Recorded(Stream):
    """A core whose inputs and outputs are written down."""

    def __init__(self, recorder: Recorder, lines: list[Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._recorder, self._lines = recorder, lines
        self._prefix = arguments["nonce_prefix"]
        self._shown: dict[str, Any] = {}

    def receive(self, request: Any, now: float) -> Any:
        said = golden.message(self._recorder._data, delta=self._delta)
        self._lines.append([">", self._recorder.at(now), said])
        events = super().receive(request, now)
        self._lines += [["=", show_event(event)] for event in events if shown(event)]
        return events

    def respond(self, view: Any, now: float) -> Any:
        at = self._recorder.at(now)

        def seen(name: str) -> Any:
            entry = view(name)
            if entry is not None and self._shown.get(name) != entry:
                self._shown[name] = entry
                self._lines.append(["!", at, name, self._recorder.entry(entry)])
            return entry

        response = super().respond(seen, now)
        if response is not None:
            self._lines.append(["<", at, golden.answer(response)])
        elif self._lines and self._lines[-1][0] != "-":
            self._lines.append(["-", at])
        return response

    def finish(self) -> None:
        self._lines[:] = self._recorder.plain(self._lines, self._prefix)


async def first_start(edge: Edge) -> None:
    """Envoy starts, and is served."""
    first = site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)


async def rotate(edge: Edge) -> None:
    """The next certificate."""
    await first_start(edge)
    second = site()
    edge.server.publish("a", 2, second)
    await edge.until_served(second)


async def refusal(edge: Edge) -> None:
    """A mismatched pair, then a good one."""
    first, second, third = site(), site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)
    await asyncio.sleep(SETTLE_S)  # the last good one is pushed back
    edge.server.publish("a", 3, third)
    await edge.until_served(third)


async def listeners(edge: Edge) -> None:
    """One comes with a secret of its own, and changes its `sds_config` by a byte; both go, one returns."""
    first, other = site(), site()
    edge.secrets, edge.drain_s = {"more": "b"}, 1
    edge.server.publish("a", 1, first)
    edge.server.publish("b", 1, other)
    await edge.start()
    await edge.until_served(first)
    edge.listen("https", "more")
    await edge.until_served(other, "more")
    edge.listen("https", "more", fetch_timeout="1s")
    await asyncio.sleep(2 + SETTLE_S)  # the time that it waits, and for the old one to be drained
    edge.listen()
    await until(lambda: is_gone(edge, "https"))
    await asyncio.sleep(1 + SETTLE_S)  # it is drained
    edge.listen("https")
    await edge.until_served(first)


async def reconnect(edge: Edge) -> None:
    """The server goes and returns with a newer certificate."""
    await first_start(edge)
    await edge.server.stop()
    await edge.server.start()
    second = site()
    edge.server.publish("a", 2, second)
    await edge.until_served(second)


ACTS = (first_start, rotate, refusal, listeners, reconnect)


async def record(form: str, scenario: str, act: Any) -> None:
    with tempfile.TemporaryDirectory() as directory, Recorder() as recorder, capture_logs():
        edge = Edge(Path(directory), form)
        try:
            await act(edge)
            await asyncio.sleep(SETTLE_S)
            version = (
                (await edge.envoy.admin_get("/server_info")).partition('"version": "')[2].partition('"')[0]
            )
        finally:
            await edge.stop()
    recording = {
        "envoy": version.split("/")[1],
        "form": form,
        "scenario": scenario,
        "streams": recorder.streams,
    }
    path = golden.FOLDER / f"{form}-{scenario}.json"
    path.write_text(golden.written(recording))
    print(path.name, sum(len(stream["lines"]) for stream in recorder.streams), "lines")


async def main() -> None:
    golden.FOLDER.mkdir(exist_ok=True)
    for form in FORMS:
        for scenario, act in zip(golden.SCENARIOS, ACTS, strict=True):
            await record(form, scenario, act)


if __name__ == "__main__":
    asyncio.run(main())
