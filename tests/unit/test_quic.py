"""QUIC, as far as a handshake goes: the vectors of RFC 9001, hostile servers, paths that lose."""

import asyncio
import itertools
import random
from contextlib import asynccontextmanager

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.programs.child import free_port
from sds_server.targets import quic, quic_packets
from sds_server.targets.probe import TIMEOUT_S
from sds_server.targets.quic import Assembly, Connection
from sds_server.targets.quic_packets import FrameKind, Keys, Kind, ack, crypto, frames, packets, varint
from sds_server.targets.tls13 import HANDSHAKE_MAX, SUITES, HandshakeFailed, KeyKind
from tests.support import caddy
from tests.support.pki import authority
from tests.support.quic_server import SOURCE, Server, extensions, message, negotiation, retry

NAME = "www.example.test"
CA = authority()
PAIR = CA.issue([NAME])
LEAF = PAIR.certificate.public_bytes(Encoding.DER)
BIG = [bytes([number]) * 1500 for number in range(4)]
"""Of issuers that make a flight of seven packets: nobody reads them."""

DCID = bytes.fromhex("8394c8f03e515708")
CLIENT, SERVER = quic_packets.initial_keys(DCID)


# ---------------------------------------------------------------- RFC 9001, appendix A

CLIENT_HELLO = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868"
    "04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578"
    "616d706c652e636f6dff01000100000a00080006001d00170018001000070005"
    "04616c706e000500050100000000003300260024001d00209370b2c9caa47fba"
    "baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400"
    "0d0010000e0403050306030203080408050806002d00020101001c0002400100"
    "3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
)
SERVER_INITIAL = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a"
    "5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3"
    "dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
    "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4"
    "2158407dd074ee"
)


def test_the_keys_of_initial_packets_are_those_of_the_vectors():
    """RFC 9001 section A.1, by what each of them makes of the samples of A.2 and A.3."""
    assert "437b9aec36" == CLIENT.mask(bytes.fromhex("d1b1c98dd7689fb8ec11d242b123dc9b")).hex()
    assert "2ec0d8356a" == SERVER.mask(bytes.fromhex("2cd0991cd25b0aac406a5816b6394100")).hex()


def test_a_clients_initial_packet_is_that_of_the_vectors():
    """RFC 9001 section A.2: the last 16 bytes authenticate all others."""
    header = bytes.fromhex("c300000001088394c8f03e5157080000449e00000002")
    payload = CLIENT_HELLO.ljust(1162, b"\0")
    sealed = CLIENT.seal(header, 2, payload)
    (packet,) = packets(sealed)

    assert 1200 == len(sealed)
    assert "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11" == sealed[:32].hex()
    assert "e221af44860018ab0856972e194cd934" == sealed[-16:].hex()
    assert (2, payload) == CLIENT.open(packet.data, packet.at, -1)


def test_a_servers_initial_packet_of_the_vectors_is_read():
    """RFC 9001 section A.3."""
    (packet,) = packets(SERVER_INITIAL)
    number, payload = SERVER.open(packet.data, packet.at, -1)

    assert (Kind.INITIAL, bytes.fromhex("f067a5502a4262b5"), 1) == (packet.kind, packet.source, number)
    assert [FrameKind.ACK, FrameKind.CRYPTO] == [frame.kind for frame in frames(payload)]
    assert b"\x02\x00\x00\x56" == [*frames(payload)][1].data[:4]


def test_a_retry_of_the_vectors_is_believed_and_any_other_is_not():
    """RFC 9001 section A.4."""
    data = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
    (packet,) = packets(data)
    (forged,) = packets(data[:-1] + b"\0")

    assert b"token" == quic_packets.retry_token(packet, DCID)
    with pytest.raises(InvalidTag):
        quic_packets.retry_token(forged, DCID)


def test_a_packet_by_chacha20_is_that_of_the_vectors():
    """RFC 9001 section A.5."""
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    keys, number = Keys(SUITES[0x1303], secret), 654360564
    sealed = keys.seal(bytes.fromhex("4200bff4"), number, b"\x01")

    assert "4cfe4189655e5cd55c41f69080575d7999c25a5bfb" == sealed.hex()
    assert (number, b"\x01") == keys.open(sealed, 1, number - 1)


