-- certvoy's tables: PostgreSQL 15 and newer. This file is the sum of migrations/, proved by a test that compares two dumps.
-- Invariants live here, as keys and indexes, each with its sentence above it; what a status may become is lifecycle/states.py.

-- The one clock of leases, due dates and history: replicas whose clocks differ agree. Tests replace the function to turn it.
CREATE FUNCTION certvoy_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT clock_timestamp()';

CREATE TABLE schema_migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: who we are (bound into every envelope), and the key of the content hashes, wrapped by the KMS.
CREATE TABLE deployment (
    singleton           boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id                  uuid NOT NULL DEFAULT gen_random_uuid(),
    version_key_wrapped bytea,
    created_at          timestamptz NOT NULL DEFAULT certvoy_now(),
    -- Whose KEK wrapped that key; null: the one that was there before this column.
    version_key_kek     text
);
INSERT INTO deployment DEFAULT VALUES;

-- The named, long-lived thing that proxies subscribe to. domains: normalised, the primary first. What it is served with (the
-- highest generation that is not over) stands beside it, null where nothing is issued: metrics count what is wrong by the
-- indexes on that, and read no Certificates.
CREATE TABLE secret (
    name              text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 512),
    kind              text NOT NULL
                      CHECK (kind IN ('tls_certificate', 'validation_context', 'session_ticket_keys', 'generic_secret')),
    domains           text[] NOT NULL DEFAULT '{}',
    issuer            text,
    key_type          text,
    created_at        timestamptz NOT NULL DEFAULT certvoy_now(),
    deleted_at        timestamptz,
    -- What completes its Rotations: all of the live set, a share of it such as 90%, or, where nobody can look, its word.
    proof             text NOT NULL DEFAULT 'all' CHECK (proof ~ '^(all|accepted|[1-9][0-9]?%)$'),
    -- Frozen: nothing new is issued, offered to more Targets, or taken back, until an operator says so.
    frozen_at         timestamptz,
    frozen_by         text,
    frozen_reason     text,
    -- Who makes its private keys: certvoy, or the one Target that serves it.
    key_holder        text NOT NULL DEFAULT 'certvoy' CHECK (key_holder IN ('certvoy', 'target')),
    -- Where an Envoy finds the private key of a Certificate whose Target makes it: a path on its own disk, in which {spki} stands
    -- for the SHA-256 of the public half; null: nowhere, and the Secret is no Envoy's.
    key_file          text CONSTRAINT secret_key_file CHECK (key_file IS NULL OR key_holder = 'target'),
    served_generation integer,
    served_from       timestamptz,
    served_until      timestamptz,
    renew_at          timestamptz,
    -- CAs to fall back to, in order, where the issuer does not deliver.
    fallback          text[] NOT NULL DEFAULT '{}',
    CHECK (kind <> 'tls_certificate' OR (cardinality(domains) > 0 AND issuer IS NOT NULL AND key_type IS NOT NULL)),
    CHECK (num_nonnulls(frozen_at, frozen_by, frozen_reason) IN (0, 3))
);

-- Metrics tell of those that are held, and read no others.
CREATE INDEX secret_frozen ON secret (frozen_at, name) WHERE frozen_at IS NOT NULL;
-- Those that end first are told of by name; these few are expired.
CREATE INDEX secret_ends ON secret (served_until, name) INCLUDE (served_from, renew_at) WHERE deleted_at IS NULL;
CREATE INDEX secret_overdue ON secret (renew_at) WHERE deleted_at IS NULL;
CREATE INDEX secret_unissued ON secret (name) WHERE deleted_at IS NULL AND served_until IS NULL;

-- How many Secrets there are: the sum. Changes are rows of their own, so that nobody waits for a counter; a census adds them up.
CREATE TABLE secret_count (
    change bigint NOT NULL
);

CREATE FUNCTION secret_is_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO secret_count VALUES (CASE WHEN TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL THEN 1 ELSE -1 END);
    RETURN NULL;
END $$;
CREATE TRIGGER secret_created AFTER INSERT ON secret FOR EACH ROW
    WHEN (NEW.kind = 'tls_certificate' AND NEW.deleted_at IS NULL) EXECUTE FUNCTION secret_is_counted();
CREATE TRIGGER secret_deleted AFTER UPDATE ON secret FOR EACH ROW
    WHEN (NEW.kind = 'tls_certificate' AND (OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL))
    EXECUTE FUNCTION secret_is_counted();
CREATE TRIGGER secret_gone AFTER DELETE ON secret FOR EACH ROW
    WHEN (OLD.kind = 'tls_certificate' AND OLD.deleted_at IS NULL) EXECUTE FUNCTION secret_is_counted();

-- A name has one kind for ever: a certificate in a CA's slot is ACKed by Envoy and switches client verification off.
CREATE FUNCTION secret_kind_is_for_ever() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'secret %: its kind is % for ever', OLD.name, OLD.kind USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER secret_kind BEFORE UPDATE ON secret FOR EACH ROW
    WHEN (OLD.kind IS DISTINCT FROM NEW.kind) EXECUTE FUNCTION secret_kind_is_for_ever();

-- Private keys, only ever as envelopes: the key under its own DEK, the DEK wrapped by the KMS.
CREATE TABLE key_material (
    id           uuid PRIMARY KEY,
    purpose      text NOT NULL,
    spki_sha256  bytea NOT NULL CHECK (octet_length(spki_sha256) = 32),
    suite        smallint NOT NULL,
    envelope     bytea,
    dek_wrapped  bytea,
    kek_uri      text NOT NULL,
    kek_version  integer NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT certvoy_now(),
    destroyed_at timestamptz,
    UNIQUE (id, spki_sha256),
    CHECK ((destroyed_at IS NULL) = (dek_wrapped IS NOT NULL))
);
-- Which KEKs and versions are in use, by count, without reading an envelope; and what is still to be rewrapped.
CREATE INDEX key_material_kek ON key_material (kek_uri, kek_version, id) WHERE destroyed_at IS NULL;

