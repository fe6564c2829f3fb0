-- Certificates that somebody wants revoked: one row each. next_attempt_at also keeps a second replica away from one
-- that is being asked for. The error is the CA's own, whole.
CREATE TABLE revocation (
    cert_id         uuid PRIMARY KEY REFERENCES certificate,
    reason          text NOT NULL CHECK (
        reason IN ('unspecified', 'keyCompromise', 'affiliationChanged', 'superseded', 'cessationOfOperation')
    ),
    at_once         boolean NOT NULL,
    wanted_at       timestamptz NOT NULL DEFAULT certvoy_now(),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT certvoy_now(),
    error           jsonb,
    done_at         timestamptz
);
CREATE INDEX revocation_waiting ON revocation (next_attempt_at) WHERE done_at IS NULL;

-- May the CA be asked? At once where that was said, or where no Target can be served it any more: it was rejected, its Secret
-- is deleted, or its successor is proved everywhere. Superseded ones wait for the Rotation that superseded theirs.
CREATE FUNCTION revocable(certificate, at_once boolean) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT $1.status NOT IN ('expired', 'revoked') AND (
        at_once OR $1.status = 'rejected'
        OR EXISTS (SELECT FROM secret WHERE name = $1.secret AND deleted_at IS NOT NULL)
        OR ($1.status = 'replaced' AND (
            EXISTS (SELECT FROM certrotation WHERE cert_id = $1.id AND outcome IN ('completed', 'completed_unobserved'))
            OR NOT EXISTS (SELECT FROM certrotation WHERE secret = $1.secret AND completed_at IS NULL))))
$$;

-- A pair may be uploaded instead of ordered.
ALTER TABLE certrotation DROP CONSTRAINT certrotation_reason_check;
ALTER TABLE certrotation ADD CONSTRAINT certrotation_reason_check
    CHECK (reason IN ('initial', 'renewal', 'operator', 'changed', 'revoked', 'uploaded'));