@pytest.mark.parametrize(
    ("sent", "size", "largest", "number"),
    [
        (0x9B32, 2, 0xA82F30EA, 0xA82F9B32),  # the example of RFC 9000 section A.3
        (0, 1, -1, 0),
        (0x00, 1, 0xFF, 0x100),
        (0xFF, 1, 0x100, 0xFF),
        (0x01, 1, 0x1F0, 0x201),
        (0xF0, 1, 0x201, 0x1F0),
    ],
)
def test_a_number_is_the_nearest_to_the_next_expected(sent, size, largest, number):
    assert number == quic_packets._number(sent, size, largest)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0, "00"),
        (63, "3f"),
        (64, "4040"),
        (15293, "7bbd"),
        (494878333, "9d7f3e7d"),
        (151288809941952652, "c2197c5eff14e88c"),
    ],
)
def test_numbers_are_written_as_in_the_examples(number, written):
    """RFC 9000 section A.1."""
    assert written == varint(number).hex()
    assert number == quic_packets._varint(bytes.fromhex(written), 0)[0]


@pytest.mark.parametrize(
    ("numbers", "frame"),
    [
        ({0}, "0200000000"),
        ({0, 1, 2}, "0202000002"),
        ({0, 4, 5}, "02050001010200"),
        ({7, 3, 1}, "02070002000200" + "0000"),
    ],
)
def test_what_has_come_is_said_in_ranges(numbers, frame):
    """RFC 9000 section 19.3.1."""
    assert frame == ack(numbers).hex()
    assert [FrameKind.ACK] == [each.kind for each in frames(ack(numbers))]


# ---------------------------------------------------------------- pieces


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_pieces_are_put_together_in_any_order(order):
    whole = bytes(range(40))
    assembly = Assembly()
    taken = b"".join(assembly.take(10 * at, whole[10 * at : 10 * at + 10]) for at in order)

    assert whole == taken


def test_pieces_that_overlap_or_come_twice_are_read_once():
    whole = bytes(range(40))
    pieces = [(20, 35), (0, 10), (0, 10), (5, 22), (30, 40), (0, 40)]
    assembly = Assembly()

    assert [b"", whole[:10], b"", whole[10:35], whole[35:], b""] == [
        assembly.take(first, whole[first:last]) for first, last in pieces
    ]


@pytest.mark.parametrize("offset", [HANDSHAKE_MAX, (1 << 62) - 1])
def test_a_piece_far_away_takes_no_memory(offset):
    with pytest.raises(HandshakeFailed, match="more than 256 KiB"):
        Assembly().take(offset, b"x")


def test_pieces_without_end_are_not_kept():
    assembly = Assembly()
    with pytest.raises(HandshakeFailed, match="pieces"):
        for at in range(quic.PIECES_MAX + 1):
            assembly.take(2 * at + 1, b"x")


# ---------------------------------------------------------------- a handshake


def connected(*kinds, **more):
    """Return a client and a server that has read its hello."""
    server = Server(PAIR, **more)
    client = Connection(NAME, kinds or [*KeyKind])
    for datagram in client.again():
        server.read(datagram)
    return client, server


def feed(client, server, datagrams):
    for datagram in datagrams:
        for answer in client.receive(datagram):
            server.read(answer)


@pytest.mark.parametrize("suite", SUITES)
def test_what_a_server_proves_to_hold_is_shown(suite):
    client, server = connected(suite=suite)
    feed(client, server, server.flight())

    assert LEAF == client.shown.leaf
    assert server.ended()
    last, number, _ = server.frames[-1]
    assert [FrameKind.CRYPTO, FrameKind.CLOSE] == [
        frame.kind for kind, at, frame in server.frames if (kind, at) == (last, number)
    ][-2:], "Finished first, and nothing kept"


