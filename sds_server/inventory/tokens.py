"""HTTP-01 tokens in PostgreSQL: any replica answers for any other."""

from datetime import timedelta

from sds_server.inventory.database import Database


class Tokens:
    """The `acme_engine` TokenStore over the challenge_token table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, token: str, key_authorization: str, *, ttl_s: float) -> None:
        """Keep the answer to a token for ``ttl_s`` seconds."""
        async with self._database.transaction() as tx:
            await tx.rows("put_token", token, key_authorization, timedelta(seconds=ttl_s))

    async def get(self, token: str) -> str | None:
        """Return the answer to a token; None: nobody asked us to prove that."""
        async with self._database.transaction() as tx:
            answer: str | None = await tx.value("token", token)
        return answer

    async def delete(self, token: str) -> None:
        """Forget a token."""
        async with self._database.transaction() as tx:
            await tx.rows("delete_token", token)

    async def sweep(self) -> None:
        """Forget the tokens that crashed orders left behind."""
        async with self._database.transaction() as tx:
            await tx.rows("sweep_tokens")
