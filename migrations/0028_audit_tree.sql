-- Which PostgreSQL we are in: numbers of transactions mean nothing in another one, into which a dump was restored.
CREATE FUNCTION certvoy_cluster() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT system_identifier FROM pg_control_system()
$$;

-- What is there now has 0: who wrote it has ended, as this migration waited for that, and who knows where.
ALTER TABLE certaudit ADD COLUMN cluster bigint NOT NULL DEFAULT 0;
ALTER TABLE certaudit ALTER COLUMN cluster SET DEFAULT certvoy_cluster();
CREATE INDEX certaudit_sealing ON certaudit (cluster, xid, id);

-- The Merkle tree over the audit (RFC 9162). An entry's leaf covers every column of it. nodes: the hashes above the leaf that it
-- completes, lowest first. No foreign key: it would lock, and so write, each entry again; that an entry is there verification asks.
CREATE TABLE auditleaf (
    leaf_index bigint PRIMARY KEY CHECK (leaf_index BETWEEN 0 AND 1::bigint << 62),
    event_id   bigint NOT NULL UNIQUE,
    leaf_hash  bytea NOT NULL CHECK (octet_length(leaf_hash) = 32),
    nodes      bytea NOT NULL CHECK (octet_length(nodes) % 32 = 0)
);

-- Its heads, each signed by a key that is not in the database.
CREATE TABLE auditcheckpoint (
    tree_size bigint PRIMARY KEY CHECK (tree_size > 0),
    root      bytea NOT NULL CHECK (octet_length(root) = 32),
    note      text NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT certvoy_now()
);

-- Who seals now, and what comes next: only who has the number of the lease, and knows the tree's size, can append to it.
CREATE TABLE auditsealer (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    lease_no     bigint NOT NULL DEFAULT 0,
    leased_by    text,
    leased_until timestamptz,
    tree_size    bigint NOT NULL DEFAULT 0 CHECK (tree_size >= 0)
);
INSERT INTO auditsealer DEFAULT VALUES;

-- How far that is, in each PostgreSQL that has written entries: all that are older, in the order of (xid, id), have their leaf.
CREATE TABLE auditsealed (
    cluster  bigint PRIMARY KEY,
    xid      xid8 NOT NULL,
    event_id bigint NOT NULL
);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER auditleaf_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auditleaf
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER auditcheckpoint_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auditcheckpoint
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

INSERT INTO role_right (part, relation, rights) VALUES
    ('app', 'auditcheckpoint', 'SELECT, INSERT'),
    ('app', 'auditleaf', 'SELECT, INSERT'),
    ('app', 'auditsealed', 'SELECT, INSERT, UPDATE'),
    ('app', 'auditsealer', 'SELECT, UPDATE');
