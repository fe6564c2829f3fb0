-- Whoever works on it waits for DNS: no worker is held by that, nor a place of those that its issuer has in flight.
ALTER TABLE certrotation ADD COLUMN waits_for_dns boolean NOT NULL DEFAULT false;
