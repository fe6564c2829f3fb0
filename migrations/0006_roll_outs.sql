-- Staged roll-outs: who is offered a new Certificate first, how each Target was proved, what it serves since.

-- What completes a Secret's Rotations: all of the live set, a share of it such as 90%, or, where nobody can look, its word.
ALTER TABLE secret ADD COLUMN proof text NOT NULL DEFAULT 'all' CHECK (proof ~ '^(all|accepted|[1-9][0-9]?%)$');
-- Frozen: nothing new is issued, offered to more Targets, or taken back, until an operator says so.
ALTER TABLE secret ADD COLUMN frozen_at timestamptz;
ALTER TABLE secret ADD COLUMN frozen_by text;
ALTER TABLE secret ADD COLUMN frozen_reason text;
-- Metrics tell of those that are held, and read no others.
CREATE INDEX secret_frozen ON secret (frozen_at, name) WHERE frozen_at IS NOT NULL;
ALTER TABLE secret ADD CHECK (num_nonnulls(frozen_at, frozen_by, frozen_reason) IN (0, 3));

-- Who is offered the new Certificate: the canaries, or all. overruled: an operator said to go on despite refusals.
ALTER TABLE certrotation ADD COLUMN stage text NOT NULL DEFAULT 'fleet' CHECK (stage IN ('canary', 'fleet'));
ALTER TABLE certrotation ADD COLUMN overruled boolean NOT NULL DEFAULT false;
-- When some replica looks at it next; who has an ACK of it looks at once.
ALTER TABLE certrotation ADD COLUMN look_at timestamptz NOT NULL DEFAULT certvoy_now();
-- How it was completed: the policy, the live set, and how many of it were proved in which way.
ALTER TABLE certrotation ADD COLUMN evidence jsonb;

-- The Targets that are offered a Rotation's new Certificate before all others.
CREATE TABLE canary (
    rotation_id bigint NOT NULL REFERENCES certrotation ON DELETE CASCADE,
    target_id   bigint NOT NULL REFERENCES target ON DELETE CASCADE,
    asked_at    timestamptz NOT NULL DEFAULT certvoy_now(),
    PRIMARY KEY (rotation_id, target_id)
);

-- Envoy's admin interface, HOST:PORT: where its listener cannot be reached its /certs says what it serves.
ALTER TABLE target ADD COLUMN admin text;
-- Whether an operator has named its identity: then it speaks for itself, else with the voice of whom it was bound to.
ALTER TABLE target ADD COLUMN vouched boolean NOT NULL DEFAULT false;
UPDATE target SET vouched = true WHERE registered AND identity IS NOT NULL AND last_seen IS NULL;
CREATE INDEX target_unseen ON target (last_seen) WHERE NOT registered;

ALTER TABLE delivery ADD COLUMN accepted_at timestamptz;
ALTER TABLE delivery ADD COLUMN proved_at timestamptz;
ALTER TABLE delivery ADD COLUMN proved_by text CHECK (proved_by IN ('handshake', 'certs', 'agent'));
-- The leaf that was seen in place of the wanted one, and since when; null: what is wanted was seen last.
ALTER TABLE delivery ADD COLUMN served text;
ALTER TABLE delivery ADD COLUMN stale_since timestamptz;
-- How often the same Certificate was offered again as other bytes, so that the proxy judges anew; and when last.
ALTER TABLE delivery ADD COLUMN salt integer NOT NULL DEFAULT 0;
ALTER TABLE delivery ADD COLUMN salted_at timestamptz;
-- When some replica looks next whether it still serves what it was proved to serve.
ALTER TABLE delivery ADD COLUMN look_at timestamptz NOT NULL DEFAULT certvoy_now();
CREATE INDEX delivery_salted ON delivery (secret) WHERE salt > 0;
CREATE INDEX delivery_look_at ON delivery (look_at);
CREATE INDEX delivery_stale ON delivery (secret, stale_since) WHERE stale_since IS NOT NULL;

-- Keys of Certificates that nobody is offered any more, until their data key is destroyed: one row each, made when a Certificate
-- is over.
CREATE TABLE retired_key (
    cert_id    uuid PRIMARY KEY REFERENCES certificate,
    destroy_at timestamptz NOT NULL
);
CREATE INDEX retired_key_destroy_at ON retired_key (destroy_at);
INSERT INTO retired_key (cert_id, destroy_at)
SELECT id, certvoy_now() + interval '7 days' FROM certificate WHERE status IN ('replaced', 'rejected', 'expired', 'revoked');
