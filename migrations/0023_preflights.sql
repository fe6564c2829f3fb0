-- A token that proves nothing: somebody looks whether the way to it leads here.
ALTER TABLE challenge_token ALTER rotation_id DROP NOT NULL;
