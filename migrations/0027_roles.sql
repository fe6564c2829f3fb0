-- When the key of an order that was given up is destroyed; null: it is not to be, or was.
ALTER TABLE acme_order ADD COLUMN key_until timestamptz;
UPDATE acme_order SET key_until = certvoy_now() + interval '7 days' WHERE state = 'abandoned';
CREATE INDEX acme_order_key_until ON acme_order (key_until) WHERE key_until IS NOT NULL;
-- Those that are forgotten, the oldest first; and their orders.
CREATE INDEX certrotation_completed ON certrotation (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX acme_order_rotation ON acme_order (rotation_id);

-- Three roles of this database, none of which logs in: migrator owns what is here, app is what a control plane may, and responder
-- what may answer challenges. Logins are their members. The names begin with the database's, as roles are the whole cluster's.
CREATE FUNCTION role_of(part text) RETURNS name LANGUAGE sql STABLE AS $$
    SELECT ((CASE WHEN octet_length(d) > 52 THEN left(d, 40) || '_' || left(md5(d), 8) WHEN starts_with(d, 'pg_') THEN 'certvoy_' || d
                  ELSE d END) || '_' || part)::name FROM CAST(current_database() AS text) AS d
$$;

-- What app and responder may do with a table. A migration that makes a table says so here; set_up_roles() brings it about.
CREATE TABLE role_right (
    part     text NOT NULL CHECK (part IN ('app', 'responder')),
    relation text NOT NULL,
    rights   text NOT NULL,
    PRIMARY KEY (part, relation)
);
INSERT INTO role_right (part, relation, rights) VALUES
    ('app', 'acme_account', 'SELECT, INSERT, UPDATE'),
    ('app', 'acme_order', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'api_token', 'SELECT, INSERT, UPDATE'),
    ('app', 'audit_tally', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'canary', 'SELECT, INSERT, DELETE'),
    ('app', 'census', 'SELECT, UPDATE'),
    -- Neither number nor time of an entry are the writer's to choose.
    ('app', 'certaudit', 'SELECT, INSERT (cert_id, action, actor, subject, payload)'),
    ('app', 'certificate', 'SELECT, INSERT, UPDATE (status, replaced_at, revoked_at, renew_at, renew_reason)'),
    ('app', 'certificate_chain', 'SELECT, INSERT'),
    ('app', 'certrotation', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'challenge_token', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'challenge_value', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'control_ca', 'SELECT, INSERT'),
    ('app', 'delivery', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'deployment', 'SELECT, UPDATE (version_key_wrapped, version_key_kek)'),
    ('app', 'enrolment_token', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'identity_grant', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'issuer_pause', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'issuer_trouble', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'key_material', 'SELECT, INSERT, UPDATE (envelope, dek_wrapped, kek_uri, kek_version, destroyed_at)'),
    ('app', 'key_request', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'on_demand_name', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'on_demand_rule', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'payload', 'SELECT, INSERT, UPDATE (completed_at, outcome, evidence, error, look_at, stage)'),
    ('app', 'payload_canary', 'SELECT, INSERT'),
    ('app', 'proxy', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'rate_bucket', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'rate_reservation', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'refused_content', 'SELECT, INSERT, DELETE'),
    ('app', 'renewal_info', 'SELECT, INSERT, UPDATE'),
    ('app', 'replica', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'retired_key', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'revocation', 'SELECT, INSERT, UPDATE'),
    ('app', 'rights_change', 'SELECT, INSERT, DELETE'),
    ('app', 'schema_migration', 'SELECT'),
    ('app', 'secret', 'SELECT, INSERT, UPDATE'),
    ('app', 'secret_count', 'SELECT, INSERT, DELETE'),
    ('app', 'staple', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'target', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'target_instance', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'ticket_schedule', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'validation_failure', 'SELECT, INSERT, DELETE'),
    ('responder', 'challenge_token', 'SELECT (token, key_authorization, expires_at)');

-- Make the roles where whoever asks may, give them what they own, and exactly what they may. What is null is as it should be; else
-- it says what hinders, and nothing was changed.
CREATE FUNCTION set_up_roles() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    migrator CONSTANT name := role_of('migrator');
    app      CONSTANT name := role_of('app');
    answers  CONSTANT name := role_of('responder');
    here     CONSTANT name := current_schema();
    me       CONSTANT pg_roles := (SELECT r FROM pg_roles r WHERE rolname = current_user);
    part     name;
    thing    text;
    item     record;
BEGIN
    FOREACH part IN ARRAY ARRAY[migrator, app, answers] LOOP
        IF part NOT IN (SELECT rolname FROM pg_roles) THEN
            IF NOT (me.rolsuper OR me.rolcreaterole) THEN
                RETURN format('the role %s is missing, and %s may not make it', part, current_user);
            END IF;
            EXECUTE format('CREATE ROLE %I NOLOGIN', part);
            IF NOT me.rolsuper THEN  -- who made it may give it away, and is no member yet
                EXECUTE format('GRANT %I TO %I', part, current_user);
            END IF;
        END IF;
    END LOOP;
    IF NOT pg_has_role(migrator, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
        RETURN format('%s is no member of the role %s', current_user, migrator);
    END IF;

    IF NOT has_schema_privilege(migrator, here, 'CREATE') THEN
        EXECUTE format('GRANT CREATE, USAGE ON SCHEMA %I TO %I', here, migrator);
    END IF;
    IF NOT (has_schema_privilege(app, here, 'USAGE') AND has_schema_privilege(answers, here, 'USAGE')) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I, %I', here, app, answers);
    END IF;
    IF has_schema_privilege(app, here, 'CREATE') THEN  -- as clusters from before PostgreSQL 15 let everybody
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, %I, %I', here, app, answers);
    END IF;

    FOREACH thing IN ARRAY ARRAY(
        SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = here::regnamespace AND c.relkind = 'r' AND c.relowner <> migrator::regrole
           AND (c.relname = 'role_right' OR c.relname IN (SELECT relation FROM role_right))) LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', thing, migrator);
    END LOOP;
    FOREACH thing IN ARRAY ARRAY(
        SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.pronamespace = here::regnamespace AND p.proowner <> migrator::regrole
           AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')) LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', thing, migrator);
    END LOOP;
    FOR item IN SELECT c.oid::regclass AS it FROM pg_class c
                 WHERE c.relnamespace = here::regnamespace AND c.relkind = 'r' AND c.relowner = migrator::regrole LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I, %I', item.it, app, answers);
    END LOOP;
    FOR item IN SELECT r.rights, to_regclass(format('%I.%I', here, r.relation)) AS it, role_of(r.part) AS role FROM role_right r LOOP
        EXECUTE format('GRANT %s ON %s TO %I', item.rights, item.it, item.role);
    END LOOP;
    -- The numbers of what it inserts.
    FOR item IN SELECT s.oid::regclass AS it FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype IN ('a', 'i')
                 JOIN role_right r ON r.part = 'app' AND to_regclass(format('%I.%I', here, r.relation)) = d.refobjid
                WHERE s.relkind = 'S' AND r.rights LIKE '%INSERT%' LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', item.it, app);
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN format('%s may not set them up: %s', current_user, SQLERRM);
END $$;
