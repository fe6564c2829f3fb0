"""The schema, its migrations, its statements, and a database that is not there."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from sds_server.errors import SchemaMismatch, Unavailable
from sds_server.inventory import database as databases
from sds_server.inventory import schema as schemas
from sds_server.inventory.database import open_database, statements
from sds_server.inventory.schema import bring_up, migrate

ROOT = Path(__file__).parents[3]

DUMP = """
SELECT 'column', table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, column_default)
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conname || conrelid::regclass, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid)
  FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'options', relname, array_to_string(reloptions, ' ') FROM pg_class
  WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
UNION ALL SELECT 'right', part || ' ' || relation, rights FROM role_right
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2, 3
"""


async def test_schema_sql_is_the_sum_of_the_migrations(connect, sql, postgres):
    migrated = await sql.fetch(DUMP)
    await sql.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await sql.execute((ROOT / "schema.sql").read_text())

    assert migrated == await sql.fetch(DUMP)


async def test_every_statement_is_one_that_this_schema_understands(sql):
    for name, statement in statements().items():
        try:
            await sql.prepare(statement)
        except asyncpg.PostgresError as e:
            pytest.fail(f"{name}: {e}")


def test_every_statement_is_used_and_every_name_exists():
    source = "".join(path.read_text() for path in (ROOT / "sds_server" / "inventory").glob("*.py"))
    used = set(re.findall(r'tx\.(?:rows|row|value|wait)\(\s*"(\w+)"', source))

    assert used == set(statements())


async def test_replicas_that_start_together_migrate_once(bare):
    first, second = await open_database(bare, size=2), await open_database(bare, size=2)
    applied = await asyncio.gather(migrate(first), migrate(second))
    await first.close()
    await second.close()

    assert [0, len(schemas.migrations())] == sorted(map(len, applied))


async def test_replicas_that_start_together_on_tables_without_roles_do_not_wait_for_each_other(connect, sql):
    """As after an upgrade from a release without them: who sets them up changes what the other read."""
    await sql.execute("SELECT pg_advisory_lock(4951760157)")
    opened = [await open_database(connect, size=1) for _ in range(2)]
    starting = [asyncio.create_task(bring_up(database)) for database in opened]
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with asyncio.timeout(30):
        while await sql.fetchval(waiting) < len(starting):
            await asyncio.sleep(0.01)
    await sql.execute("SELECT pg_advisory_unlock(4951760157)")
    standing = await asyncio.gather(*starting)
    for database in opened:
        await database.close()

    assert [None, None] == [schema.hinders for schema in standing]
    assert {f"{connect['database']}_app"} == {schema.become for schema in standing}


async def test_who_comes_second_waits_for_a_migration_that_takes_longer_than_other_locks(
    bare, monkeypatch, caplog
):
    monkeypatch.setattr(databases, "SESSION_SETTINGS", databases.SESSION_SETTINGS | {"lock_timeout": "200ms"})
    migrating = await asyncpg.connect(**bare)
    await migrating.execute("SELECT pg_advisory_lock(4951760157)")
    opened = await open_database(bare, size=1)
    second = asyncio.create_task(migrate(opened))
    await migrating.execute("SELECT pg_sleep(0.6)")
    await migrating.close()
    applied = await second
    async with opened.transaction() as tx:
        limit = await tx._connection.fetchval("SHOW lock_timeout")
    await opened.close()

    assert len(schemas.migrations()) == len(applied)
    assert "schema.awaited" in caplog.text
    assert "200ms" == limit


async def test_a_migration_may_take_longer_than_a_statement(bare, monkeypatch):
    monkeypatch.setattr(
        databases, "SESSION_SETTINGS", {**databases.SESSION_SETTINGS, "statement_timeout": "200ms"}
    )
    all_of_them = schemas.migrations()
    monkeypatch.setattr(
        schemas, "migrations", lambda: [*all_of_them, (9999, "9999_slow", "SELECT pg_sleep(0.4)")]
    )
    opened = await open_database(bare, size=1)
    applied = await migrate(opened)
    async with opened.transaction() as tx:
        limit = await tx._connection.fetchval("SHOW statement_timeout")
    await opened.close()

    assert "9999_slow" in applied
    assert "200ms" == limit


async def test_a_newer_schema_is_refused(database, sql):
    await sql.execute("INSERT INTO schema_migration VALUES (9999, '9999_tomorrow', 'x')")

    with pytest.raises(SchemaMismatch, match="newer than this release, which does not know 9999_tomorrow"):
        await migrate(database)


async def test_a_migration_that_was_changed_is_refused(database, sql):
    await sql.execute("UPDATE schema_migration SET checksum = 'other'")

    with pytest.raises(SchemaMismatch, match="applied in another form"):
        await migrate(database)


async def test_somebody_elses_database_is_left_alone(bare):
    admin = await asyncpg.connect(**bare)
    await admin.execute("CREATE TABLE theirs (id int)")
    await admin.close()
    opened = await open_database(bare, size=1)

    with pytest.raises(SchemaMismatch, match="not certvoy's"):
        await migrate(opened)
    await opened.close()


async def test_a_database_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="database: ") as raised:
        await open_database({"host": str(tmp_path), "user": "nobody", "database": "none"})
    assert "start PostgreSQL" in raised.value.next_step


async def test_a_connection_lost_in_a_transaction_is_unavailable_and_the_pool_goes_on(database, sql):
    with pytest.raises(Unavailable):
        async with database.transaction() as tx:
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await tx.rows("deployment")

    async with database.transaction() as tx:
        assert await tx.row("deployment")
