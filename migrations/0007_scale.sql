-- What a Secret is served with (the highest generation that is not over), beside the Secret: metrics count what is wrong by the
-- indexes on it, and read no Certificates. Null: nothing is issued.
ALTER TABLE secret
    ADD COLUMN served_generation integer,
    ADD COLUMN served_from       timestamptz,
    ADD COLUMN served_until      timestamptz,
    ADD COLUMN renew_at          timestamptz;

UPDATE secret s
   SET served_generation = c.generation, served_from = c.not_before, served_until = c.not_after, renew_at = c.renew_at
  FROM (SELECT DISTINCT ON (secret) secret, generation, not_before, not_after, renew_at FROM certificate
         WHERE status NOT IN ('replaced', 'rejected', 'revoked') ORDER BY secret, generation DESC) c
 WHERE s.name = c.secret;

-- Those that end first are told of by name; these few are expired.
CREATE INDEX secret_ends ON secret (served_until, name) INCLUDE (served_from, renew_at) WHERE deleted_at IS NULL;
CREATE INDEX secret_overdue ON secret (renew_at) WHERE deleted_at IS NULL;
CREATE INDEX secret_unissued ON secret (name) WHERE deleted_at IS NULL AND served_until IS NULL;

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

-- How many Secrets there are: the sum. Changes are rows of their own, so that nobody waits for a counter; a census adds them up.
CREATE TABLE secret_count (
    change bigint NOT NULL
);
INSERT INTO secret_count SELECT count(*) FROM secret WHERE deleted_at IS NULL AND kind = 'tls_certificate';

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

-- What one replica counted of the Deliveries, for all of them. due_at also keeps the others away from the one that counts.
CREATE TABLE census (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    due_at     timestamptz NOT NULL DEFAULT '-infinity',
    begun_at   timestamptz,
    taken_at   timestamptz,
    deliveries jsonb
);
INSERT INTO census DEFAULT VALUES;

-- When what the Rotation brings, or is to replace, ends: which one is urgent. A first issuance has no such date.
ALTER TABLE certrotation ADD COLUMN needed_by timestamptz NOT NULL DEFAULT 'infinity';
UPDATE certrotation r SET needed_by = c.not_after FROM certificate c
 WHERE r.completed_at IS NULL AND c.id = coalesce(r.new_cert_id, r.cert_id);

CREATE FUNCTION certrotation_is_needed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.needed_by := coalesce((SELECT not_after FROM certificate WHERE id = coalesce(NEW.new_cert_id, NEW.cert_id)), 'infinity');
    RETURN NEW;
END $$;
CREATE TRIGGER certrotation_needed BEFORE INSERT OR UPDATE OF cert_id, new_cert_id ON certrotation
    FOR EACH ROW EXECUTE FUNCTION certrotation_is_needed();

-- The most urgent of those that nobody has tried is found first, however many there are; those to be tried again by their time.
CREATE INDEX certrotation_untried ON certrotation (needed_by, triggered_at)
    WHERE completed_at IS NULL AND new_cert_id IS NULL AND attempts = 0;
CREATE INDEX certrotation_again ON certrotation (next_attempt_at)
    WHERE completed_at IS NULL AND new_cert_id IS NULL AND attempts > 0;
CREATE INDEX certrotation_lapsing ON certrotation (needed_by) WHERE completed_at IS NULL AND new_cert_id IS NOT NULL;

-- The newest are read at start; those of content that is gone are swept.
CREATE INDEX refused_content_newest ON refused_content (refused_at);

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
CREATE TRIGGER identity_grant_changed AFTER INSERT OR DELETE ON identity_grant
    FOR EACH ROW EXECUTE FUNCTION rights_are_changed();
CREATE TRIGGER proxy_changed AFTER INSERT OR DELETE ON proxy FOR EACH ROW EXECUTE FUNCTION rights_are_changed();

-- Dead entries at the head of a queue's index slow every claim: they go when a hundredth of the table has changed, not a fifth.
ALTER TABLE secret SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE certificate SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE certrotation SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE acme_order SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
-- Written for each living subscription every few minutes, and in no indexed column: room for that in the same page.
ALTER TABLE delivery SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE target SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
