"""What systemd is told, over a real datagram socket."""

import asyncio
import os
import socket

import pytest

from sds_server.systemd import Systemd


@pytest.fixture(params=["path", "abstract"])
def inbox(request, tmp_path):
    """Where systemd would listen: (its name in NOTIFY_SOCKET, the socket)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        if request.param == "path":
            name = str(tmp_path / "notify")
            channel.bind(name)
        else:
            name = f"@certvoy-test-{os.getpid()}"
            channel.bind("\0" + name[1:])
        channel.settimeout(5)
        yield name, channel


def test_nothing_is_told_where_nobody_listens():
    Systemd.of({}).ready()

    assert Systemd(None, None) == Systemd.of({"NOTIFY_SOCKET": ""})


def test_ready_and_stopping_are_told_once_each(inbox):
    name, channel = inbox
    systemd = Systemd.of({"NOTIFY_SOCKET": name})
    systemd.ready()
    systemd.stopping()

    assert [b"READY=1", b"STOPPING=1"] == [channel.recv(64), channel.recv(64)]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
    ],
)
def test_the_watchdog_is_fed_only_where_it_waits_for_this_process(environment, expected):
    assert expected == Systemd.of(environment).watchdog_s


async def test_the_watchdog_is_fed_by_the_event_loop_in_less_than_half_its_time(inbox):
    name, channel = inbox
    channel.setblocking(False)
    systemd = Systemd.of({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000"})
    loop = asyncio.get_running_loop()
    feeding = asyncio.create_task(systemd.feed_watchdog())
    times = []
    for _ in range(3):
        assert b"WATCHDOG=1" == await loop.sock_recv(channel, 64)
        times.append(loop.time())
    feeding.cancel()

    assert times[2] - times[0] < 0.3
    assert times[1] - times[0] > 0.05


async def test_without_a_watchdog_feeding_ends_at_once(inbox):
    await Systemd.of({"NOTIFY_SOCKET": inbox[0]}).feed_watchdog()