-- One immutable issuance for a Secret. The first nine columns are the design document's.
CREATE TABLE certificate (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    domain        text NOT NULL,
    san_domains   jsonb NOT NULL DEFAULT '[]',
    serial_number text NOT NULL,
    not_before    timestamptz NOT NULL,
    not_after     timestamptz NOT NULL,
    status        text NOT NULL DEFAULT 'issued',
    fingerprint   text NOT NULL,
    key_ref       text NOT NULL,
    secret        text NOT NULL REFERENCES secret,
    generation    integer NOT NULL CHECK (generation > 0),
    issuer        text NOT NULL,
    key_id        uuid NOT NULL,
    spki_sha256   bytea NOT NULL,
    order_url     text,
    renew_at      timestamptz NOT NULL,
    renew_reason  text NOT NULL,
    issued_at     timestamptz NOT NULL DEFAULT certvoy_now(),
    replaced_at   timestamptz,
    revoked_at    timestamptz,
    CONSTRAINT chk_cert_status CHECK (
        status IN ('issued', 'active', 'expiring_soon', 'rotating', 'replaced', 'rejected', 'expired', 'revoked')
    ),
    -- A Secret's issuances are counted.
    UNIQUE (secret, generation),
    -- A serial number is unique for its CA (RFC 5280 section 4.1.2.2), not in the world.
    UNIQUE (issuer, serial_number),
    -- A certificate cannot name a key with another public half.
    FOREIGN KEY (key_id, spki_sha256) REFERENCES key_material (id, spki_sha256)
);
-- At most one Certificate of a Secret is current.
CREATE UNIQUE INDEX certificate_one_current ON certificate (secret) WHERE status IN ('issued', 'active', 'expiring_soon');
-- At most one Certificate of a Secret is on its way out.
CREATE UNIQUE INDEX certificate_one_rotating ON certificate (secret) WHERE status = 'rotating';
-- Renewals are found without looking at what is not due.
CREATE INDEX certificate_renew_at ON certificate (renew_at) WHERE status IN ('issued', 'active');
CREATE INDEX certificate_lapse_at ON certificate (not_after)
    WHERE status IN ('issued', 'active', 'expiring_soon', 'rotating', 'replaced');
CREATE INDEX idx_cert_domain ON certificate (domain);

-- Whoever changes a Certificate holds its Secret's lock.
CREATE FUNCTION secret_is_served() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE secret s
       SET served_generation = c.generation, served_from = c.not_before, served_until = c.not_after, renew_at = c.renew_at
      FROM (SELECT) one LEFT JOIN (
            SELECT generation, not_before, not_after, renew_at FROM certificate
             WHERE secret = NEW.secret AND status NOT IN ('replaced', 'rejected', 'revoked')
             ORDER BY generation DESC LIMIT 1) c ON true
     WHERE s.name = NEW.secret
       AND (s.served_generation, s.served_from, s.served_until, s.renew_at)
           IS DISTINCT FROM (c.generation, c.not_before, c.not_after, c.renew_at);
    RETURN NULL;
END $$;
CREATE TRIGGER certificate_stored AFTER INSERT ON certificate FOR EACH ROW EXECUTE FUNCTION secret_is_served();
CREATE TRIGGER certificate_over AFTER UPDATE ON certificate FOR EACH ROW
    WHEN ((OLD.status IN ('replaced', 'rejected', 'revoked')) <> (NEW.status IN ('replaced', 'rejected', 'revoked'))
          OR (OLD.not_before, OLD.not_after, OLD.renew_at) IS DISTINCT FROM (NEW.not_before, NEW.not_after, NEW.renew_at))
    EXECUTE FUNCTION secret_is_served();

-- The chains, apart: the inventory's rows stay small, and listing it reads no PEM.
CREATE TABLE certificate_chain (
    cert_id   uuid PRIMARY KEY REFERENCES certificate,
    chain_pem text NOT NULL
);

-- When a Certificate's CA would like it renewed (RFC 9773): its window, and the moment that was drawn in that, once for all
-- replicas. ask_at: when some replica asks next; null once nobody needs to know. failures: in a row, and why the last one.
CREATE TABLE renewal_info (
    cert_id         uuid PRIMARY KEY REFERENCES certificate,
    ask_at          timestamptz DEFAULT certvoy_now(),
    answered_at     timestamptz,
    window_start    timestamptz,
    window_end      timestamptz,
    pick_at         timestamptz,
    explanation_url text,
    failures        integer NOT NULL DEFAULT 0,
    error           text,
    CHECK (num_nonnulls(window_start, window_end, pick_at) IN (0, 3)),
    CHECK (window_start < window_end)
);
CREATE INDEX renewal_info_ask_at ON renewal_info (ask_at) WHERE ask_at IS NOT NULL;

-- Keys of Certificates that nobody is offered any more, until their data key is destroyed: one row each, made when a Certificate
-- is over.
CREATE TABLE retired_key (
    cert_id    uuid PRIMARY KEY REFERENCES certificate,
    destroy_at timestamptz NOT NULL
);
CREATE INDEX retired_key_destroy_at ON retired_key (destroy_at);

