"""What is done side by side, each to its end."""

import asyncio
from collections.abc import Coroutine, Iterable


async def to_their_ends(work: Iterable[Coroutine[object, object, object]]) -> None:
    """Do all of it side by side; one that fails, as the database takes nothing, stops no other.

    Raises:
        Exception: the first failure, in the order in which they were given.
    """
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
