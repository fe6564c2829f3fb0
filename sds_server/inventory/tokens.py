"""HTTP-01 tokens in PostgreSQL: any replica answers for any other."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sds_server.crashpoint import crashpoint
from sds_server.inventory.database import Database
from sds_server.model import RotationId


class Tokens:
    """What the responder reads: the `acme_engine` Token- and BatchReader over the challenge_token table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, token: str) -> str | None:
        """Return the answer to a token; None: nobody asked us to prove that."""
        async with self._database.transaction() as tx:
            answer: str | None = await tx.value("token", token)
        return answer

    async def get_many(self, tokens: Sequence[str]) -> Mapping[str, str]:
        """Return the answers to those of these that somebody asked us to prove."""
        async with self._database.transaction() as tx:
            rows = await tx.rows("tokens", tokens)
        return {row["token"]: row["key_authorization"] for row in rows}

    async def sweep(self) -> None:
        """Forget the tokens that crashed orders left behind, and names that failed a day ago."""
        async with self._database.transaction() as tx:
            await tx.rows("sweep_tokens")
            await tx.rows("sweep_failures")


class PreflightTokens(Tokens):
    """Tokens that prove nothing: somebody looks whether the way to them leads here."""

    async def put(self, token: str, answer: str, *, lasts: timedelta) -> None:
        """Have all replicas answer a token for a while."""
        async with self._database.transaction() as tx:
            await tx.rows("put_token", token, answer, None, lasts)

    async def delete(self, token: str) -> None:
        """Forget a token."""
        async with self._database.transaction() as tx:
            await tx.rows("delete_token", token)


class RotationTokens(Tokens):
    """The TokenStore of one Rotation: what it leaves behind when killed is found by its id."""

    def __init__(self, database: Database, rotation: RotationId) -> None:
        super().__init__(database)
        self._rotation = rotation

    async def put(self, token: str, key_authorization: str, *, ttl_s: int) -> None:
        """Keep the answer to a token for ``ttl_s`` seconds."""
        async with self._database.transaction() as tx:
            await tx.rows("put_token", token, key_authorization, self._rotation, timedelta(seconds=ttl_s))
        crashpoint("token.saved")

    async def delete(self, token: str) -> None:
        """Forget a token."""
        async with self._database.transaction() as tx:
            await tx.rows("delete_token", token)