-- The work queue and its history in one row. cert_id is null for the first: there is nothing to replace.
CREATE TABLE certrotation (
    id              bigserial PRIMARY KEY,
    cert_id         uuid REFERENCES certificate,
    triggered_at    timestamptz NOT NULL DEFAULT certvoy_now(),
    new_cert_id     uuid REFERENCES certificate,
    completed_at    timestamptz,
    secret          text NOT NULL REFERENCES secret,
    reason          text NOT NULL CHECK (reason IN ('initial', 'renewal', 'operator', 'changed', 'revoked', 'uploaded')),
    outcome         text CHECK (outcome IN ('completed', 'completed_unobserved', 'superseded')),
    lease_no        bigint NOT NULL DEFAULT 0,
    leased_by       text,
    leased_until    timestamptz,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT certvoy_now(),
    last_error      jsonb,
    -- Who is offered the new Certificate: the canaries, or all. overruled: an operator said to go on despite refusals.
    stage           text NOT NULL DEFAULT 'fleet' CHECK (stage IN ('canary', 'fleet')),
    overruled       boolean NOT NULL DEFAULT false,
    -- When some replica looks at it next; who has an ACK of it looks at once.
    look_at         timestamptz NOT NULL DEFAULT certvoy_now(),
    -- How it was completed: the policy, the live set, and how many of it were proved in which way.
    evidence        jsonb,
    -- When what the Rotation brings, or is to replace, ends: which one is urgent. A first issuance has no such date.
    needed_by       timestamptz NOT NULL DEFAULT 'infinity',
    -- An operator asked for it, when it was opened or later: what is kept of a CA's limits is for these.
    by_hand         boolean NOT NULL DEFAULT false,
    -- Whoever works on it waits for DNS: no worker is held by that, nor a place of those that its issuer has in flight.
    waits_for_dns   boolean NOT NULL DEFAULT false,
    -- When the first order is made, at the earliest: what is due together is not ordered together.
    starts_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    CHECK ((completed_at IS NULL) = (outcome IS NULL))
);
-- At most one open Rotation a Secret.
CREATE UNIQUE INDEX certrotation_one_open ON certrotation (secret) WHERE completed_at IS NULL;
CREATE INDEX certrotation_waiting ON certrotation (next_attempt_at) WHERE completed_at IS NULL AND new_cert_id IS NULL;
CREATE INDEX certrotation_rolling_out ON certrotation (id) WHERE completed_at IS NULL AND new_cert_id IS NOT NULL;

-- The most urgent of those that nobody has tried is found first, however many there are; those to be tried again by their time.
CREATE INDEX certrotation_untried ON certrotation (needed_by, triggered_at)
    WHERE completed_at IS NULL AND new_cert_id IS NULL AND attempts = 0;
CREATE INDEX certrotation_again ON certrotation (next_attempt_at)
    WHERE completed_at IS NULL AND new_cert_id IS NULL AND attempts > 0;
CREATE INDEX certrotation_lapsing ON certrotation (needed_by) WHERE completed_at IS NULL AND new_cert_id IS NOT NULL;

-- Which Rotations are worked on now: orders in flight are bounded for each CA.
CREATE INDEX certrotation_leased ON certrotation (leased_until)
    WHERE completed_at IS NULL AND new_cert_id IS NULL AND leased_until IS NOT NULL;

-- Those that are forgotten, the oldest first.
CREATE INDEX certrotation_completed ON certrotation (completed_at) WHERE completed_at IS NOT NULL;

CREATE FUNCTION certrotation_is_needed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.needed_by := coalesce((SELECT not_after FROM certificate WHERE id = coalesce(NEW.new_cert_id, NEW.cert_id)), 'infinity');
    RETURN NEW;
END $$;
CREATE TRIGGER certrotation_needed BEFORE INSERT OR UPDATE OF cert_id, new_cert_id ON certrotation
    FOR EACH ROW EXECUTE FUNCTION certrotation_is_needed();

-- One account a directory, whichever replica comes first; its key is sealed like any other.
CREATE TABLE acme_account (
    directory_url text NOT NULL,
    key_id        uuid NOT NULL REFERENCES key_material,
    account_url   text,
    status        text NOT NULL DEFAULT 'valid' CHECK (status IN ('valid', 'deactivated')),
    created_at    timestamptz NOT NULL DEFAULT certvoy_now(),
    -- A key that is about to take the place of the account's: the CA may have it already, and nobody has heard.
    next_key_id   uuid REFERENCES key_material,
    PRIMARY KEY (directory_url, key_id)
);
-- At most one usable account a directory.
CREATE UNIQUE INDEX acme_account_one ON acme_account (directory_url) WHERE status = 'valid';

-- An order's steps, each committed before the next is taken; a crash resumes at the last one.
CREATE TABLE acme_order (
    id              bigserial PRIMARY KEY,
    rotation_id     bigint NOT NULL REFERENCES certrotation,
    issuer          text NOT NULL,
    state           text NOT NULL DEFAULT 'planned'
                    CHECK (state IN ('planned', 'ordered', 'finalizing', 'issued', 'stored', 'abandoned')),
    domains         text[] NOT NULL,
    csr             bytea NOT NULL,
    key_id          uuid NOT NULL REFERENCES key_material,
    url             text,
    certificate_url text,
    created_at      timestamptz NOT NULL DEFAULT certvoy_now(),
    updated_at      timestamptz NOT NULL DEFAULT certvoy_now(),
    -- What it said besides its names: the account that made it, and the Certificate that it replaces.
    account_url     text,
    replaces        uuid REFERENCES certificate,
    -- When the key of one that was given up is destroyed; null: it is not to be, or was.
    key_until       timestamptz
);
CREATE INDEX acme_order_key_until ON acme_order (key_until) WHERE key_until IS NOT NULL;
CREATE INDEX acme_order_rotation ON acme_order (rotation_id);
CREATE INDEX acme_order_url ON acme_order (url) WHERE url IS NOT NULL;
CREATE INDEX acme_order_replaces ON acme_order (replaces) WHERE replaces IS NOT NULL;
-- At most one order of a Rotation is under way.
CREATE UNIQUE INDEX acme_order_one_open ON acme_order (rotation_id) WHERE state NOT IN ('stored', 'abandoned');

-- How much is left of CAs' rate limits, by directory, what is counted and of whom: when all of it is there again, and until when the
-- CA itself has closed it. Where there is no row nothing was taken.
CREATE TABLE rate_bucket (
    directory_url text NOT NULL,
    counted       text NOT NULL CHECK (counted IN ('orders', 'domain', 'names', 'failures', 'accounts')),
    of            text NOT NULL,
    full_at       timestamptz NOT NULL,
    closed_until  timestamptz,
    PRIMARY KEY (directory_url, counted, of)
);
CREATE INDEX rate_bucket_full_at ON rate_bucket (full_at);

