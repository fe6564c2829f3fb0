"""Looks at what a selector of Envoy's chose: /certs does not list it, so only a handshake shows it."""

from sds_server.inventory.voices import Wanted
from sds_server.lifecycle import looks
from sds_server.model import Target, TargetId, TargetKind

NOBODY = "127.0.0.1:1"


async def test_envoys_own_statement_is_not_asked_about_what_it_does_not_list():
    target = Target(TargetId(1), "edge-1", TargetKind.ENVOY, None, "edge-1", None, True, admin=NOBODY)
    told = []
    wanted = Wanted(["a.test"], 1, "ab", "cd", None, on_demand=True)
    look = await looks.look(target, wanted, told=told.append)

    assert (None, looks.UNLISTED) == (look.by, look.error)
    assert ["unprobed"] == told
