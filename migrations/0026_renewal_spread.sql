-- When the first order is made, at the earliest: what is due together is not ordered together.
ALTER TABLE certrotation ADD COLUMN starts_at timestamptz NOT NULL DEFAULT certvoy_now();
UPDATE certrotation SET starts_at = triggered_at;