-- What an order under way has taken and gives back if it ends before it is finalized: a CA counts certificates. Each registered
-- domain has a row, so that orders in flight are counted; cost is nothing where the CA counts none.
CREATE TABLE rate_reservation (
    order_id      bigint NOT NULL REFERENCES acme_order,
    directory_url text NOT NULL,
    counted       text NOT NULL,
    of            text NOT NULL,
    cost          interval NOT NULL,
    PRIMARY KEY (order_id, counted, of)
);
CREATE INDEX rate_reservation_of ON rate_reservation (directory_url, counted, of);

-- Secrets whose keys their Target keeps: which Target that is, and the signing request (DER) that it brought for the next order;
-- null once that was ordered. The names and the type of key are those of the Secret when it was brought.
CREATE TABLE key_request (
    secret      text PRIMARY KEY REFERENCES secret,
    identity    text NOT NULL,
    node_id     text NOT NULL,
    csr         bytea,
    spki_sha256 bytea CHECK (octet_length(spki_sha256) = 32),
    domains     text[],
    key_type    text,
    brought_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    CHECK (num_nonnulls(csr, spki_sha256, domains, key_type) IN (0, 4))
);

-- Names whose validation a CA saw fail in the last day: it counts them, over all Secrets, and so do we.
CREATE TABLE validation_failure (
    issuer     text NOT NULL,
    identifier text NOT NULL,
    type       text NOT NULL,
    failed_at  timestamptz NOT NULL DEFAULT certvoy_now()
);
CREATE INDEX validation_failure_identifier ON validation_failure (identifier, failed_at);
CREATE INDEX validation_failure_failed_at ON validation_failure (failed_at);

-- HTTP-01: any replica answers for any other. What a killed worker left behind goes when its Rotation's attempt ends.
CREATE TABLE challenge_token (
    token             text PRIMARY KEY,
    key_authorization text NOT NULL,
    -- Null: it proves nothing, and somebody looks whether the way to it leads here.
    rotation_id       bigint REFERENCES certrotation,
    expires_at        timestamptz NOT NULL
);
CREATE INDEX challenge_token_rotation ON challenge_token (rotation_id);

-- DNS-01: the values that certvoy has, or may have, in DNS. Written before a provider is asked, gone after it has removed them. What an
-- attempt left behind is due when that ends, and in any case after an hour; who removes it holds it meanwhile.
CREATE TABLE challenge_value (
    name        text NOT NULL,
    value       text NOT NULL,
    issuer      text NOT NULL,
    rotation_id bigint NOT NULL REFERENCES certrotation,
    since       timestamptz NOT NULL DEFAULT certvoy_now(),
    due_at      timestamptz NOT NULL,
    held_until  timestamptz,
    PRIMARY KEY (name, value)
);
CREATE INDEX challenge_value_rotation ON challenge_value (rotation_id);
CREATE INDEX challenge_value_due ON challenge_value (due_at);

-- Whatever serves a Secret. Keyed by (identity, node_id) once it has been seen; a registered one may not have been yet.
CREATE TABLE target (
    id         bigserial PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 1024),
    kind       text NOT NULL DEFAULT 'envoy' CHECK (kind IN ('envoy', 'nginx', 'haproxy', 'traefik', 'caddy', 'files')),
    identity   text,
    node_id    text,
    probe      text,
    registered boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT certvoy_now(),
    last_seen  timestamptz,
    -- Envoy's admin interface, HOST:PORT: where its listener cannot be reached its /certs says what it serves.
    admin      text,
    -- Whether an operator has named its identity: then it speaks for itself, else with the voice of whom it was bound to.
    vouched    boolean NOT NULL DEFAULT false,
    -- Where an agent takes pushed bundles, https://host:port; null: it fetches them alone.
    push       text,
    -- Whether its listener wants a header of the PROXY protocol before TLS: it is behind a load balancer that sends one.
    proxy_protocol boolean NOT NULL DEFAULT false,
    -- Whether it serves HTTP/3 as well, on the same port over UDP: then it is proved over QUIC too.
    http3      boolean NOT NULL DEFAULT false
);
-- One Target a peer: the same identity and node id are the same proxy.
CREATE UNIQUE INDEX target_peer ON target (identity, node_id) WHERE identity IS NOT NULL;
CREATE INDEX target_unseen ON target (last_seen) WHERE NOT registered;
CREATE INDEX target_pushed ON target (id) WHERE push IS NOT NULL;

-- The present state of one Secret at one Target, each mark a generation; bounded, not a log. What is offered is derived.
CREATE TABLE delivery (
    target_id   bigint NOT NULL REFERENCES target ON DELETE CASCADE,
    secret      text NOT NULL,
    registered  boolean NOT NULL DEFAULT false,
    sent        integer,
    accepted    integer,
    refused     integer,
    proved      integer,
    refusal     text,
    probe_error text,
    seen_until  timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    accepted_at timestamptz,
    proved_at   timestamptz,
    proved_by   text CHECK (proved_by IN ('handshake', 'certs', 'agent')),
    -- The leaf that was seen in place of the wanted one, and since when; null: what is wanted was seen last.
    served      text,
    stale_since timestamptz,
    -- How often the same Certificate was offered again as other bytes, so that the proxy judges anew; and when last.
    salt        integer NOT NULL DEFAULT 0,
    salted_at   timestamptz,
    -- When some replica looks next whether it still serves what it was proved to serve.
    look_at     timestamptz NOT NULL DEFAULT certvoy_now(),
    -- The token of a replica with a live stream of it. Two proxies that call themselves alike: how many streams there are on all
    -- replicas, and the generation that each has accepted, null where one has accepted nothing; both null where there is no second.
    replica     text,
    instances   integer,
    agreed      integer,
    -- A push: which bytes it is about (generation and salt), how often it was tried, when it is tried again (null: it was
    -- answered), until when a replica is at it, and why the last one failed.
    push_generation integer,
    push_salt       integer,
    push_attempts   integer NOT NULL DEFAULT 0,
    push_at         timestamptz,
    push_lease      timestamptz,
    push_error      text,
    -- When an agent, whose word is the proof, said last that its program serves it.
    said_at     timestamptz,
    PRIMARY KEY (target_id, secret)
);
CREATE INDEX delivery_secret ON delivery (secret);
CREATE INDEX delivery_salted ON delivery (secret) WHERE salt > 0;
CREATE INDEX delivery_look_at ON delivery (look_at);
CREATE INDEX delivery_stale ON delivery (secret, stale_since) WHERE stale_since IS NOT NULL;

