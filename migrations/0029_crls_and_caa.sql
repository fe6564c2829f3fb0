-- Revocation lists (CRLs) in which CAs say what they have revoked. One is looked at once for all Certificates that it tells of;
-- next_at also keeps a second replica away from one that is being looked at. etag: what its server called it, so that one that
-- has not changed is not sent again. uploaded: no CA of ours chose the URL.
CREATE TABLE crl (
    id            bigserial PRIMARY KEY,
    url           text NOT NULL,
    issuer_der    bytea NOT NULL,
    issuer_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(issuer_der)) STORED,
    uploaded      boolean NOT NULL,
    next_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    attempts      integer NOT NULL DEFAULT 0,
    etag          text,
    this_update   timestamptz,
    next_update   timestamptz,
    error         jsonb,
    UNIQUE (url, issuer_sha256, uploaded)
);
CREATE INDEX crl_next_at ON crl (next_at);

-- Which of them tells of a Certificate.
CREATE TABLE crl_certificate (
    cert_id uuid PRIMARY KEY REFERENCES certificate,
    crl_id  bigint NOT NULL REFERENCES crl
);
CREATE INDEX crl_certificate_crl ON crl_certificate (crl_id);

-- Whether CAA lets those CAs issue that a Secret falls back on: looked at as soon as it names them, and daily. found: what forbids it.
-- look_at also keeps a second replica away from one that is being looked at.
CREATE TABLE fallback_look (
    secret  text PRIMARY KEY REFERENCES secret,
    look_at timestamptz NOT NULL DEFAULT certvoy_now(),
    found   jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX fallback_look_at ON fallback_look (look_at);
INSERT INTO fallback_look (secret) SELECT name FROM secret WHERE fallback <> '{}' AND deleted_at IS NULL;

INSERT INTO role_right (part, relation, rights) VALUES
    ('app', 'crl', 'SELECT, INSERT, UPDATE'),
    ('app', 'crl_certificate', 'SELECT, INSERT, DELETE'),
    ('app', 'fallback_look', 'SELECT, INSERT, UPDATE, DELETE');
