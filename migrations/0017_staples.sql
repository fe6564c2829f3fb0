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