-- The lives of control planes: each says every few seconds that it is there. What a dead one's streams said counts no more.
CREATE TABLE replica (
    token       text PRIMARY KEY,
    name        text NOT NULL,
    alive_until timestamptz NOT NULL
);

-- What the streams of a replica say together, only where a Target has several: its Delivery is the roll-up. Counts until
-- seen_until, which the replica puts off for as long as it has the streams.
CREATE TABLE target_instance (
    target_id  bigint NOT NULL,
    secret     text NOT NULL,
    replica    text NOT NULL,
    streams    integer NOT NULL,
    accepted   integer,
    refused    integer,
    seen_until timestamptz NOT NULL,
    PRIMARY KEY (target_id, secret, replica),
    FOREIGN KEY (target_id, secret) REFERENCES delivery ON DELETE CASCADE
);

-- The Targets that are offered a Rotation's new Certificate before all others.
CREATE TABLE canary (
    rotation_id bigint NOT NULL REFERENCES certrotation ON DELETE CASCADE,
    target_id   bigint NOT NULL REFERENCES target ON DELETE CASCADE,
    asked_at    timestamptz NOT NULL DEFAULT certvoy_now(),
    PRIMARY KEY (rotation_id, target_id)
);

-- What a node has refused, by content: those bytes are never sent again nor, acknowledged later, believed.
CREATE TABLE refused_content (
    identity   text NOT NULL,
    node_id    text NOT NULL,
    secret     text NOT NULL,
    version    text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT certvoy_now(),
    PRIMARY KEY (identity, node_id, secret, version)
);
-- The newest are read at start; those of content that is gone are swept.
CREATE INDEX refused_content_newest ON refused_content (refused_at);

-- What one replica counted of the Deliveries, for all of them. due_at also keeps the others away from the one that counts.
CREATE TABLE census (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    due_at     timestamptz NOT NULL DEFAULT '-infinity',
    begun_at   timestamptz,
    taken_at   timestamptz,
    deliveries jsonb
);
INSERT INTO census DEFAULT VALUES;

-- Which PostgreSQL we are in: numbers of transactions mean nothing in another one, into which a dump was restored.
CREATE FUNCTION certvoy_cluster() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT system_identifier FROM pg_control_system()
$$;

-- Append-only facts, each written in the transaction of the change it tells of. payload is the exact canonical JSON.
CREATE TABLE certaudit (
    id        bigserial PRIMARY KEY,
    cert_id   uuid REFERENCES certificate,
    action    text NOT NULL,
    actor     text NOT NULL,
    timestamp timestamptz NOT NULL DEFAULT certvoy_now(),
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    subject   text NOT NULL,
    payload   text NOT NULL,
    -- Entries that were there before this column have 0.
    cluster   bigint NOT NULL DEFAULT certvoy_cluster()
);
CREATE INDEX certaudit_sealing ON certaudit (cluster, xid, id);
CREATE INDEX certaudit_subject ON certaudit (subject, id);
-- Which generations of a Secret there were, without reading what all its Targets said: a row that was put back is found by that.
CREATE INDEX certaudit_generation ON certaudit (subject, id) WHERE action IN
    ('certificate.issued', 'certificate.rejected', 'certificate.revoked', 'payload.stored', 'payload.rejected');

CREATE FUNCTION certaudit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'certaudit is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER certaudit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON certaudit
    FOR EACH STATEMENT EXECUTE FUNCTION certaudit_is_append_only();

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

-- What peers may do as often as they like is audited so often in a window, for each identity, and counted beyond that: the count is
-- an entry when the window is over. How much is written is never what a client decides.
CREATE TABLE audit_tally (
    identity text NOT NULL,
    action   text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT certvoy_now(),
    times    integer NOT NULL CHECK (times > 0),
    PRIMARY KEY (identity, action)
);
CREATE INDEX audit_tally_began ON audit_tally (began_at);

-- Bearer tokens: never the token, only its SHA-256. One with scopes is of the admin API. One with an identity may nothing of that:
-- who shows it over TLS, where sds.tokens takes tokens, is that identity; it ends by itself.
CREATE TABLE api_token (
    id           bigserial PRIMARY KEY,
    name         text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    sha256       bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    identity     text,
    CONSTRAINT api_token_scopes_check CHECK ((cardinality(scopes) > 0) = (identity IS NULL)),
    CONSTRAINT api_token_identity_check CHECK (identity IS NULL OR expires_at IS NOT NULL)
);
CREATE INDEX api_token_identity ON api_token (identity) WHERE identity IS NOT NULL AND revoked_at IS NULL;
-- At most one usable token of a name: the audit's actor is one token.
CREATE UNIQUE INDEX api_token_name ON api_token (name) WHERE revoked_at IS NULL;

-- Lists page by key: none of them walks what it does not show.
CREATE INDEX certrotation_secret ON certrotation (secret, id);
CREATE INDEX certificate_listing ON certificate (not_after, id);
CREATE INDEX certificate_fingerprint ON certificate (fingerprint);
CREATE INDEX certaudit_action ON certaudit (action, id);
CREATE INDEX certaudit_actor ON certaudit (actor, id);

