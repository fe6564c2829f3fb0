-- DNS-01: the values that certvoy has, or may have, in DNS. Written before a provider is asked, gone after it has removed them. What an
-- attempt left behind is due when that ends, and in any case after an hour; who removes it holds it meanwhile.
CREATE TABLE challenge_value (
    name        text NOT NULL,
    value       text NOT NULL,
    issuer      text NOT NULL,
    rotation_id bigint NOT NULL REFERENCES certrotation,
    since       timestamptz NOT NULL DEFAULT certvoy_now(),
    due_at      timestamptz NOT NULL,
    held_until  timestamptz,
    PRIMARY KEY (name, value)
);
CREATE INDEX challenge_value_rotation ON challenge_value (rotation_id);
CREATE INDEX challenge_value_due ON challenge_value (due_at);
