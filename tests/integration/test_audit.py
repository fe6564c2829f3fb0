"""Every transaction that changes something has its audit row, seen on a real issuance from end to end."""

from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until

# Not of these: a lease that is extended, a look that one replica has for itself, marks of deliveries (the
# first of a kind is history), tokens.
TABLES = [
    "secret",
    "certificate",
    "certificate_chain",
    "certrotation",
    "acme_account",
    "acme_order",
    "key_material",
    "target",
]

WATCH = """
CREATE TABLE changed (xid xid8, tab text, op text);
GRANT INSERT ON changed TO PUBLIC;  -- whoever makes the change, and a control plane is not the owner
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'certrotation' AND TG_OP = 'UPDATE' THEN
        IF to_jsonb(OLD) - ARRAY['leased_until', 'look_at']
            = to_jsonb(NEW) - ARRAY['leased_until', 'look_at'] THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_TABLE_NAME = 'target' AND TG_OP = 'UPDATE' THEN
        IF to_jsonb(OLD) - 'last_seen' = to_jsonb(NEW) - 'last_seen' THEN RETURN NULL; END IF;
    END IF;
    INSERT INTO changed VALUES (pg_current_xact_id(), TG_TABLE_NAME, TG_OP);
    RETURN NULL;
END $$;
"""


async def test_no_change_without_its_audit_row(connect, sql, tmp_path):
    await sql.execute(WATCH)
    for table in TABLES:
        await sql.execute(
            f"CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION watch()"
        )
    port = free_port()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{port}")
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=port)
    plane.issuer(caddy.directory_url, caddy.ca_file)
    await plane.start()

    async def completed(count):
        done = "SELECT count(*) FROM certrotation WHERE outcome = 'completed_unobserved'"
        return await sql.fetchval(done) == count

    try:
        await until(lambda: completed(1))
        await plane.command("targets", "add", "edge-1", "--probe", f"{HOST}:1")
        await plane.command("rotate", "www")
        await until(lambda: completed(2))
        await plane.command("targets", "rm", "edge-1")
    finally:
        await plane.stop()
        await caddy.stop()

    silent = await sql.fetch(
        "SELECT DISTINCT tab, op FROM changed WHERE xid NOT IN (SELECT xid FROM certaudit) ORDER BY 1, 2"
    )
    assert [] == [tuple(row) for row in silent]
    assert set(TABLES) == {row["tab"] for row in await sql.fetch("SELECT DISTINCT tab FROM changed")}
    actors = {
        row["actor"].partition(":")[0] for row in await sql.fetch("SELECT DISTINCT actor FROM certaudit")
    }
    assert {"config", "replica", "person"} == actors