def test_the_hello_asks_for_http3_and_fills_a_datagram():
    client = Connection(NAME, [KeyKind.RSA])
    server = Server(PAIR)
    (datagram,) = client.again()
    server.read(datagram)

    assert 1200 == len(datagram)
    assert b"\x00\x10\x00\x05\x00\x03\x02h3" in server.hello
    assert b"\0" == server.hello[38:39], "no session ID, by RFC 9001 section 8.4"
    assert b"\x00\x39" in server.hello


@pytest.mark.parametrize("together", [1, 2])
def test_packets_may_share_datagrams(together):
    client, server = connected()
    server.issuers = BIG[: together - 1]
    flight = [*server.flight()]
    feed(client, server, [b"".join(flight[:together]), *flight[together:]])

    assert LEAF == client.shown.leaf


@pytest.mark.parametrize("seed", range(20))
def test_packets_may_come_in_any_order_and_twice(seed):
    client, server = connected()
    server.issuers = BIG
    flight = [*server.flight()] * 2
    random.Random(seed).shuffle(flight)
    feed(client, server, flight)

    assert LEAF == client.shown.leaf


def test_each_packet_of_the_servers_is_acknowledged():
    """A server sends three times what it got, until it hears of us at the level of its handshake."""
    client, server = connected()
    server.issuers = BIG
    first, second, *_ = server.flight()
    (both,) = client.receive(first)
    server.read(both)
    (acknowledged,) = client.receive(second)
    server.read(acknowledged)

    said = [(kind, frame.kind) for kind, _, frame in server.frames[1:]]
    assert (1200, [(Kind.INITIAL, FrameKind.ACK), (Kind.HANDSHAKE, FrameKind.PING)]) == (len(both), said[:2])
    assert [(Kind.HANDSHAKE, FrameKind.ACK)] == said[2:]
    assert [] == client.receive(first), "there are no keys for it any more"
    assert 1 == len(client.receive(second)), "who sends it again has not heard of us"


def test_who_waits_for_the_rest_of_a_flight_asks_at_its_level():
    """What was lost may be what the server waits for: it may send nothing more before."""
    client, server = connected()
    client.receive(server.flight()[0])
    (again,) = client.again()
    server.read(again)

    kind, _, frame = server.frames[-1]
    assert (Kind.HANDSHAKE, FrameKind.PING) == (kind, frame.kind)


def test_a_hello_that_nobody_answers_is_said_again_in_a_packet_of_its_own():
    client, server = connected()
    for datagram in client.again():
        server.read(datagram)

    (first, number, hello), (second, next_number, again) = server.frames
    assert (first, number, hello) != (second, next_number, again)
    assert hello == again


def test_a_long_hello_is_said_in_several_datagrams():
    """With a long token there is no room for it in one."""
    client = Connection(".".join(["a" * 60] * 4), [*KeyKind])
    (datagram,) = client.again()
    (packet,) = packets(datagram)
    source, token = b"another", bytes(quic.TOKEN_MAX)
    answers = client.receive(retry(packet.source, packet.destination, source, token))
    server = Server(PAIR)
    for answer in answers:
        server.read(answer)

    assert (2, {1200}) == (len(answers), {len(answer) for answer in answers})
    assert len(server.hello) == 4 + int.from_bytes(server.hello[1:4])


def test_a_retry_begins_anew_with_its_token_and_another_one_does_nothing():
    client = Connection(NAME, [*KeyKind])
    (datagram,) = client.again()
    (packet,) = packets(datagram)
    (answer,) = client.receive(retry(packet.source, packet.destination, b"another", b"token"))
    server = Server(PAIR)
    server.read(answer)
    second = client.receive(retry(packet.source, b"another", b"a third", b"other"))
    feed(client, server, server.flight())

    (again,) = packets(answer)
    assert (b"another", b"token", []) == (again.destination, again.data[23:28], second)
    assert 1 == server.frames[0][1], "its number is not begun anew, by RFC 9000 section 17.2.5.3"
    assert LEAF == client.shown.leaf


