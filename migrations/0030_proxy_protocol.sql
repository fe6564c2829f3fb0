-- Whether a Target's listener wants a header of the PROXY protocol before TLS: it is behind a load balancer that sends one.
ALTER TABLE target ADD COLUMN proxy_protocol boolean NOT NULL DEFAULT false;
