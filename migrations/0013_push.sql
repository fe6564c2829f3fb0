-- Where an agent takes pushed bundles, https://host:port; null: it fetches them alone.
ALTER TABLE target ADD COLUMN push text;
CREATE INDEX target_pushed ON target (id) WHERE push IS NOT NULL;

-- A push: which bytes it is about (generation and salt), how often it was tried, when it is tried again (null: it was answered),
-- until when a replica is at it, and why the last one failed.
ALTER TABLE delivery ADD COLUMN push_generation integer;
ALTER TABLE delivery ADD COLUMN push_salt integer;
ALTER TABLE delivery ADD COLUMN push_attempts integer NOT NULL DEFAULT 0;
ALTER TABLE delivery ADD COLUMN push_at timestamptz;
ALTER TABLE delivery ADD COLUMN push_lease timestamptz;
ALTER TABLE delivery ADD COLUMN push_error text;