def test_a_retry_that_is_forged_or_late_does_nothing():
    client, server = connected()
    (packet,) = packets(client.again()[0])
    forged = client.receive(retry(packet.source, b"of another", b"another", b"token"))
    first, *rest = server.flight()
    feed(client, server, [first])
    late = client.receive(retry(packet.source, packet.destination, b"another", b"token"))
    feed(client, server, rest)

    assert ([], [], LEAF) == (forged, late, client.shown.leaf)


def test_a_server_of_other_versions_is_said_to_be_one():
    client = Connection(NAME, [*KeyKind])
    (packet,) = packets(client.again()[0])
    unasked = negotiation(packet.source, b"of another", 0x6B3343CF)
    with_ours = negotiation(packet.source, packet.destination, 0x6B3343CF, 1)

    assert [[], []] == [client.receive(unasked), client.receive(with_ours)]
    with pytest.raises(HandshakeFailed, match="it speaks no QUIC of version 1, but 0x6b3343cf"):
        client.receive(negotiation(packet.source, packet.destination, 0x6B3343CF))


@pytest.mark.parametrize(
    ("code", "kind", "why"),
    [
        (0x100 + 40, FrameKind.CLOSE, r"it refused the handshake \(TLS alert 40\)"),
        (0x100 + 120, FrameKind.CLOSE, r"it speaks QUIC, but no HTTP/3"),
        (0x0A, FrameKind.CLOSE, r"it closed the connection \(PROTOCOL_VIOLATION\)"),
        (0x4242, FrameKind.CLOSE, r"it closed the connection \(error 0x4242\)"),
        (0x100, FrameKind.CLOSE_APPLICATION, r"it closed the connection \(error 0x100\)"),
    ],
)
def test_why_a_server_closes_is_said(code, kind, why):
    client, server = connected()
    with pytest.raises(HandshakeFailed, match=why):
        client.receive(server.closed(code, kind=kind))


# ---------------------------------------------------------------- hostile servers


def test_a_leaf_whose_key_the_server_does_not_hold_is_not_believed():
    client, server = connected()
    other = CA.issue([NAME]).certificate.public_bytes(Encoding.DER)
    server._change = lambda name, said: said.replace(LEAF, other) if name == "certificate" else said
    with pytest.raises(HandshakeFailed, match="broken"):
        feed(client, server, server.flight())


def test_a_handshake_that_ends_otherwise_is_not_believed():
    client, server = connected(change=lambda name, said: said[:-1] + b"x" if name == "finished" else said)
    with pytest.raises(HandshakeFailed, match="Finished"):
        feed(client, server, server.flight())


def test_messages_at_the_wrong_level_are_not_read():
    client, server = connected()
    first, *_ = server.flight()
    feed(client, server, [first])
    early = server.packet(Kind.INITIAL, 1, crypto(0, message(8, extensions())))

    assert [] == client.receive(early)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x1e", id="a frame of 1-RTT packets"),
        pytest.param(b"\x06\x00", id="half a CRYPTO frame"),
        pytest.param(b"\x02\x00\x00\x7f\xff\x00", id="an ACK of ranges that are not there"),
        pytest.param(crypto(0, message(11, b"\0\0\0\0")), id="no ServerHello"),
        pytest.param(crypto(0, message(2, b"\x03\x03")), id="half a ServerHello"),
    ],
)
def test_nonsense_that_authenticates_ends_the_handshake(payload):
    client, server = connected()
    with pytest.raises(HandshakeFailed):
        client.receive(server.packet(Kind.INITIAL, 0, payload))


def test_what_is_nobodys_is_dropped():
    client, server = connected()
    flight = server.flight()
    begin = quic_packets.header(Kind.INITIAL, client._source, SOURCE)
    others = [
        b"",
        b"\x40" + bytes(50),  # 1-RTT
        b"\xc0\0\0\0\x01",  # cut off
        begin + b"\x40\x20" + bytes(32),  # not by its keys
        flight[0].replace(client._source, b"somebody"),
        server.packet(Kind.INITIAL, 0, bytes(quic.RECEIVED)),  # longer than any may be
        server.packet(Kind.INITIAL, 0, b"\x01", source=bytes(quic_packets.ID_MAX + 1)),
    ]

    assert [[]] * len(others) == [client.receive(other) for other in others]
    feed(client, server, flight)
    assert LEAF == client.shown.leaf