-- Certificates that somebody wants revoked: one row each. next_attempt_at also keeps a second replica away from one
-- that is being asked for. The error is the CA's own, whole.
CREATE TABLE revocation (
    cert_id         uuid PRIMARY KEY REFERENCES certificate,
    reason          text NOT NULL CHECK (
        reason IN ('unspecified', 'keyCompromise', 'affiliationChanged', 'superseded', 'cessationOfOperation')
    ),
    at_once         boolean NOT NULL,
    wanted_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT certvoy_now(),
    error           jsonb,
    done_at         timestamptz
);
CREATE INDEX revocation_waiting ON revocation (next_attempt_at) WHERE done_at IS NULL;

-- May the CA be asked? At once where that was said, or where no Target can be served it any more: it was rejected, its Secret
-- is deleted, or its successor is proved everywhere. Superseded ones wait for the Rotation that superseded theirs.
CREATE FUNCTION revocable(certificate, at_once boolean) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT $1.status NOT IN ('expired', 'revoked') AND (
        at_once OR $1.status = 'rejected'
        OR EXISTS (SELECT FROM secret WHERE name = $1.secret AND deleted_at IS NOT NULL)
        OR ($1.status = 'replaced' AND (
            EXISTS (SELECT FROM certrotation WHERE cert_id = $1.id AND outcome IN ('completed', 'completed_unobserved'))
            OR NOT EXISTS (SELECT FROM certrotation WHERE secret = $1.secret AND completed_at IS NULL))))
$$;

-- May a Certificate be served to those that wait for its successor, or have refused that? What is offered, and whatever tells of
-- it, ask this alone.
CREATE FUNCTION servable(certificate) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT $1.status = 'rotating' AND $1.not_after > certvoy_now() AND NOT EXISTS (
        SELECT FROM revocation
         WHERE cert_id = $1.id AND (at_once OR reason = 'keyCompromise' OR done_at IS NOT NULL))
$$;

-- Is what was proved of a Delivery not seen any more? The last look failed, or the agent whose word was the proof has not said it
-- for so long: it says it every hour.
CREATE FUNCTION unseen(delivery) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT $1.probe_error IS NOT NULL OR coalesce($1.proved_by = 'agent' AND $1.said_at < certvoy_now() - interval '3 hours', false)
$$;

-- The control plane's own CA: newest generation first, keys sealed like any other. Replicas that make one together agree on one.
CREATE TABLE control_ca (
    generation      integer PRIMARY KEY CHECK (generation > 0),
    key_id          uuid NOT NULL REFERENCES key_material,
    certificate_pem text NOT NULL,
    not_after       timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT certvoy_now()
);

-- Proxies that enrol. The id is in their credentials: one that was removed and enrolled anew has another.
CREATE TABLE proxy (
    id               bigserial PRIMARY KEY,
    name             text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    identity         text NOT NULL UNIQUE,
    created_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by       text NOT NULL,
    credential_at    timestamptz,
    credential_until timestamptz
);

-- One-time tokens: never the token, only its SHA-256. Used once is: by one key pair, which may ask again if the answer was lost.
CREATE TABLE enrolment_token (
    sha256      bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    proxy_id    bigint NOT NULL REFERENCES proxy ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by  text NOT NULL,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    spki_sha256 bytea,
    CHECK ((used_at IS NULL) = (spki_sha256 IS NULL))
);
CREATE INDEX enrolment_token_proxy ON enrolment_token (proxy_id);

-- What an identity may see, beside the grants of the configuration. kinds: null is every kind. issue: its wish for such a name may
-- have a certificate ordered. max_names: so many names in all may it want at once; of several limits the lowest counts.
CREATE TABLE identity_grant (
    identity   text NOT NULL,
    name       text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 512),
    granted_at timestamptz NOT NULL DEFAULT certvoy_now(),
    granted_by text NOT NULL,
    kinds      text[] CHECK (cardinality(kinds) > 0 AND kinds <@
               ARRAY['tls_certificate', 'validation_context', 'session_ticket_keys', 'generic_secret']),
    issue      boolean NOT NULL DEFAULT false,
    max_names  integer CHECK (max_names > 0),
    PRIMARY KEY (identity, name)
);

-- Whose rights were changed, for replicas to read no others again. xid: what is not yet seen when it is read is read next time.
CREATE TABLE rights_change (
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    identity   text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT certvoy_now()
);
CREATE INDEX rights_change_xid ON rights_change (xid);

CREATE FUNCTION rights_are_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rights_change (identity) SELECT CASE TG_OP WHEN 'DELETE' THEN OLD.identity ELSE NEW.identity END;
    RETURN NULL;
END $$;
CREATE TRIGGER identity_grant_changed AFTER INSERT OR UPDATE OR DELETE ON identity_grant
    FOR EACH ROW EXECUTE FUNCTION rights_are_changed();
CREATE TRIGGER api_token_made AFTER INSERT ON api_token
    FOR EACH ROW WHEN (NEW.identity IS NOT NULL) EXECUTE FUNCTION rights_are_changed();
CREATE TRIGGER api_token_revoked AFTER UPDATE OF revoked_at ON api_token
    FOR EACH ROW WHEN (NEW.identity IS NOT NULL) EXECUTE FUNCTION rights_are_changed();
CREATE TRIGGER proxy_changed AFTER INSERT OR DELETE ON proxy FOR EACH ROW EXECUTE FUNCTION rights_are_changed();

-- Dead entries at the head of a queue's index slow every claim: they go when a hundredth of the table has changed, not a fifth.
ALTER TABLE secret SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE certificate SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE certrotation SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE acme_order SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
-- Written for each living subscription every few minutes, and in no indexed column: room for that in the same page.
ALTER TABLE delivery SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE target SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- CAs that are left alone, by the issuer's name: while there is a row no replica takes work that would ask that CA. Once until has
-- passed, one replica at a time asks whether the CA answers; the row goes when it does. The error is why, as rotations keep it.
CREATE TABLE issuer_pause (
    issuer text PRIMARY KEY,
    since  timestamptz NOT NULL DEFAULT certvoy_now(),
    until  timestamptz NOT NULL,
    error  jsonb NOT NULL
);

