-- Whose KEK wrapped the key of the content hashes; null: the one that was there before this column.
ALTER TABLE deployment ADD COLUMN version_key_kek text;

-- Which KEKs and versions are in use, by count, without reading an envelope; and what is still to be rewrapped.
CREATE INDEX key_material_kek ON key_material (kek_uri, kek_version, id) WHERE destroyed_at IS NULL;

-- Which generations of a Secret there were, without reading what all its Targets said: a row that was put back is found by that.
CREATE INDEX certaudit_generation ON certaudit (subject, id) WHERE action IN
    ('certificate.issued', 'certificate.rejected', 'certificate.revoked', 'payload.stored', 'payload.rejected');
