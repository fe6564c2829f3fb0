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