def test_all_of_a_servers_is_from_one_connection_id():
    """RFC 9000 section 7.2: what comes from another is of somebody who has seen the hello."""
    client, server = connected()
    first, *rest = server.flight()
    feed(client, server, [first])
    closed = quic_packets.close()

    assert [] == client.receive(server.packet(Kind.HANDSHAKE, 9, closed, source=b"somebody"))
    feed(client, server, rest)
    assert LEAF == client.shown.leaf


def test_a_server_that_has_proved_all_may_close():
    client, server = connected()
    first, *others, last = server.flight()
    feed(client, server, [first, *others])
    (packet,) = packets(last)
    number, payload = server.handshake[1].open(packet.data, packet.at, -1)
    feed(client, server, [server.packet(Kind.HANDSHAKE, number, payload + quic_packets.close())])

    assert LEAF == client.shown.leaf


def test_datagrams_without_end_are_not_read():
    client, _ = connected()
    with pytest.raises(HandshakeFailed, match="datagrams"):
        for _ in range(quic.DATAGRAMS_MAX + 1):
            client.receive(b"\x40")


def mutated(rng, data):
    """Return bytes like these, but for what a byte or two of chance make of them."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice([0, 0x3F, 0x40, 0x7F, 0xBF, 0xC0, 0xFF])
            case 2:
                del changed[at : at + rng.randint(1, 40)]
            case _:
                changed[at:at] = rng.randbytes(rng.randint(1, 40))
        changed = changed or bytearray(b"\0")
    return bytes(changed)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_server_says_is_a_failure_or_silence_and_no_crash(seed):
    """2,000 flights: as many whose packets are changed on the way as such that authenticate nonsense."""
    rng, ends = random.Random(seed), set()
    for turn in range(100):
        client, server = connected()
        server.issuers = BIG[:2]
        flight = [*server.flight()]
        at = rng.randrange(len(flight))
        if turn % 2:
            flight[at] = mutated(rng, flight[at])
        else:
            kind = Kind.INITIAL if at == 0 else Kind.HANDSHAKE
            (packet,) = packets(flight[at])
            keys = server.initial if at == 0 else server.handshake
            number, payload = keys[1].open(packet.data, packet.at, -1)
            flight[at] = server.packet(kind, number, mutated(rng, payload))
        try:
            for datagram in flight:
                client.receive(datagram)
        except HandshakeFailed as e:
            ends.add(str(e))
        else:
            assert client.shown is None or LEAF == client.shown.leaf

    assert len(ends) > 1, "so that something was tried"


# ---------------------------------------------------------------- paths


@pytest.fixture
async def web(tmp_path):
    """A Caddy, which serves HTTP/3 by itself, and a chain that takes several datagrams."""
    chain, key = PAIR.write(tmp_path, "pair")
    issuers = [authority("x" * 60).certificate.public_bytes(Encoding.PEM) for _ in range(8)]
    chain.write_bytes(PAIR.chain_pem + b"".join(issuers))
    program = caddy.Caddy(tmp_path, certificate=chain, key=key)
    await program.start()
    yield program
    await program.stop()


class _Path(asyncio.DatagramProtocol):
    """One way between a client and a server: gives each datagram as often as ``judge`` says, or later."""

    def __init__(self, judge):
        self._judge, self._count, self._late = judge, itertools.count(), None
        self.to, self.transport, self.peer = None, None, None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.peer = addr
        times = self._judge(next(self._count))
        if times is None:  # behind the next one
            self._late = data
            return
        for each in [data] * times + ([self._late] if self._late else []):
            self.to.transport.sendto(each, self.to.peer)
        self._late = None


class _Flooded(_Path):
    """Sends a Retry for the first hello, as a server does that is flooded."""

    def __init__(self):
        super().__init__(lambda _: 1)
        self.after = None

    def datagram_received(self, data, addr):
        (packet, *_) = packets(data)
        if self.after is not None:
            self.after.append(packet)
            super().datagram_received(data, addr)
            return
        self.after = []
        self.transport.sendto(retry(packet.source, packet.destination, b"elsewhere", b"token"), addr)


@asynccontextmanager
async def path(port, *, there=lambda _: 1, back=lambda _: 1, near=None):
    """Lead to a port, by a path that loses, repeats and reorders."""
    loop = asyncio.get_running_loop()
    near, far = near or _Path(there), _Path(back)
    near.to, far.to = far, near
    await loop.create_datagram_endpoint(lambda: near, local_addr=("127.0.0.1", 0))
    await loop.create_datagram_endpoint(lambda: far, remote_addr=("127.0.0.1", port))
    far.peer = None
    far.datagram_received = lambda data, _: _Path.datagram_received(far, data, None)
    try:
        yield near.transport.get_extra_info("sockname")[1]
    finally:
        near.transport.abort()
        far.transport.abort()


async def shake(port, *kinds, within_s=TIMEOUT_S):
    return await quic.shake("127.0.0.1", port, NAME, kinds or [*KeyKind], within_s=within_s)


LOSSES = {
    "nothing": {},
    "the hello": {"there": lambda at: 0 if at == 0 else 1},
    "the first answer": {"back": lambda at: 0 if at == 0 else 1},
    "the second answer": {"back": lambda at: 0 if at == 1 else 1},
    "the third answer": {"back": lambda at: 0 if at == 2 else 1},
    "our first words after the hello": {"there": lambda at: 0 if at == 1 else 1},
    "every third one": {
        "there": lambda at: 0 if at % 3 == 2 else 1,
        "back": lambda at: 0 if at % 3 == 1 else 1,
    },
    "none, but repeats": {"there": lambda _: 2, "back": lambda _: 3},
    "none, but swaps": {"back": lambda at: None if at % 2 == 0 else 1},
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_path_that_loses_is_got_over(loss, web):
    async with path(web.port, **LOSSES[loss]) as port:
        shown = await shake(port)

    assert LEAF == shown.leaf


async def test_who_loses_all_says_so_in_time(web):
    async with path(web.port, there=lambda _: 0) as port:
        with pytest.raises(HandshakeFailed, match=r"within 0.3 s, nor said anything: does UDP come through"):
            await shake(port, within_s=0.3)


async def test_a_server_that_goes_silent_is_left(web):
    async with path(web.port, back=lambda at: 1 if at == 0 else 0) as port:
        with pytest.raises(HandshakeFailed, match=r"it did not finish a handshake within 0.3 s$"):
            await shake(port, within_s=0.3)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_nobody_there_is_heard_at_once(host):
    with pytest.raises(ConnectionRefusedError):
        await quic.shake(host, free_port(), NAME, [*KeyKind], within_s=TIMEOUT_S)


async def test_a_server_that_wants_to_see_an_address_first_is_answered(web):
    near = _Flooded()
    async with path(web.port, near=near) as port:
        shown = await shake(port)

    assert LEAF == shown.leaf
    assert {b"elsewhere"} == {packet.destination for packet in near.after[:1]}


async def test_a_server_that_wants_a_client_certificate_shows_its_leaf(web, tmp_path):
    """It refuses who has none, after it has proved to hold the key."""
    ca = CA.write(tmp_path / "ca.pem")
    text = web.config.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("\ttls "))
    wants = f"{line} {{\nclient_auth {{\nmode require_and_verify\ntrust_pool file {ca}\n}}\n}}"
    web.config.write_text(text.replace(line, wants))
    await web.stop()
    await web.start()

    assert LEAF == (await shake(web.port)).leaf


async def test_a_server_that_has_no_leaf_of_the_type_refuses(web):
    with pytest.raises(HandshakeFailed, match=r"it refused the handshake \(TLS alert 40\)"):
        await shake(web.port, KeyKind.RSA)
