-- Lists page by key: none of them walks what it does not show.
CREATE INDEX certrotation_secret ON certrotation (secret, id);
CREATE INDEX certificate_listing ON certificate (not_after, id);
CREATE INDEX certificate_fingerprint ON certificate (fingerprint);
CREATE INDEX certaudit_action ON certaudit (action, id);
CREATE INDEX certaudit_actor ON certaudit (actor, id);
