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
    PRIMARY KEY (secret, generation),
    CHECK ((kind = 'validation_context') = (content IS NOT NULL)),
    CHECK (num_nonnulls(content, key_id) = 1),
    CHECK ((completed_at IS NULL) = (outcome IS NULL))
);
-- At most one version of a Secret is being rolled out.
CREATE UNIQUE INDEX payload_one_open ON payload (secret) WHERE completed_at IS NULL;
CREATE INDEX payload_look_at ON payload (look_at) WHERE completed_at IS NULL;

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

-- The newest that was not rejected is what is offered; whoever changes a payload holds its Secret's lock.
CREATE FUNCTION payload_is_served() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE secret s SET served_generation = p.generation, served_from = p.created_at, served_until = p.not_after
      FROM (SELECT) one LEFT JOIN (
            SELECT generation, created_at, not_after FROM payload
             WHERE secret = NEW.secret AND outcome IS DISTINCT FROM 'rejected' ORDER BY generation DESC LIMIT 1) p ON true
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
