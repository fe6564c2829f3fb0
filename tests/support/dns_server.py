"""DNS servers of ours on loopback, between us and a real one: a resolver that remembers denials, a relay."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import dns.asyncquery
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

HOST: Final = "127.0.0.1"
Answer = Callable[[dns.message.Message], Awaitable[dns.message.Message | None]]


class DnsServer(asyncio.DatagramProtocol):
    """Answers by a function; None: not at all. Everything asked is in ``asked``, as "NAME KIND"."""

    def __init__(self, answer: Answer, *, cuts_udp: bool = False) -> None:
        """``cuts_udp``: what is asked over UDP is told to come again over TCP."""
        self.asked: list[str] = []
        self.over_tcp = 0
        self.silent = False
        self.address = ""
        self._answer = answer
        self._cuts_udp = cuts_udp
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.create_task(self._datagram(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _datagram(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        if self._cuts_udp and not self.silent:
            reply: dns.message.Message | None = dns.message.make_response(question)
            assert reply is not None
            reply.flags |= dns.flags.TC
        else:
            reply = await self._reply(question)
        if reply is not None:
            self._transport.sendto(reply.to_wire(), addr)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            self.over_tcp += 1
            reply = await self._reply(dns.message.from_wire(await reader.readexactly(size)))
            if reply is not None:
                wire = reply.to_wire()
                writer.write(len(wire).to_bytes(2, "big") + wire)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, question: dns.message.Message) -> dns.message.Message | None:
        asked = question.question[0]
        self.asked.append(f"{asked.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(asked.rdtype)}")
        return None if self.silent else await self._answer(question)


@asynccontextmanager
async def serving(server: DnsServer, *, host: str = HOST, port: int) -> AsyncIterator[DnsServer]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=(host, port))
    server.address = f"{host}:{port}"
    tcp = await asyncio.start_server(server.connected, host, port)
    try:
        yield server
    finally:
        tcp.close()
        transport.close()


def relay(port: int) -> Answer:
    """Answer as the server at this port does."""

    async def answer(question: dns.message.Message) -> dns.message.Message:
        return await dns.asyncquery.tcp(question, HOST, timeout=5, port=port)

    return answer


def resolver(zones: Mapping[str, int]) -> Answer:
    """Answer as a recursive resolver: each zone's server has a port. What was denied is denied for ever."""
    denied: set[dns.name.Name] = set()
    ports = {dns.name.from_text(zone): port for zone, port in zones.items()}

    async def answer(question: dns.message.Message) -> dns.message.Message:
        name, kind = question.question[0].name, question.question[0].rdtype
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.RA
        while True:
            around = [zone for zone in ports if name.is_subdomain(zone)]
            if not around or name in denied:
                reply.set_rcode(dns.rcode.NXDOMAIN if name in denied else dns.rcode.SERVFAIL)
                return reply
            asked = dns.message.make_query(name, kind, flags=0)
            theirs = await dns.asyncquery.tcp(asked, HOST, timeout=5, port=ports[max(around, key=len)])
            reply.set_rcode(theirs.rcode())
            reply.answer += theirs.answer
            reply.authority = theirs.authority
            leads = [rrset[0].target for rrset in theirs.answer if rrset.rdtype == dns.rdatatype.CNAME]
            if not leads or kind in {rrset.rdtype for rrset in theirs.answer}:
                break
            name = leads[-1]
        if not theirs.answer and kind == dns.rdatatype.TXT:
            denied.add(name)
        return reply

    return answer
