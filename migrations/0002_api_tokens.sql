-- Bearer tokens of the admin API: never the token, only its SHA-256.
CREATE TABLE api_token (
    id           bigserial PRIMARY KEY,
    name         text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    sha256       bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_at   timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
-- At most one usable token of a name: the audit's actor is one token.
CREATE UNIQUE INDEX api_token_name ON api_token (name) WHERE revoked_at IS NULL;