-- CAs that fail, by the issuer's name: so often in a row, and when last. The row goes when the CA delivers, or answers again.
CREATE TABLE issuer_trouble (
    issuer   text PRIMARY KEY,
    failures integer NOT NULL,
    last_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    error    jsonb NOT NULL
);

-- Whether a Secret whose CA is left alone may be worked on, for its next CA: that is not left alone, and the first is for long, failed
-- three times in a row, or there is little time left (a sixth of the life, or a quarter of one under 10 days). lifecycle/fallback.py
-- decides; this keeps what it would send away from being claimed.
CREATE FUNCTION may_fall_back(s secret) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM unnest(s.fallback) AS f WHERE f NOT IN (SELECT issuer FROM issuer_pause))
       AND (EXISTS (SELECT FROM issuer_pause p WHERE p.issuer = s.issuer AND p.until > certvoy_now() + interval '10 minutes')
            OR EXISTS (SELECT FROM issuer_trouble t WHERE t.issuer = s.issuer AND t.failures >= 3)
            OR coalesce(certvoy_now() > s.served_until - (s.served_until - s.served_from)
                        / CASE WHEN s.served_until - s.served_from >= interval '10 days' THEN 6 ELSE 4 END, false))
$$;

-- What a Secret holds that is no certificate: immutable versions, counted as Certificates are. Trust bundles are public text,
-- ticket keys and generic secrets sealed. What became of a version stands beside it, and changes.
CREATE TABLE payload (
    secret       text NOT NULL REFERENCES secret,
    generation   integer NOT NULL CHECK (generation > 0),
    kind         text NOT NULL CHECK (kind IN ('validation_context', 'session_ticket_keys', 'generic_secret')),
    phase        text NOT NULL CHECK (phase IN ('put', 'add', 'remove', 'rotate')),
    content      text,
    key_id       uuid REFERENCES key_material,
    -- When the first part of it ends: a CA, a CRL.
    not_after    timestamptz,
    created_at   timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by   text NOT NULL,
    completed_at timestamptz,
    outcome      text CHECK (outcome IN ('completed', 'completed_unobserved', 'superseded', 'rejected')),
    evidence     jsonb,
    error        jsonb,
    look_at      timestamptz NOT NULL DEFAULT certvoy_now(),
    -- Who is offered it: canaries, or all.
    stage        text NOT NULL DEFAULT 'fleet' CHECK (stage IN ('canary', 'fleet')),
    PRIMARY KEY (secret, generation),
    CHECK ((kind = 'validation_context') = (content IS NOT NULL)),
    CHECK (num_nonnulls(content, key_id) = 1),
    CHECK ((completed_at IS NULL) = (outcome IS NULL))
);
-- At most one version of a Secret is being rolled out.
CREATE UNIQUE INDEX payload_one_open ON payload (secret) WHERE completed_at IS NULL;
CREATE INDEX payload_look_at ON payload (look_at) WHERE completed_at IS NULL;

-- The Targets that are offered a version before all others.
CREATE TABLE payload_canary (
    secret     text NOT NULL,
    generation integer NOT NULL,
    target_id  bigint NOT NULL REFERENCES target ON DELETE CASCADE,
    asked_at   timestamptz NOT NULL DEFAULT certvoy_now(),
    PRIMARY KEY (secret, generation, target_id),
    FOREIGN KEY (secret, generation) REFERENCES payload
);
CREATE INDEX payload_canary_target ON payload_canary (target_id);

-- What all others get while canaries have a version: the newest before it that was offered to all, and that nobody took back.
CREATE FUNCTION payload_before(p payload) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT max(generation) FROM payload
     WHERE secret = p.secret AND generation < p.generation AND stage = 'fleet' AND outcome IS DISTINCT FROM 'rejected'
$$;

-- A Secret is given what its kind is, and nothing else.
CREATE FUNCTION is_of_its_kind() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    given text := CASE TG_TABLE_NAME WHEN 'payload' THEN to_jsonb(NEW) ->> 'kind' ELSE 'tls_certificate' END;
BEGIN
    IF given IS DISTINCT FROM (SELECT kind FROM secret WHERE name = NEW.secret) THEN
        RAISE EXCEPTION 'secret %: a % is not of its kind', NEW.secret, given USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payload_kind BEFORE INSERT ON payload FOR EACH ROW EXECUTE FUNCTION is_of_its_kind();
CREATE TRIGGER certificate_kind BEFORE INSERT ON certificate FOR EACH ROW EXECUTE FUNCTION is_of_its_kind();
CREATE TRIGGER certrotation_kind BEFORE INSERT ON certrotation FOR EACH ROW EXECUTE FUNCTION is_of_its_kind();

CREATE FUNCTION payload_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'payload % of %: it is immutable', OLD.generation, OLD.secret USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER payload_kept BEFORE DELETE ON payload FOR EACH ROW EXECUTE FUNCTION payload_is_immutable();
CREATE TRIGGER payload_changed BEFORE UPDATE ON payload FOR EACH ROW
    WHEN ((OLD.secret, OLD.generation, OLD.kind, OLD.phase, OLD.content, OLD.key_id, OLD.not_after, OLD.created_at, OLD.created_by)
          IS DISTINCT FROM
          (NEW.secret, NEW.generation, NEW.kind, NEW.phase, NEW.content, NEW.key_id, NEW.not_after, NEW.created_at, NEW.created_by))
    EXECUTE FUNCTION payload_is_immutable();

-- The newest that was not rejected is what is offered, but none that was superseded while canaries alone had it; whoever changes a
-- payload holds its Secret's lock.
CREATE FUNCTION payload_is_served() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE secret s SET served_generation = p.generation, served_from = p.created_at, served_until = p.not_after
      FROM (SELECT) one LEFT JOIN (
            SELECT generation, created_at, not_after FROM payload
             WHERE secret = NEW.secret AND outcome IS DISTINCT FROM 'rejected'
               AND NOT (stage = 'canary' AND outcome IS NOT DISTINCT FROM 'superseded') ORDER BY generation DESC LIMIT 1) p ON true
     WHERE s.name = NEW.secret AND s.served_generation IS DISTINCT FROM p.generation;
    RETURN NULL;
