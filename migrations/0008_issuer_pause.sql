-- CAs that are left alone, by the issuer's name: while there is a row no replica takes work that would ask that CA. Once until has
-- passed, one replica at a time asks whether the CA answers; the row goes when it does. The error is why, as rotations keep it.
CREATE TABLE issuer_pause (
    issuer text PRIMARY KEY,
    since  timestamptz NOT NULL DEFAULT certvoy_now(),
    until  timestamptz NOT NULL,
    error  jsonb NOT NULL
);
