-- What is no certificate goes to canaries first, as Certificates do: who is offered a version, those or all.
ALTER TABLE payload ADD COLUMN stage text NOT NULL DEFAULT 'fleet' CHECK (stage IN ('canary', 'fleet'));

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

-- The newest that was not rejected is what is offered, but none that was superseded while canaries alone had it; whoever changes a
-- payload holds its Secret's lock.
CREATE OR REPLACE FUNCTION payload_is_served() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE secret s SET served_generation = p.generation, served_from = p.created_at, served_until = p.not_after
      FROM (SELECT) one LEFT JOIN (
            SELECT generation, created_at, not_after FROM payload
             WHERE secret = NEW.secret AND outcome IS DISTINCT FROM 'rejected'
               AND NOT (stage = 'canary' AND outcome IS NOT DISTINCT FROM 'superseded') ORDER BY generation DESC LIMIT 1) p ON true
     WHERE s.name = NEW.secret AND s.served_generation IS DISTINCT FROM p.generation;
    RETURN NULL;
END $$;

-- Where an Envoy finds the private key of a Certificate whose Target makes it: a path on its own disk, in which {spki} stands for the
-- SHA-256 of the public half; null: nowhere, and the Secret is no Envoy's.
ALTER TABLE secret ADD COLUMN key_file text CONSTRAINT secret_key_file CHECK (key_file IS NULL OR key_holder = 'target');
