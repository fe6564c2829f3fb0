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

-- A token of an identity: who shows it over TLS, where sds.tokens takes tokens, is that identity. It may nothing of the admin API,
-- and ends by itself.
ALTER TABLE api_token ADD COLUMN identity text;
ALTER TABLE api_token DROP CONSTRAINT api_token_scopes_check;
ALTER TABLE api_token ADD CONSTRAINT api_token_scopes_check CHECK ((cardinality(scopes) > 0) = (identity IS NULL));
ALTER TABLE api_token ADD CONSTRAINT api_token_identity_check CHECK (identity IS NULL OR expires_at IS NOT NULL);
CREATE INDEX api_token_identity ON api_token (identity) WHERE identity IS NOT NULL AND revoked_at IS NULL;
CREATE TRIGGER api_token_made AFTER INSERT ON api_token
    FOR EACH ROW WHEN (NEW.identity IS NOT NULL) EXECUTE FUNCTION rights_are_changed();
CREATE TRIGGER api_token_revoked AFTER UPDATE OF revoked_at ON api_token
    FOR EACH ROW WHEN (NEW.identity IS NOT NULL) EXECUTE FUNCTION rights_are_changed();
