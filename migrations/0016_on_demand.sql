-- Certificates on demand: what a first handshake asks for becomes a Secret, by a rule of the configuration.

-- Rules that some replica has now. Its row is locked for each new name, so that limits hold whichever replicas are asked; once
-- nobody holds it any more its names are removed.
CREATE TABLE on_demand_rule (
    name       text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 200),
    held_until timestamptz NOT NULL
);

-- Secrets that were asked for: by which rule, by whom first, and what their new names are counted by. wanted_at: when somebody
-- was last known to subscribe; keep after that they are removed. look_at: when that is asked next.
CREATE TABLE on_demand_name (
    secret     text PRIMARY KEY REFERENCES secret,
    rule       text NOT NULL,
    identity   text NOT NULL,
    domain     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT certvoy_now(),
    wanted_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    keep       interval NOT NULL,
    look_at    timestamptz NOT NULL DEFAULT certvoy_now()
);
CREATE INDEX on_demand_name_rule ON on_demand_name (rule, created_at);
CREATE INDEX on_demand_name_identity ON on_demand_name (rule, identity, created_at);
CREATE INDEX on_demand_name_domain ON on_demand_name (rule, domain, created_at);
CREATE INDEX on_demand_name_look_at ON on_demand_name (look_at);

-- The few Secrets with a wildcard are found without looking at all others: they answer for the names that it covers.
CREATE FUNCTION has_wildcard(text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    'SELECT EXISTS (SELECT FROM unnest($1) AS d WHERE starts_with(d, ''*.''))';
CREATE INDEX secret_wildcard ON secret (name) WHERE deleted_at IS NULL AND has_wildcard(domains);
