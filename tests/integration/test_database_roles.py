"""Roles of the database, on a real PostgreSQL: who may what, and who may make them."""

import re
import secrets
from contextlib import asynccontextmanager

import asyncpg
import pytest

from sds_server.errors import SchemaMismatch
from sds_server.foundation import prepare_schema
from sds_server.inventory.database import open_database, statements
from sds_server.inventory.schema import bring_up
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.databases import empty_database
from tests.support.edge import Edge, grants
from tests.support.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "database-roles.md"
SCHEMA_S = {"lock_migrations", "try_lock_migrations", "insert_migration", "set_up_roles", "become"}
"""Statements that whoever migrates runs."""

FUNCTIONS = """
SELECT prosrc FROM pg_proc
 WHERE pronamespace = 'public'::regnamespace AND prosrc IS NOT NULL AND proname <> 'set_up_roles'
"""


async def up(connect, *, again=False):
    opened = await open_database(connect, size=1)
    try:
        return await bring_up(opened, again=again)
    finally:
        await opened.close()


async def login(connect, sql, *, member_of=(), options=""):
    """Make a login of this database; returns its connection arguments."""
    name, password = f"{connect['database']}_login{secrets.token_hex(3)}", secrets.token_hex(8)
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' {options}")
    for part in member_of:
        await sql.execute(f"GRANT {connect['database']}_{part} TO {name}")
    return {**connect, "user": name, "password": password}


@asynccontextmanager
async def session(connect):
    connection = await asyncpg.connect(**connect)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def admin(connect):
    async with session(connect) as connection:
        yield connection


@pytest.fixture
async def bare_admin(bare):
    async with session(bare) as connection:
        yield connection


@pytest.fixture
async def app(connect, admin):
    await up(connect)
    async with session(await login(connect, admin, member_of=["app"])) as connection:
        yield connection


@pytest.fixture
async def responder(connect, admin):
    await up(connect)
    async with session(await login(connect, admin, member_of=["responder"])) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE certaudit SET actor = 'nobody'",
        "DELETE FROM certaudit",
        "TRUNCATE certaudit",
        "ALTER TABLE certaudit DISABLE TRIGGER ALL",
        "ALTER TABLE certaudit DISABLE TRIGGER certaudit_append_only",
        "DROP TRIGGER certaudit_append_only ON certaudit",
        "SET session_replication_role = replica",
        "INSERT INTO certaudit (id, action, actor, subject, payload) VALUES (1, 'a', 'b', 'c', 'd')",
        "INSERT INTO certaudit (timestamp, action, actor, subject, payload) SELECT now(), '', '', '', ''",
        "SELECT setval('certaudit_id_seq', 1)",
        "DROP TABLE secret",
        "ALTER TABLE secret ADD COLUMN mine text",
        "UPDATE certificate SET fingerprint = 'another'",
        "UPDATE key_material SET spki_sha256 = spki_sha256",
        "DELETE FROM key_material",
        "UPDATE schema_migration SET checksum = 'x'",
        "UPDATE role_right SET rights = 'ALL'",
        "CREATE TABLE mine (id int)",
        "CREATE OR REPLACE FUNCTION certvoy_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
    ],
)
async def test_what_a_control_plane_may_not(app, statement):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(statement)


async def test_a_control_plane_becomes_no_migrator_and_reads_and_adds_to_the_audit(app, connect):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(f"SET ROLE {connect['database']}_migrator")
    await app.execute("INSERT INTO certaudit (action, actor, subject, payload) VALUES ('a', 'b', 'c', 'd')")

    assert [("b", "c")] == [tuple(row) for row in await app.fetch("SELECT actor, subject FROM certaudit")]


async def test_a_responder_reads_answers_and_nothing_else(responder, admin):
    tables = [
        row["t"]
        for row in await admin.fetch("SELECT tablename AS t FROM pg_tables WHERE schemaname = 'public'")
    ]
    readable = []
    for table in tables:
        columns = await admin.fetch(
            "SELECT attname AS c FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0", table
        )
        for column in columns:
            try:
                await responder.fetch(f'SELECT "{column["c"]}" FROM "{table}"')
            except asyncpg.InsufficientPrivilegeError:
                continue
            readable.append(f"{table}.{column['c']}")

    assert "key_material" in tables
    assert ["expires_at", "key_authorization", "token"] == sorted(
        it.removeprefix("challenge_token.") for it in readable
    )
    assert [] == await responder.fetch(statements()["token"], "token")
    for refused in (
        "DELETE FROM challenge_token",
        "INSERT INTO challenge_token (token) VALUES ('x')",
        "CREATE TABLE t ()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await responder.execute(refused)


async def test_every_statement_of_a_control_plane_is_one_that_it_may_run(app):
    """EXPLAIN asks for the rights that the statement needs, and runs nothing."""
    refused = {}
    for name, statement in statements().items():
        if name in SCHEMA_S:
            continue
        prepared = await app.prepare(statement)
        nulls = ", ".join("NULL" for _ in prepared.get_parameters())
        await app.execute(f"PREPARE it AS {statement}")
        try:
            await app.execute(f"EXPLAIN EXECUTE it{f'({nulls})' if nulls else ''}")
        except asyncpg.InsufficientPrivilegeError as e:
            refused[name] = str(e)
        await app.execute("DEALLOCATE it")

    assert {} == refused


async def test_every_table_says_what_a_control_plane_may_do_with_it(database, sql):
    silent = await sql.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        " AND tablename NOT IN (SELECT relation FROM role_right WHERE part = 'app')"
    )
    unknown = await sql.fetch("SELECT relation FROM role_right WHERE to_regclass(relation) IS NULL")

    assert ["role_right"] == [row["tablename"] for row in silent]
    assert [] == unknown


