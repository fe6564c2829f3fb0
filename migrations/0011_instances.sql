-- Two proxies behind one identity and node id do not hide each other: what is accepted is what each of a Target's live streams
-- has accepted.

-- The lives of control planes: each says every few seconds that it is there. What a dead one's streams said counts no more.
CREATE TABLE replica (
    token       text PRIMARY KEY,
    name        text NOT NULL,
    alive_until timestamptz NOT NULL
);

-- replica: the token of one with a live stream of it. instances: how many streams there are on all replicas, and the generation
-- that each of them has accepted, null where one has accepted nothing; both null where there is one stream, or none.
ALTER TABLE delivery ADD COLUMN replica text, ADD COLUMN instances integer, ADD COLUMN agreed integer;

-- What the streams of a replica say together, only where a Target has several: its Delivery is the roll-up. Counts until
-- seen_until, which the replica puts off for as long as it has the streams.
CREATE TABLE target_instance (
    target_id  bigint NOT NULL,
    secret     text NOT NULL,
    replica    text NOT NULL,
    streams    integer NOT NULL,
    accepted   integer,
    refused    integer,
    seen_until timestamptz NOT NULL,
    PRIMARY KEY (target_id, secret, replica),
    FOREIGN KEY (target_id, secret) REFERENCES delivery ON DELETE CASCADE
);
