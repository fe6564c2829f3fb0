-- On what terms an identity may see a name. kinds: null is every kind. issue: its wish for such a name may have a certificate
-- ordered. max_names: so many names in all may it want at once; of several limits the lowest counts.
ALTER TABLE identity_grant
    ADD COLUMN kinds text[] CHECK (cardinality(kinds) > 0 AND kinds <@
        ARRAY['tls_certificate', 'validation_context', 'session_ticket_keys', 'generic_secret']),
    ADD COLUMN issue boolean NOT NULL DEFAULT false,
    ADD COLUMN max_names integer CHECK (max_names > 0);

DROP TRIGGER identity_grant_changed ON identity_grant;
CREATE TRIGGER identity_grant_changed AFTER INSERT OR UPDATE OR DELETE ON identity_grant
    FOR EACH ROW EXECUTE FUNCTION rights_are_changed();

-- What peers may do as often as they like is audited so often in a window, for each identity, and counted beyond that: the count is
-- an entry when the window is over. How much is written is never what a client decides.
CREATE TABLE audit_tally (
    identity text NOT NULL,
    action   text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT certvoy_now(),
    times    integer NOT NULL CHECK (times > 0),
    PRIMARY KEY (identity, action)
);
CREATE INDEX audit_tally_began ON audit_tally (began_at);
