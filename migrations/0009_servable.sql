-- May a Certificate be served to those that wait for its successor, or have refused that? What is offered, and whatever tells of
-- it, ask this alone.
CREATE FUNCTION servable(certificate) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT $1.status = 'rotating' AND $1.not_after > certvoy_now() AND NOT EXISTS (
        SELECT FROM revocation
         WHERE cert_id = $1.id AND (at_once OR reason = 'keyCompromise' OR done_at IS NOT NULL))
$$;
