"""A real control plane seals its audit, refuses an older one at the start, and goes on when told to."""

import asyncio
import json

import pytest

from sds_server.audit import checkpoint, witness
from sds_server.programs.child import free_port
from tests.support.audits import cut
from tests.support.control_plane import ControlPlane, dsn, until


@pytest.fixture
async def plane(tmp_path, connect):
    """Without a CA: nobody listens at its issuer's directory."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    yield plane
    if plane.child is not None:
        await plane.stop()


async def test_an_older_audit_is_refused_at_the_start_and_an_acknowledged_one_is_audited(plane, sql):
    state = plane.directory / "state"
    trusted = ["--public-key", state / "audit-key.pub", "--checkpoints", state / "audit-checkpoints.jsonl"]

    async def sealed(action="secret.created"):
        """Whether no entry is without a leaf, and this is among them."""
        left = await sql.fetchval(
            "SELECT count(*) FROM certaudit a WHERE NOT EXISTS (SELECT FROM auditleaf WHERE event_id = a.id)"
        )
        there = await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = $1", action)
        notes = witness.read(state / "audit-checkpoints.jsonl").notes
        newest = await sql.fetchval("SELECT max(tree_size) FROM auditcheckpoint")
        return left == 0 and there > 0 and notes and checkpoint.parse(notes[-1]).size == newest

    await plane.start()
    await until(sealed)
    await plane.command("targets", "add", "edge-1", "--probe", "127.0.0.1:1")
    await until(lambda: sealed("target.registered"))
    verified = await plane.command("audit", "verify", *map(str, trusted))
    size = await sql.fetchval("SELECT count(*) FROM auditleaf")
    assert (0, True) == (verified[0], f"{size} entries are as they were sealed" in verified[1]), verified
    assert 0o600 == (state / "audit-key.pem").stat().st_mode & 0o777
    assert "audit.checkpointed" in plane.log()
    await plane.stop()

    older = await sql.fetchval("SELECT max(tree_size) FROM auditcheckpoint WHERE tree_size < $1", size)
    await cut(sql, older)
    child = plane.launch()
    async with asyncio.timeout(240):
        code = await child.wait()
    said = plane.log().rpartition("certvoy: ")[2]
    assert 1 == code
    assert f"has {older} leaves, and {size} were witnessed in {state / 'audit-checkpoints.jsonl'}" in said
    assert "certvoy serve --acknowledge-fork" in said

    await plane.start("--acknowledge-fork")
    await until(lambda: sealed("audit.fork_accepted"))
    payload = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'audit.fork_accepted'")
    assert size == json.loads(payload)["witnessed"]
    code, said = await plane.command("audit", "verify", *map(str, trusted))
    assert 0 == code, said
    assert "given up" in said
    await plane.stop()

    await plane.start()
