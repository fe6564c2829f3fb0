-- Whose KEK wrapped the key of the content hashes; null: the one that was there before this column.
ALTER TABLE deployment ADD COLUMN version_key_kek text;

-- Which KEKs and versions are in use, by count, without reading an envelope; and what is still to be rewrapped.
CREATE INDEX key_material_kek ON key_material (kek_uri, kek_version, id) WHERE destroyed_at IS NULL;
