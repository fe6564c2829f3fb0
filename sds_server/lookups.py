"""Lookups of host names: a resolver that hangs holds nobody up but who asks for that name.

`loop.getaddrinfo` waits in the threads of the loop's executor, of which there are six on two processors.
Where the resolver does not answer, six lookups would be all of them, and keys are generated and files are
written there, too.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

WITHIN_S: Final = 10.0
"""Twice as long as the system's resolver waits for its first server."""

AT_ONCE: Final = 64
"""Threads; the same question is asked once, however many wait for its answer."""

Look = Callable[..., list[Any]]


class Lookups:
    """Asks the system's resolver, each question in a thread of its own that nothing waits for at the end."""

    def __init__(
        self, look: Look = socket.getaddrinfo, *, within_s: float = WITHIN_S, at_once: int = AT_ONCE
    ) -> None:
        """``look``: as `socket.getaddrinfo`."""
        self._look = look
        self._within_s = within_s
        self._places = asyncio.Semaphore(at_once)
        self._under_way: dict[Hashable, asyncio.Future[list[Any]]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name that callers use
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `asyncio.loop.getaddrinfo`.

        Raises:
            socket.gaierror: there is no such name, or no answer came in time.
        """
        question = (host, port, family, type, proto, flags)
        if host is None or _is_address(host):
            return self._look(*question)
        try:
            async with asyncio.timeout(self._within_s):
                while (answer := self._under_way.get(question)) is None:
                    await self._places.acquire()
                    if question in self._under_way:
                        self._places.release()
                    else:
                        self._begin(question)
                return await asyncio.shield(answer)
        except TimeoutError:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"the resolver does not answer within {self._within_s:g} s"
            ) from None

    def _begin(self, question: tuple[Any, ...]) -> None:
        loop = asyncio.get_running_loop()
        answer = self._under_way[question] = loop.create_future()

        def ended(found: list[Any], error: BaseException | None) -> None:
            del self._under_way[question]
            self._places.release()
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)
                answer.exception()  # nobody may have waited for so long

        def run() -> None:
            found: list[Any] = []
            error: BaseException | None = None
            try:
                found = self._look(*question)
            except BaseException as e:  # noqa: BLE001 - whoever waits is told, whatever it is
                error = e
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended, found, error)

        threading.Thread(target=run, name="lookup", daemon=True).start()


@contextmanager
def apart(lookups: Lookups | None = None) -> Iterator[None]:
    """Have all lookups of the running loop, whichever library asks, go this way for the length of the block.

    Where that is so already, as with two control planes in one loop, nothing changes.
    """
    loop: Any = asyncio.get_running_loop()
    if "getaddrinfo" in vars(loop):
        yield
        return
    loop.getaddrinfo = (lookups or Lookups()).getaddrinfo
    try:
        yield
    finally:
        del loop.getaddrinfo


def _is_address(host: Any) -> bool:
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True