async def test_no_right_is_given_that_no_statement_and_no_trigger_needs(database, sql):
    functions = "\n".join(row["prosrc"] for row in await sql.fetch(FUNCTIONS))
    text = "\n".join(body for name, body in statements().items() if name not in SCHEMA_S) + functions
    for row in await sql.fetch("SELECT relation, rights FROM role_right WHERE part = 'app'"):
        table = row["relation"]
        needs = {
            "SELECT": rf"(FROM|JOIN|,)\s+{table}\b",
            "INSERT": rf"INSERT INTO {table}\b",
            "UPDATE": rf"UPDATE {table}\b|INSERT INTO {table}\b[^;]*DO UPDATE",
            "DELETE": rf"DELETE FROM {table}\b",
        }
        given = re.findall("[A-Z]+", row["rights"])
        assert [] == [right for right in given if not re.search(needs[right], text)], table


async def test_an_owner_who_may_make_no_roles_is_told_what_to_run(bare, bare_admin, tmp_path):
    """As on a managed PostgreSQL: all works without, and with once somebody else has made them."""
    owner = await login(bare, bare_admin)
    await bare_admin.execute(f"ALTER DATABASE {bare['database']} OWNER TO {owner['user']}")
    schema = await up(owner)
    began_as = await prepare_schema(owner)
    plane = ControlPlane(tmp_path, database=dsn(owner))
    (tmp_path / "url").write_text(dsn(owner))
    code, said = await plane.command("migrate", "--database-file", str(tmp_path / "url"))
    assert 0 == code, said
    await bare_admin.execute(said[said.index("CREATE ROLE") :])
    later = await prepare_schema(owner)

    assert f"the role {bare['database']}_migrator is missing" in schema.hinders
    assert None is began_as
    assert f"{bare['database']}_app" == later
    assert f"{bare['database']}_migrator" == await bare_admin.fetchval(
        "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'certaudit'"
    )
    assert None is (await up(owner, again=True)).hinders


async def test_who_only_may_connect_keeps_no_control_plane_from_starting(connect, responder):
    """Advisory locks are everybody's: what answers on port 80, broken into, could take that of migrations."""
    await responder.execute("SELECT pg_advisory_lock(4951760157)")

    assert () == tuple((await up(connect)).applied)


async def test_a_session_that_is_the_app_stays_it_unless_it_is_told_to_be_the_login_again(connect, admin):
    """The page says so: a role that was taken is no wall against who runs statements of their own."""
    become = (await up(connect)).become
    async with session({**connect, "server_settings": {"role": become}}) as sql:
        found = []
        for statement in ("RESET ROLE", "RESET ALL", "SELECT set_config('role', 'none', false)"):
            await sql.execute(statement)
            found.append(await sql.fetchval("SELECT current_user") == become)

    assert [True, True, False] == found


async def test_who_may_make_roles_makes_them_and_goes_on_migrating(bare, bare_admin):
    owner = await login(bare, bare_admin, options="CREATEROLE")
    await bare_admin.execute(f"ALTER DATABASE {bare['database']} OWNER TO {owner['user']}")
    role = await prepare_schema(owner)
    await bare_admin.execute("DELETE FROM schema_migration WHERE name = '0024_accounts'")
    await bare_admin.execute("DROP TABLE validation_failure")
    await bare_admin.execute("ALTER TABLE acme_account DROP COLUMN next_key_id")
    again = await up(owner)

    assert f"{bare['database']}_app" == role
    assert (["0024_accounts"], None) == (again.applied, again.hinders)
    assert await bare_admin.fetchval(f"SELECT has_table_privilege('{role}', 'validation_failure', 'DELETE')")


async def test_a_superuser_serves_as_the_app(connect):
    """Its pool, and the connection that listens."""
    role = await prepare_schema(connect)
    opened = await open_database(connect, size=1, role=role)
    async with opened.transaction() as tx:
        pool = await tx._connection.fetchval("SELECT current_user")
    listening = await opened.listen()
    listens = await listening.fetchval("SELECT current_user")
    await listening.close()
    await opened.close()

    assert f"{connect['database']}_app" == pool == listens