END $$;
CREATE TRIGGER payload_stored AFTER INSERT ON payload FOR EACH ROW EXECUTE FUNCTION payload_is_served();
CREATE TRIGGER payload_over AFTER UPDATE ON payload FOR EACH ROW
    WHEN ((OLD.outcome = 'rejected') IS DISTINCT FROM (NEW.outcome = 'rejected')) EXECUTE FUNCTION payload_is_served();

-- Session ticket keys that certvoy makes: how often a new one, and how many are kept. leased_until keeps the other replicas from
-- one that is being made.
CREATE TABLE ticket_schedule (
    secret       text PRIMARY KEY REFERENCES secret,
    rotate_every interval NOT NULL CHECK (rotate_every > interval '0'),
    keep         integer NOT NULL CHECK (keep BETWEEN 1 AND 16),
    next_at      timestamptz NOT NULL DEFAULT certvoy_now(),
    leased_until timestamptz
);
CREATE INDEX ticket_schedule_next_at ON ticket_schedule (next_at);

-- OCSP staples: which responder is asked about a certificate, when next, and what it answered last that may be stapled. number
-- counts those: what is sent along has a new one. next_at also keeps a second replica away from one that is being asked about.
CREATE TABLE staple (
    cert_id     uuid PRIMARY KEY REFERENCES certificate,
    url         text NOT NULL,
    issuer_der  bytea NOT NULL,
    -- Clients refuse the certificate without a staple (RFC 7633): so it does not leave without one.
    must        boolean NOT NULL,
    next_at     timestamptz NOT NULL DEFAULT certvoy_now(),
    attempts    integer NOT NULL DEFAULT 0,
    number      integer NOT NULL DEFAULT 0,
    response    bytea,
    this_update timestamptz,
    next_update timestamptz,
    revoked_at  timestamptz,
    error       jsonb,
    CHECK (num_nonnulls(response, this_update, next_update) IN (0, 3)),
    CHECK (revoked_at IS NULL OR response IS NULL)
);
CREATE INDEX staple_next_at ON staple (next_at);
CREATE INDEX staple_next_update ON staple (next_update) WHERE next_update IS NOT NULL;

-- Revocation lists (CRLs) in which CAs say what they have revoked. One is looked at once for all Certificates that it tells of;
-- next_at also keeps a second replica away from one that is being looked at. etag: what its server called it, so that one that
-- has not changed is not sent again. uploaded: no CA of ours chose the URL.
CREATE TABLE crl (
    id            bigserial PRIMARY KEY,
    url           text NOT NULL,
    issuer_der    bytea NOT NULL,
    issuer_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(issuer_der)) STORED,
    uploaded      boolean NOT NULL,
    next_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    attempts      integer NOT NULL DEFAULT 0,
    etag          text,
    this_update   timestamptz,
    next_update   timestamptz,
    error         jsonb,
    UNIQUE (url, issuer_sha256, uploaded)
);
CREATE INDEX crl_next_at ON crl (next_at);

-- Which of them tells of a Certificate.
CREATE TABLE crl_certificate (
    cert_id uuid PRIMARY KEY REFERENCES certificate,
    crl_id  bigint NOT NULL REFERENCES crl
);
CREATE INDEX crl_certificate_crl ON crl_certificate (crl_id);

-- Whether CAA lets those CAs issue that a Secret falls back on: looked at as soon as it names them, and daily. found: what forbids it.
-- look_at also keeps a second replica away from one that is being looked at.
CREATE TABLE fallback_look (
    secret  text PRIMARY KEY REFERENCES secret,
    look_at timestamptz NOT NULL DEFAULT certvoy_now(),
    found   jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX fallback_look_at ON fallback_look (look_at);

-- Rules that some replica has now. Its row is locked for each new name, so that limits hold whichever replicas are asked; once
-- nobody holds it any more its names are removed.
CREATE TABLE on_demand_rule (
    name       text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 200),
    held_until timestamptz NOT NULL
);

-- Secrets that were asked for: by which rule, by whom first, and what their new names are counted by. wanted_at: when somebody
-- was last known to subscribe; keep after that they are removed. look_at: when that is asked next.
CREATE TABLE on_demand_name (
    secret     text PRIMARY KEY REFERENCES secret,
    rule       text NOT NULL,
    identity   text NOT NULL,
    domain     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT certvoy_now(),
    wanted_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    keep       interval NOT NULL,
    look_at    timestamptz NOT NULL DEFAULT certvoy_now()
);
CREATE INDEX on_demand_name_rule ON on_demand_name (rule, created_at);
CREATE INDEX on_demand_name_identity ON on_demand_name (rule, identity, created_at);
CREATE INDEX on_demand_name_domain ON on_demand_name (rule, domain, created_at);
CREATE INDEX on_demand_name_look_at ON on_demand_name (look_at);

-- The few Secrets with a wildcard are found without looking at all others: they answer for the names that it covers.
CREATE FUNCTION has_wildcard(text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    'SELECT EXISTS (SELECT FROM unnest($1) AS d WHERE starts_with(d, ''*.''))';
CREATE INDEX secret_wildcard ON secret (name) WHERE deleted_at IS NULL AND has_wildcard(domains);

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
    ('app', 'auditcheckpoint', 'SELECT, INSERT'),
    ('app', 'auditleaf', 'SELECT, INSERT'),
    ('app', 'auditsealed', 'SELECT, INSERT, UPDATE'),
    ('app', 'auditsealer', 'SELECT, UPDATE'),
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
    ('app', 'crl', 'SELECT, INSERT, UPDATE'),
    ('app', 'crl_certificate', 'SELECT, INSERT, DELETE'),
    ('app', 'deployment', 'SELECT, UPDATE (version_key_wrapped, version_key_kek)'),
    ('app', 'enrolment_token', 'SELECT, INSERT, UPDATE, DELETE'),
    ('app', 'fallback_look', 'SELECT, INSERT, UPDATE, DELETE'),
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
