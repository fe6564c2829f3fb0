-- The control plane's own CA: newest generation first, keys sealed like any other. Replicas that make one together agree on one.
CREATE TABLE control_ca (
    generation      integer PRIMARY KEY CHECK (generation > 0),
    key_id          uuid NOT NULL REFERENCES key_material,
    certificate_pem text NOT NULL,
    not_after       timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT certvoy_now()
);

-- Proxies that enrol. The id is in their credentials: one that was removed and enrolled anew has another.
CREATE TABLE proxy (
    id               bigserial PRIMARY KEY,
    name             text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
    identity         text NOT NULL UNIQUE,
    created_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by       text NOT NULL,
    credential_at    timestamptz,
    credential_until timestamptz
);

-- One-time tokens: never the token, only its SHA-256. Used once is: by one key pair, which may ask again if the answer was lost.
CREATE TABLE enrolment_token (
    sha256      bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    proxy_id    bigint NOT NULL REFERENCES proxy ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    created_by  text NOT NULL,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    spki_sha256 bytea,
    CHECK ((used_at IS NULL) = (spki_sha256 IS NULL))
);
CREATE INDEX enrolment_token_proxy ON enrolment_token (proxy_id);

-- What an identity may see, beside the grants of the configuration.
CREATE TABLE identity_grant (
    identity   text NOT NULL,
    name       text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 512),
    granted_at timestamptz NOT NULL DEFAULT certvoy_now(),
    granted_by text NOT NULL,
    PRIMARY KEY (identity, name)
);
