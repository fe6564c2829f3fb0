-- A key that is about to take the place of an account's: the CA may have it already, and nobody has heard.
ALTER TABLE acme_account ADD COLUMN next_key_id uuid REFERENCES key_material;
