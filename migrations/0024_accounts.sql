-- A key that is about to take the place of an account's: the CA may have it already, and nobody has heard.
ALTER TABLE acme_account ADD COLUMN next_key_id uuid REFERENCES key_material;

-- Names whose validation a CA saw fail in the last day: it counts them, over all Secrets, and so do we.
CREATE TABLE validation_failure (
    issuer     text NOT NULL,
    identifier text NOT NULL,
    type       text NOT NULL,
    failed_at  timestamptz NOT NULL DEFAULT certvoy_now()
);
CREATE INDEX validation_failure_identifier ON validation_failure (identifier, failed_at);
CREATE INDEX validation_failure_failed_at ON validation_failure (failed_at);