async def test_rights_that_somebody_gave_besides_are_taken(connect, admin):
    await up(connect)
    await admin.execute(f"GRANT ALL ON certaudit TO {connect['database']}_app")
    await admin.execute(f"GRANT SELECT (envelope) ON key_material TO {connect['database']}_responder")
    await up(connect, again=True)

    assert not await admin.fetchval(
        f"SELECT has_table_privilege('{connect['database']}_app', 'certaudit', 'UPDATE, DELETE, TRUNCATE')"
    )
    assert not await admin.fetchval(
        f"SELECT has_any_column_privilege('{connect['database']}_responder', 'key_material', 'SELECT')"
    )


async def test_two_databases_of_one_cluster_share_no_rights(connect, admin, postgres):
    await up(connect)
    mine = await login(connect, admin, member_of=["app"])
    async with empty_database(postgres) as other:
        await up(other)
        async with session({**mine, "database": other["database"]}) as stranger:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await stranger.fetch("SELECT name FROM secret")


async def test_a_control_plane_may_not_migrate_and_says_what_is_missing(connect, admin):
    await up(connect)
    serve = await login(connect, admin, member_of=["app"])
    nothing = await up(serve)
    await admin.execute("DELETE FROM schema_migration WHERE version > 23")
    with pytest.raises(SchemaMismatch, match=f"lacks 0024_accounts.*{serve['user']} may not change it") as e:
        await up(serve)

    assert ([], None) == (nothing.applied, nothing.become)
    assert "certvoy migrate" in e.value.next_step


@pytest.mark.parametrize("member_of", [[], ["responder"]])
async def test_a_login_of_another_role_is_told_whose_it_should_be(connect, admin, member_of):
    """What `certvoy serve` is given where somebody takes the responder's login for it."""
    await up(connect)
    wrong = await login(connect, admin, member_of=member_of, options="CONNECTION LIMIT 3")
    with pytest.raises(SchemaMismatch, match=f"{wrong['user']} may not read the tables") as e:
        await up(wrong)

    assert f"a member of {connect['database']}_app: docs/how-to" in e.value.next_step


async def test_an_empty_database_is_not_begun_by_who_may_not(bare, bare_admin):
    with pytest.raises(SchemaMismatch, match="it is empty"):
        await up(await login(bare, bare_admin))


@pytest.fixture
async def ca(tmp_path):
    http01_port = free_port()
    (tmp_path / "caddy").mkdir()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{http01_port}")
    caddy.http01_port = http01_port
    yield caddy
    await caddy.stop()


@pytest.mark.timeout(600)
async def test_the_page_s_logins_migrate_serve_rotate_and_complete(postgres, ca, tmp_path):
    """Its SQL as it stands, but for the database's name; then a whole control plane, and a real Envoy."""
    (sql,) = blocks(PAGE.read_text(), "sql")
    async with empty_database(postgres) as connect, session({**postgres}) as admin:
        name = connect["database"]
        await admin.execute(f"DROP DATABASE {name}")
        for statement in sql.replace("certvoy", name).split(";"):
            if statement.strip():
                await admin.execute(statement)

        def url(user, password):
            return dsn({**connect, "user": f"{name}_{user}", "password": password.replace(" ", "%20")})

        plane = ControlPlane(tmp_path, database=url("serve", "another"), http01_port=ca.http01_port)
        plane.issuer(ca.directory_url, ca.ca_file)
        plane.settings["grants"] = grants("www")
        (tmp_path / "url").write_text(url("migrate", "one of its own"))
        plane.write()
        code, refused = await plane.command("serve")
        assert "it is empty" in refused
        assert 0 != code
        code, said = await plane.command("migrate", "--database-file", str(tmp_path / "url"))
        assert 0 == code, said
        assert f"{name}_migrator owns, {name}_app serves" in said

        edge = Edge(tmp_path, plane, name="edge-1")
        try:
            await plane.start()
            await edge.start()
            await until(edge.served)
            first = await edge.served()
            at = f"{HOST}:{edge.ports['www']}"
            code, said = await plane.command("targets", "add", "edge-1", "--probe", at, "--secret", "www")
            assert 0 == code, said
            code, said = await plane.command("rotate", "www", "--wait", "--timeout", "180s")
            assert 0 == code, said
            second = await edge.served()
        finally:
            await edge.stop()
            await plane.stop()
        async with session(connect) as looking:
            users = await looking.fetch("SELECT DISTINCT outcome FROM certrotation")
        assert first != second
        assert {"completed", "completed_unobserved"} >= {row["outcome"] for row in users}
        assert "permission denied" not in plane.log()
        assert "loop.crashed" not in plane.log()
