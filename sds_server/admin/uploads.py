"""``/v1/secrets/{name}/certificate``: a pair that somebody brings, instead of one that a CA is asked for."""

from http import HTTPStatus
from typing import Final

from pydantic import Field

from sds_server import pem
from sds_server.admin import secret_shapes, secrets
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.model import Scope

PEM: Final = "application/x-pem-file"


class PutPair(Shape):
    """A chain, leaf first and without the root, and the private key of its leaf, both in PEM."""

    chain: str
    private_key: str = Field(repr=False)


async def put_pair(call: Call) -> Answer:
    """Make the pair the secret's next generation; the one that is served already changes nothing."""
    pair, name = call.body(PutPair), secrets.named(call.path["name"])
    done = await call.services.uploads.put(
        name,
        chain_pem=pair.chain.encode(errors="replace"),
        private_key_pem=pair.private_key.encode(errors="replace"),
        actor=call.caller.actor,
    )
    status = HTTPStatus.ACCEPTED
    if done.created:
        status = HTTPStatus.CREATED
    elif done.unchanged:
        status = HTTPStatus.OK
    return await secrets.described(call.services, name, status=status)


def _parts(raw: bytes) -> dict[str, str]:
    """Sort the blocks of one file; OpenSSL writes an EC key behind its parameters."""
    parts: dict[str, list[str]] = {"chain": [], "private_key": []}
    for block in pem.BLOCK.finditer(raw.decode(errors="replace")):
        of_key = block[1].endswith("PRIVATE KEY") or block[1] == "EC PARAMETERS"
        parts["private_key" if of_key else "chain"].append(block[0])
    return {part: "\n".join(blocks) for part, blocks in parts.items()}


ROUTES = (
    Route(
        method="PUT",
        path="/v1/secrets/{name}/certificate",
        handler=put_pair,
        summary="Upload a pair as a secret's next certificate; a secret that is not there is created",
        scope=Scope.ISSUE,
        body=PutPair,
        reads={PEM: _parts},
        answers={
            HTTPStatus.OK: secret_shapes.Secret,
            HTTPStatus.CREATED: secret_shapes.Secret,
            HTTPStatus.ACCEPTED: secret_shapes.Secret,
        },
    ),
)
