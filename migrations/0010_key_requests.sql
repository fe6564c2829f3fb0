-- Who makes a Secret's private keys: certvoy, or the one Target that serves it.
ALTER TABLE secret ADD COLUMN key_holder text NOT NULL DEFAULT 'certvoy' CHECK (key_holder IN ('certvoy', 'target'));

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
