-- When an agent, whose word is the proof, said last that its program serves it. Those that there are count from now on.
ALTER TABLE delivery ADD COLUMN said_at timestamptz DEFAULT now();
ALTER TABLE delivery ALTER COLUMN said_at DROP DEFAULT;

CREATE FUNCTION unseen(delivery) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT $1.probe_error IS NOT NULL OR coalesce($1.proved_by = 'agent' AND $1.said_at < certvoy_now() - interval '3 hours', false)
$$;
