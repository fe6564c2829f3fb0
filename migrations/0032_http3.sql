-- Whether a Target serves HTTP/3 as well, on the same port over UDP: then it is proved over QUIC too.
ALTER TABLE target ADD COLUMN http3 boolean NOT NULL DEFAULT false;
