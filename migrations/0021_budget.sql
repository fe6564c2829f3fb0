-- How much is left of CAs' rate limits, by directory, what is counted and of whom: when all of it is there again, and until when the
-- CA itself has closed it. Where there is no row nothing was taken.
CREATE TABLE rate_bucket (
    directory_url text NOT NULL,
    counted       text NOT NULL CHECK (counted IN ('orders', 'domain', 'names', 'failures', 'accounts')),
    of            text NOT NULL,
    full_at       timestamptz NOT NULL,
    closed_until  timestamptz,
    PRIMARY KEY (directory_url, counted, of)
);
CREATE INDEX rate_bucket_full_at ON rate_bucket (full_at);

-- What an order under way has taken and gives back if it ends before it is finalized: a CA counts certificates. Each registered
-- domain has a row, so that orders in flight are counted; cost is nothing where the CA counts none.
CREATE TABLE rate_reservation (
    order_id      bigint NOT NULL REFERENCES acme_order,
    directory_url text NOT NULL,
    counted       text NOT NULL,
    of            text NOT NULL,
    cost          interval NOT NULL,
    PRIMARY KEY (order_id, counted, of)
);
CREATE INDEX rate_reservation_of ON rate_reservation (directory_url, counted, of);

-- An operator asked for it, when it was opened or later: what is kept of a CA's limits is for these.
ALTER TABLE certrotation ADD COLUMN by_hand boolean NOT NULL DEFAULT false;

-- Which Rotations are worked on now: orders in flight are bounded for each CA.
CREATE INDEX certrotation_leased ON certrotation (leased_until)
    WHERE completed_at IS NULL AND new_cert_id IS NULL AND leased_until IS NOT NULL;

-- CAs to fall back to, in order, where the issuer does not deliver.
ALTER TABLE secret ADD COLUMN fallback text[] NOT NULL DEFAULT '{}';

-- CAs that fail, by the issuer's name: so often in a row, and when last. The row goes when the CA delivers, or answers again.
CREATE TABLE issuer_trouble (
    issuer   text PRIMARY KEY,
    failures integer NOT NULL,
    last_at  timestamptz NOT NULL DEFAULT certvoy_now(),
    error    jsonb NOT NULL
);

-- Whether a Secret whose CA is left alone may be worked on, for its next CA: that is not left alone, and the first is for long, failed
-- three times in a row, or there is little time left (a sixth of the life, or a quarter of one under 10 days). lifecycle/fallback.py
-- decides; this keeps what it would send away from being claimed.
CREATE FUNCTION may_fall_back(s secret) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM unnest(s.fallback) AS f WHERE f NOT IN (SELECT issuer FROM issuer_pause))
       AND (EXISTS (SELECT FROM issuer_pause p WHERE p.issuer = s.issuer AND p.until > certvoy_now() + interval '10 minutes')
            OR EXISTS (SELECT FROM issuer_trouble t WHERE t.issuer = s.issuer AND t.failures >= 3)
            OR coalesce(certvoy_now() > s.served_until - (s.served_until - s.served_from)
                        / CASE WHEN s.served_until - s.served_from >= interval '10 days' THEN 6 ELSE 4 END, false))
$$;
