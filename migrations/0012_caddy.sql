-- Caddy is one of the programs that an agent serves.
ALTER TABLE target DROP CONSTRAINT target_kind_check;
ALTER TABLE target ADD CONSTRAINT target_kind_check CHECK (kind IN ('envoy', 'nginx', 'haproxy', 'traefik', 'caddy', 'files'));
