"""Health: the process lives; the replica can serve; and what does not work is named."""

from sds_server.admin.services import Check, Health


async def test_a_dead_part_degrades_and_does_not_unready(api):
    api.checks.append(Check("feed", Health.DEGRADED, "failed 3 times: database: gone"))

    reply = await api.probe("GET", "/readyz")

    assert (200, "degraded") == (reply.status, reply.json["status"])
    assert [{"name": "feed", "health": "degraded", "detail": "failed 3 times: database: gone"}] == reply.json[
        "checks"
    ]


async def test_a_replica_that_cannot_serve_is_not_ready_and_still_alive(api):
    api.checks.append(Check("streams", Health.FAILED, "stopping"))

    assert (503, 200) == (
        (await api.probe("GET", "/readyz")).status,
        (await api.probe("GET", "/healthz")).status,
    )
