-- When a Certificate's CA would like it renewed (RFC 9773): its window, and the moment that was drawn in that, once for all
-- replicas. ask_at: when some replica asks next; null once nobody needs to know. failures: in a row, and why the last one.
CREATE TABLE renewal_info (
    cert_id         uuid PRIMARY KEY REFERENCES certificate,
    ask_at          timestamptz DEFAULT certvoy_now(),
    answered_at     timestamptz,
    window_start    timestamptz,
    window_end      timestamptz,
    pick_at         timestamptz,
    explanation_url text,
    failures        integer NOT NULL DEFAULT 0,
    error           text,
    CHECK (num_nonnulls(window_start, window_end, pick_at) IN (0, 3)),
    CHECK (window_start < window_end)
);
CREATE INDEX renewal_info_ask_at ON renewal_info (ask_at) WHERE ask_at IS NOT NULL;

INSERT INTO renewal_info (cert_id) SELECT id FROM certificate WHERE status IN ('issued', 'active') AND issuer <> 'upload';

-- What an order said besides its names: the account that made it, and the Certificate that it replaces.
ALTER TABLE acme_order ADD COLUMN account_url text;
ALTER TABLE acme_order ADD COLUMN replaces uuid REFERENCES certificate;
CREATE INDEX acme_order_url ON acme_order (url) WHERE url IS NOT NULL;
CREATE INDEX acme_order_replaces ON acme_order (replaces) WHERE replaces IS NOT NULL;
