-- Every SQL statement of certvoy, named. A lifecycle transaction locks the Secret's row first (lock_secret), so that no two of
-- them can meet in another order. Time is certvoy_now(); a status changes in move_certificate alone, by compare-and-set.

-- ---------------------------------------------------------------- deployment and secrets

-- name: deployment
SELECT id, version_key_wrapped, version_key_kek FROM deployment;

-- name: keep_version_key
-- Whoever comes first gives the deployment its key; the others read it.
UPDATE deployment SET version_key_wrapped = $1, version_key_kek = $2 WHERE version_key_wrapped IS NULL;

-- name: rewrap_version_key
-- From one KEK, or version, to another; a second one who does the same finds it done.
UPDATE deployment SET version_key_wrapped = $2, version_key_kek = $3 WHERE version_key_wrapped = $1 RETURNING id;

-- name: lock_secret
SELECT name, kind, domains, issuer, key_type, key_holder, key_file, proof, fallback FROM secret
 WHERE name = $1 AND deleted_at IS NULL FOR UPDATE;

-- name: secret
SELECT name, kind, domains, issuer, key_type, key_holder, key_file, proof, fallback FROM secret WHERE name = $1 AND deleted_at IS NULL;

-- name: kind_of
-- Of a deleted one as well: for ever is for ever. Locked: of two who bring it back one sees that the other has.
SELECT kind FROM secret WHERE name = $1 FOR UPDATE;

-- name: freeze_secret
-- Frozen twice it stays with who froze it first.
UPDATE secret SET frozen_at = certvoy_now(), frozen_by = $2, frozen_reason = $3
 WHERE name = $1 AND deleted_at IS NULL AND frozen_at IS NULL RETURNING name;

-- name: resume_secret
UPDATE secret SET frozen_at = NULL, frozen_by = NULL, frozen_reason = NULL
 WHERE name = $1 AND deleted_at IS NULL AND frozen_at IS NOT NULL RETURNING name;

-- name: frozen
SELECT frozen_at, frozen_by, frozen_reason FROM secret WHERE name = $1 AND frozen_at IS NOT NULL;

-- name: secrets_page
-- By name, behind $1, each with what it is served with and at how many Targets; what is null is not asked.
SELECT s.name, s.kind, s.domains, s.issuer, s.key_type, s.key_holder, s.key_file, s.proof, s.fallback, c.status,
       coalesce(c.generation, p.generation) AS generation,
       coalesce(c.not_after, p.not_after) AS not_after, c.renew_at, d.targets, d.proved, d.accepted,
       coalesce(r.last_error, p.error) AS last_error, s.frozen_at, s.frozen_by, s.frozen_reason,
       (SELECT rule FROM on_demand_name WHERE secret = s.name) AS on_demand
  FROM (SELECT name, kind, domains, issuer, key_type, key_holder, key_file, proof, fallback, frozen_at, frozen_by, frozen_reason, served_generation
          FROM secret
         WHERE deleted_at IS NULL AND name > $1 AND ($2::text IS NULL OR issuer = $2)
           AND ($3::text IS NULL OR $3 = ANY (domains))
         ORDER BY name LIMIT $4) s
  LEFT JOIN LATERAL (
        SELECT status, generation, not_after, renew_at FROM certificate
         WHERE secret = s.name AND status NOT IN ('replaced', 'rejected', 'revoked')
         ORDER BY generation DESC LIMIT 1) c ON true
  LEFT JOIN LATERAL (
        SELECT q.generation, q.not_after,
               (SELECT error FROM payload WHERE secret = s.name ORDER BY generation DESC LIMIT 1) AS error
          FROM payload q WHERE q.secret = s.name AND q.generation = s.served_generation) p ON true
  CROSS JOIN LATERAL (
        SELECT count(*) AS targets,
               count(*) FILTER (WHERE proved >= coalesce(c.generation, p.generation) AND stale_since IS NULL
                                AND NOT unseen(delivery)) AS proved,
               count(*) FILTER (WHERE accepted >= coalesce(c.generation, p.generation)) AS accepted FROM delivery
         WHERE secret = s.name AND (registered OR seen_until > certvoy_now())) d
  LEFT JOIN certrotation r ON r.secret = s.name AND r.completed_at IS NULL
 ORDER BY s.name;

-- name: undeclared_issuers
-- CAs that are wanted and not among $1, with how many Secrets want them, as the first or to fall back on.
SELECT ca AS issuer, count(*) AS secrets
  FROM secret s CROSS JOIN LATERAL unnest(s.issuer || s.fallback) AS ca
 WHERE s.deleted_at IS NULL AND s.kind = 'tls_certificate' AND ca <> ALL ($1::text[])
 GROUP BY ca ORDER BY ca;

-- name: matching_secrets
-- Certificates whose names begin or end as a pattern of a grant says.
SELECT name FROM secret
 WHERE deleted_at IS NULL AND kind = 'tls_certificate'
   AND (EXISTS (SELECT FROM unnest($1::text[]) AS p WHERE starts_with(name, p))
        OR EXISTS (SELECT FROM unnest($2::text[]) AS s WHERE right(name, length(s)) = s))
 ORDER BY name LIMIT $3;

-- name: secret_created
SELECT created_at FROM secret WHERE name = $1 AND deleted_at IS NULL;

-- name: delete_secret
UPDATE secret SET deleted_at = certvoy_now() WHERE name = $1 AND deleted_at IS NULL RETURNING name;

-- name: forget_deliveries
DELETE FROM delivery
 WHERE secret = $1 AND target_id IN (SELECT target_id FROM delivery WHERE secret = $1 ORDER BY target_id FOR UPDATE);

-- name: insert_secret
-- Nothing happens where the name exists: the caller reads it and compares.
INSERT INTO secret (name, kind, domains, issuer, key_type, proof, key_holder, key_file, fallback) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: update_secret
UPDATE secret SET domains = $2, issuer = $3, key_type = $4, proof = $5, key_holder = $6, key_file = $7, fallback = $8, deleted_at = NULL,
       frozen_at = NULL, frozen_by = NULL, frozen_reason = NULL
 WHERE name = $1;

-- name: change_policy
UPDATE secret SET proof = $2, fallback = $3 WHERE name = $1;

-- ---------------------------------------------------------------- certificates

-- name: move_certificate
-- The one place where a status changes: from $2 to $3, only if it is still $2.
UPDATE certificate SET status = $3, replaced_at = CASE WHEN $3 = 'replaced' THEN certvoy_now() ELSE replaced_at END,
       revoked_at = CASE WHEN $3 = 'revoked' THEN certvoy_now() ELSE revoked_at END
 WHERE id = $1 AND status = $2 RETURNING id;

-- name: certificate_status
SELECT status FROM certificate WHERE id = $1;

-- name: current_certificate
-- The one that is neither on its way out nor over.
SELECT id, status FROM certificate WHERE secret = $1 AND status IN ('issued', 'active', 'expiring_soon');

-- name: insert_certificate
INSERT INTO certificate (id, domain, san_domains, serial_number, not_before, not_after, fingerprint, key_ref, secret,
                         generation, issuer, key_id, spki_sha256, order_url, renew_at, renew_reason)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, coalesce(max(c.generation), 0) + 1, $10, $11, $12, $13, $14, $15
  FROM certificate c WHERE c.secret = $9
RETURNING generation;

-- name: retire_key
-- A Certificate is over: its key is kept for $2, for who has not moved on.
-- One that its Target keeps is not ours to destroy.
INSERT INTO retired_key (cert_id, destroy_at)
SELECT c.id, certvoy_now() + $2::interval FROM certificate c JOIN key_material k ON k.id = c.key_id
 WHERE c.id = $1 AND k.kek_uri <> 'external' ON CONFLICT DO NOTHING;

-- name: retired_keys
-- Keys whose time is over, each with what keeps it still: it is what is served, its own key must sign its revocation, or a Target
-- that counts is not proved to serve a later one.
SELECT r.cert_id, c.secret, c.generation, c.key_id, s.deleted_at IS NULL AND (
         c.generation = (SELECT max(generation) FROM certificate
                          WHERE secret = c.secret AND status NOT IN ('replaced', 'rejected', 'revoked'))
         OR (c.status <> 'rejected' AND EXISTS (
             SELECT FROM delivery d WHERE d.secret = c.secret AND (d.registered OR d.seen_until > certvoy_now())
                AND coalesce(d.proved, 0) <= c.generation)))
       OR EXISTS (SELECT FROM revocation v WHERE v.cert_id = c.id AND v.done_at IS NULL AND c.status <> 'expired') AS kept
  FROM retired_key r JOIN certificate c ON c.id = r.cert_id JOIN secret s ON s.name = c.secret
 WHERE r.destroy_at <= certvoy_now() ORDER BY r.destroy_at LIMIT $1 FOR UPDATE OF s SKIP LOCKED;

-- name: keep_key
UPDATE retired_key SET destroy_at = certvoy_now() + $2::interval WHERE cert_id = $1;

-- name: destroy_key
-- Without the data key the envelope is noise; both go. A key that another Certificate names as well stays.
UPDATE key_material k SET envelope = NULL, dek_wrapped = NULL, destroyed_at = certvoy_now()
 WHERE k.id = $1 AND k.destroyed_at IS NULL
   AND NOT EXISTS (SELECT FROM certificate c WHERE c.key_id = k.id AND c.id <> $2
                      AND c.id NOT IN (SELECT cert_id FROM retired_key))
RETURNING k.id;

-- name: destroy_order_keys
-- Of orders that were given up, the longest over first; what is their Target's to keep, or became a Certificate's, stays.
WITH over AS (
    SELECT o.id, o.key_id, o.issuer, s.name AS secret
      FROM acme_order o JOIN certrotation r ON r.id = o.rotation_id JOIN secret s ON s.name = r.secret
     WHERE o.key_until <= certvoy_now() ORDER BY o.key_until LIMIT $1 FOR UPDATE OF s SKIP LOCKED),
done AS (UPDATE acme_order SET key_until = NULL WHERE id IN (SELECT id FROM over)),
gone AS (
    UPDATE key_material k SET envelope = NULL, dek_wrapped = NULL, destroyed_at = certvoy_now() FROM over
     WHERE k.id = over.key_id AND k.destroyed_at IS NULL AND k.kek_uri <> 'external'
       AND NOT EXISTS (SELECT FROM certificate WHERE key_id = k.id)
       AND NOT EXISTS (SELECT FROM acme_order WHERE key_id = k.id AND state <> 'abandoned')
    RETURNING k.id)
SELECT over.id, over.issuer, over.secret, gone.id AS destroyed FROM over LEFT JOIN gone ON gone.id = over.key_id;

-- name: finished_rotations
-- Over for $1, with nothing left to do for their orders, and nothing of what they brought in use.
SELECT r.id FROM certrotation r
 WHERE r.completed_at <= certvoy_now() - $1::interval
   AND NOT EXISTS (SELECT FROM certificate WHERE id = r.new_cert_id AND status IN ('issued', 'active', 'expiring_soon', 'rotating'))
   AND NOT EXISTS (SELECT FROM acme_order WHERE rotation_id = r.id AND (key_until IS NOT NULL OR state NOT IN ('stored', 'abandoned')))
   AND NOT EXISTS (SELECT FROM challenge_value WHERE rotation_id = r.id)
   AND NOT EXISTS (SELECT FROM challenge_token WHERE rotation_id = r.id)
 ORDER BY r.completed_at LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: forget_orders
WITH given_back AS (
    DELETE FROM rate_reservation WHERE order_id IN (SELECT id FROM acme_order WHERE rotation_id = ANY ($1::bigint[])))
DELETE FROM acme_order WHERE rotation_id = ANY ($1::bigint[]);

-- name: forget_rotations
-- Their canaries go with them.
DELETE FROM certrotation WHERE id = ANY ($1::bigint[]);

-- name: forget_retired
DELETE FROM retired_key WHERE cert_id = $1;

-- name: insert_chain
INSERT INTO certificate_chain (cert_id, chain_pem) VALUES ($1, $2);

-- name: insert_renewal_info
INSERT INTO renewal_info (cert_id) VALUES ($1);

-- name: end_renewal_info
-- Its renewal has begun, or it is over: nobody asks any more.
UPDATE renewal_info SET ask_at = NULL WHERE cert_id = $1;

-- name: claim_renewal_infos
-- Certificates of these issuers ($1) whose CA is to be asked, longest due first; for $2 they are this replica's. A CA that is away,
-- or wants to be left alone for a while, is asked for nothing; one that waits for a person answers whoever has no account too.
UPDATE renewal_info i SET ask_at = certvoy_now() + $2::interval FROM certificate c
 WHERE c.id = i.cert_id AND i.cert_id IN (
       SELECT n.cert_id FROM renewal_info n JOIN certificate d ON d.id = n.cert_id
        WHERE n.ask_at <= certvoy_now() AND d.issuer = ANY ($1::text[]) AND d.status IN ('issued', 'active')
          AND d.not_after > certvoy_now()
          AND NOT EXISTS (SELECT FROM issuer_pause p WHERE p.issuer = d.issuer AND p.until < 'infinity')
        ORDER BY n.ask_at LIMIT $3 FOR UPDATE OF n SKIP LOCKED)
RETURNING c.id, c.secret, c.issuer, i.failures, (SELECT p.chain_pem FROM certificate_chain p WHERE p.cert_id = c.id) AS chain_pem;

-- name: renewal_info
SELECT i.window_start, i.window_end, i.pick_at, i.explanation_url, i.answered_at, i.ask_at, i.error, c.not_before, c.not_after,
       c.issued_at, c.status, c.renew_at, c.renew_reason
  FROM renewal_info i JOIN certificate c ON c.id = i.cert_id WHERE i.cert_id = $1;

-- name: answered_renewal_info
UPDATE renewal_info SET ask_at = CASE WHEN ask_at IS NOT NULL THEN certvoy_now() + $2::interval END, answered_at = certvoy_now(),
       window_start = $3, window_end = $4, pick_at = $5, explanation_url = $6, failures = 0, error = NULL
 WHERE cert_id = $1;

-- name: unanswered_renewal_info
-- Without a word of use ($3: forget) what was said before counts no more.
UPDATE renewal_info SET ask_at = CASE WHEN ask_at IS NOT NULL THEN certvoy_now() + $2::interval END,
       failures = failures + 1, error = $4,
       window_start = CASE WHEN $3 THEN NULL ELSE window_start END, window_end = CASE WHEN $3 THEN NULL ELSE window_end END,
       pick_at = CASE WHEN $3 THEN NULL ELSE pick_at END, explanation_url = CASE WHEN $3 THEN NULL ELSE explanation_url END
 WHERE cert_id = $1;

-- name: plan_renewal
UPDATE certificate SET renew_at = $2, renew_reason = $3
 WHERE id = $1 AND status IN ('issued', 'active') AND (renew_at, renew_reason) IS DISTINCT FROM ($2, $3) RETURNING id;

-- name: wished_renewals
-- When Certificates of the Secret were renewed because their CA wished it, within $2.
SELECT r.triggered_at FROM certrotation r JOIN certificate c ON c.id = r.cert_id
 WHERE r.secret = $1 AND r.reason = 'renewal' AND c.renew_reason LIKE 'ari-%' AND r.triggered_at > certvoy_now() - $2::interval
 ORDER BY r.triggered_at;

-- name: served
-- Which Certificate each name's Secret is served with: the highest generation that is not over.
SELECT s.name, c.id, c.generation
  FROM secret s
  LEFT JOIN LATERAL (
        SELECT id, generation FROM certificate
         WHERE secret = s.name AND status NOT IN ('replaced', 'rejected', 'revoked')
         ORDER BY generation DESC LIMIT 1) c ON true
 WHERE s.name = ANY ($1::text[]) AND s.deleted_at IS NULL;

-- name: offered
-- What each name is offered with: its Certificate, and the one before while that one rolls out, if it may be served still. While
-- only canaries get the new one, all others get that. Hopeless: asked for on demand, and its first order has failed
-- for now, or its CA is left alone.
SELECT s.name, s.kind, c.id, c.generation, r.id AS rotation, r.stage, p.id AS before, t.number AS staple,
       b.number AS before_staple,
       c.id IS NULL AND EXISTS (
           SELECT FROM on_demand_name o JOIN certrotation w ON w.secret = o.secret
            WHERE o.secret = s.name AND w.completed_at IS NULL AND w.new_cert_id IS NULL
              AND (w.last_error IS NOT NULL OR EXISTS (SELECT FROM issuer_pause i WHERE i.issuer = s.issuer))) AS hopeless
  FROM secret s
  LEFT JOIN LATERAL (
        SELECT id, generation FROM certificate
         WHERE secret = s.name AND status NOT IN ('replaced', 'rejected', 'revoked')
         ORDER BY generation DESC LIMIT 1) c ON true
  LEFT JOIN certrotation r ON r.secret = s.name AND r.completed_at IS NULL AND r.new_cert_id = c.id
  LEFT JOIN certificate p ON p.id = r.cert_id AND servable(p)
  LEFT JOIN staple t ON t.cert_id = c.id AND t.next_update > certvoy_now()
  LEFT JOIN staple b ON b.cert_id = p.id AND b.next_update > certvoy_now()
 WHERE s.name = ANY ($1::text[]) AND s.deleted_at IS NULL;

-- name: canary_peers
-- One that was never seen, but is pushed to, has no node id yet.
SELECT k.rotation_id, t.identity, coalesce(t.node_id, '') AS node_id FROM canary k JOIN target t ON t.id = k.target_id
 WHERE k.rotation_id = ANY ($1::bigint[]) AND t.identity IS NOT NULL;

-- name: salted_peers
-- Who gets its Certificate as other bytes, the longest waiting first.
SELECT d.secret, t.identity, coalesce(t.node_id, '') AS node_id, d.salt FROM delivery d JOIN target t ON t.id = d.target_id
 WHERE d.salt > 0 AND d.secret = ANY ($1::text[]) AND t.identity IS NOT NULL ORDER BY d.salted_at LIMIT $2;

-- name: offered_leaf
-- What Target $2 is offered of a Secret, as an agent names it.
SELECT w.id, w.generation, w.fingerprint
  FROM (SELECT id FROM certificate
         WHERE secret = $1 AND status NOT IN ('replaced', 'rejected', 'revoked') ORDER BY generation DESC LIMIT 1) c
  LEFT JOIN certrotation r ON r.secret = $1 AND r.completed_at IS NULL AND r.new_cert_id = c.id AND r.stage = 'canary'
  LEFT JOIN canary k ON k.rotation_id = r.id AND k.target_id = $2
  LEFT JOIN certificate p ON p.id = r.cert_id AND k.target_id IS NULL AND servable(p)
  JOIN certificate w ON w.id = coalesce(p.id, c.id);

-- name: rolled_back
-- Of these Secrets those whose newest Certificate is older than the last one that the audit tells was issued, and neither taken
-- back nor revoked. In one statement, so that both are of one moment.
SELECT n.name, served.generation AS served, told.generation AS told
  FROM unnest($1::text[]) AS n (name)
 CROSS JOIN LATERAL (
       SELECT max(c.generation) AS generation FROM certificate c
        WHERE c.secret = n.name AND c.status NOT IN ('replaced', 'rejected', 'revoked')) served
 CROSS JOIN LATERAL (
       SELECT (i.payload::json ->> 'generation')::int AS generation FROM certaudit i
        WHERE i.subject = n.name AND i.action = 'certificate.issued'
          AND NOT EXISTS (SELECT FROM certaudit o WHERE o.subject = n.name AND o.cert_id = i.cert_id
                             AND o.action IN ('certificate.rejected', 'certificate.revoked'))
        ORDER BY i.id DESC LIMIT 1) told
 WHERE told.generation > coalesce(served.generation, 0);

-- name: rolled_back_payloads
-- The same of what is no certificate.
SELECT n.name, served.generation AS served, told.generation AS told
  FROM unnest($1::text[]) AS n (name)
 CROSS JOIN LATERAL (
       SELECT max(p.generation) AS generation FROM payload p
        WHERE p.secret = n.name AND p.outcome IS DISTINCT FROM 'rejected') served
 CROSS JOIN LATERAL (
       SELECT (i.payload::json ->> 'generation')::int AS generation FROM certaudit i
        WHERE i.subject = n.name AND i.action = 'payload.stored'
          AND NOT EXISTS (SELECT FROM certaudit o WHERE o.subject = n.name AND o.action = 'payload.rejected'
                             AND o.payload::json ->> 'generation' = i.payload::json ->> 'generation')
        ORDER BY i.id DESC LIMIT 1) told
 WHERE told.generation > coalesce(served.generation, 0);

-- name: pairs
-- All that is needed to serve these Certificates: chain and sealed key, or where an Envoy finds it, and the staple, if there is one
-- that has not ended.
SELECT c.id, c.secret, c.generation, c.status, c.domain, c.san_domains, c.issuer, c.serial_number, c.not_before, c.not_after,
       c.fingerprint, c.key_ref, c.renew_at, c.renew_reason, p.chain_pem, s.key_file,
       k.id AS key_id, k.purpose, k.spki_sha256, k.suite, k.envelope, k.dek_wrapped, k.kek_uri, k.kek_version,
       t.response, t.this_update, t.next_update, t.number AS staple, t.issuer_der
  FROM certificate c
  JOIN secret s ON s.name = c.secret
  JOIN certificate_chain p ON p.cert_id = c.id
  JOIN key_material k ON k.id = c.key_id
  LEFT JOIN staple t ON t.cert_id = c.id AND t.next_update > certvoy_now()
 WHERE c.id = ANY ($1::uuid[]) AND k.destroyed_at IS NULL;

-- name: certificates
-- By the end of their life and id, behind ($7, $8); what is null is not asked.
SELECT c.id, c.secret, c.generation, c.status, c.domain, c.san_domains, c.issuer, c.serial_number, c.not_before, c.not_after,
       c.fingerprint, c.key_id, c.key_ref, c.renew_at, c.renew_reason, c.issued_at, c.replaced_at, c.revoked_at
  FROM certificate c
 WHERE ($1::text IS NULL OR c.secret = $1) AND ($2::text IS NULL OR c.status = $2) AND ($3::text IS NULL OR c.issuer = $3)
   AND ($4::text IS NULL OR c.domain = $4 OR c.san_domains ? $4) AND ($5::text IS NULL OR c.fingerprint = $5)
   AND ($6::timestamptz IS NULL OR c.not_after < $6) AND (c.not_after, c.id) > ($7::timestamptz, $8::uuid)
 ORDER BY c.not_after, c.id LIMIT $9;

-- name: certificate
SELECT c.id, c.secret, c.generation, c.status, c.domain, c.san_domains, c.issuer, c.serial_number, c.not_before, c.not_after,
       c.fingerprint, c.key_id, c.key_ref, c.renew_at, c.renew_reason, c.issued_at, c.replaced_at, c.revoked_at, p.chain_pem
  FROM certificate c JOIN certificate_chain p ON p.cert_id = c.id WHERE c.id = $1;

-- name: same_certificate
-- The one with this leaf, or with this serial number of this CA, whatever became of it.
SELECT c.id, c.secret, c.generation, c.status, p.chain_pem FROM certificate c JOIN certificate_chain p ON p.cert_id = c.id
 WHERE c.fingerprint = $1 OR (c.issuer = $2 AND c.serial_number = $3) LIMIT 1;

-- name: compromised_key
SELECT c.secret, c.generation FROM certificate c JOIN revocation r ON r.cert_id = c.id
 WHERE c.spki_sha256 = $1 AND r.reason = 'keyCompromise' LIMIT 1;

-- name: generations
-- Which generation of Secret $1 each of these leaves is.
SELECT fingerprint, generation FROM certificate WHERE secret = $1 AND fingerprint = ANY ($2::text[]);

-- name: serials
SELECT serial_number, generation FROM certificate WHERE secret = $1 ORDER BY generation DESC LIMIT $2;

-- name: due_renewals
-- Nearest expiry first of the $2 that have been due for longest; a Secret that somebody else is at is passed over. One that
-- lapsed while it was rolled out, by Targets that nobody reaches, is due as well.
SELECT c.id, c.secret, c.renew_reason, c.renew_at, c.not_before, c.not_after FROM certificate c JOIN secret s ON s.name = c.secret
 WHERE c.id = ANY (ARRAY(
        (SELECT d.id FROM certificate d JOIN secret o ON o.name = d.secret
          WHERE d.status IN ('issued', 'active') AND d.renew_at <= certvoy_now()
            AND o.deleted_at IS NULL AND o.issuer <> 'upload' AND o.frozen_at IS NULL
          ORDER BY d.renew_at LIMIT $2)
         UNION ALL
        (SELECT n.id FROM certrotation r JOIN certificate n ON n.id = r.new_cert_id
          WHERE r.completed_at IS NULL AND r.needed_by <= certvoy_now() AND n.status = 'expired'
          ORDER BY r.needed_by LIMIT $2)))
   AND s.deleted_at IS NULL AND s.issuer <> 'upload' AND s.frozen_at IS NULL
 ORDER BY c.not_after LIMIT $1 FOR UPDATE OF s SKIP LOCKED;

-- name: still_due
SELECT 1 FROM certificate c
 WHERE c.id = $1 AND c.renew_at <= certvoy_now()
   AND (c.status IN ('issued', 'active')
        OR (c.status = 'expired' AND EXISTS (
            SELECT FROM certrotation r WHERE r.new_cert_id = c.id AND r.completed_at IS NULL)));

-- name: lapsed
-- A current one whose renewal is not open yet waits until it is: once it is expired nothing would open one. Nothing ever
-- does where pairs are uploaded, nor while a Secret is frozen.
SELECT c.id, c.status FROM certificate c JOIN secret s ON s.name = c.secret
 WHERE c.status IN ('issued', 'active', 'expiring_soon', 'rotating', 'replaced') AND c.not_after <= certvoy_now()
   AND (c.status NOT IN ('issued', 'active') OR s.deleted_at IS NOT NULL OR s.issuer = 'upload' OR s.frozen_at IS NOT NULL
        OR EXISTS (SELECT FROM certrotation r WHERE r.secret = c.secret AND r.completed_at IS NULL))
 ORDER BY c.not_after LIMIT $1 FOR UPDATE OF s SKIP LOCKED;

-- ---------------------------------------------------------------- payloads

-- name: insert_payload
INSERT INTO payload (secret, generation, kind, phase, content, key_id, not_after, created_by)
SELECT $1, coalesce(max(p.generation), 0) + 1, $2, $3, $4, $5, $6, $7 FROM payload p WHERE p.secret = $1
RETURNING generation;

-- name: end_payload
-- From open to over; a second end changes nothing.
UPDATE payload SET completed_at = certvoy_now(), outcome = $3, evidence = $4, error = $5
 WHERE secret = $1 AND generation = $2 AND completed_at IS NULL RETURNING generation;

-- name: supersede_payload
-- Another version comes, or none.
UPDATE payload SET completed_at = certvoy_now(), outcome = 'superseded' WHERE secret = $1 AND completed_at IS NULL;

-- name: retire_payload_keys
-- At most $2 sealed versions whose end is $1 ago and that nobody needs: a later one is with all, or the Secret is deleted. Without
-- the data key the envelope is noise; both go.
UPDATE key_material k SET envelope = NULL, dek_wrapped = NULL, destroyed_at = certvoy_now()
  FROM payload p
 WHERE p.key_id = k.id AND k.destroyed_at IS NULL AND k.id IN (
        SELECT q.key_id FROM payload q JOIN secret o ON o.name = q.secret JOIN key_material m ON m.id = q.key_id
         WHERE m.destroyed_at IS NULL AND q.completed_at < certvoy_now() - $1::interval
           AND (o.deleted_at < certvoy_now() - $1::interval
                OR EXISTS (SELECT FROM payload l WHERE l.secret = q.secret AND l.generation > q.generation
                              AND l.generation <= o.served_generation AND l.outcome IN ('completed', 'completed_unobserved')
                              AND l.completed_at < certvoy_now() - $1::interval))
         ORDER BY q.secret, q.generation LIMIT $2 FOR UPDATE OF o SKIP LOCKED)
RETURNING p.secret, p.generation, k.id AS key_id;

-- name: reject_payload
-- Whatever it was: it is not offered any more.
UPDATE payload SET completed_at = certvoy_now(), outcome = 'rejected', error = $3
 WHERE secret = $1 AND generation = $2 AND outcome IS DISTINCT FROM 'rejected' RETURNING generation;

-- name: offered_payloads
-- What each of these names is offered, and what is left for who refused that: the newest that a fleet has taken. While canaries
-- alone get it ("staged") all others get the one before that.
SELECT s.name, s.kind, p.generation, p.completed_at IS NOT NULL AS proven, b.generation AS before,
       CASE WHEN p.stage = 'canary' AND p.completed_at IS NULL THEN payload_before(p) END AS staged
  FROM secret s
  LEFT JOIN payload p ON p.secret = s.name AND p.generation = s.served_generation
  LEFT JOIN LATERAL (
        SELECT generation FROM payload
         WHERE secret = s.name AND generation < p.generation AND outcome IN ('completed', 'completed_unobserved')
         ORDER BY generation DESC LIMIT 1) b ON p.completed_at IS NULL
 WHERE s.name = ANY ($1::text[]) AND s.deleted_at IS NULL AND s.kind <> 'tls_certificate';

-- name: payload_canary_peers
SELECT k.secret, t.identity, coalesce(t.node_id, '') AS node_id
  FROM payload_canary k JOIN target t ON t.id = k.target_id
 WHERE (k.secret, k.generation) IN (SELECT * FROM unnest($1::text[], $2::int[])) AND t.identity IS NOT NULL;

-- name: payload_to_canaries
UPDATE payload SET stage = 'canary' WHERE secret = $1 AND generation = $2 AND completed_at IS NULL;

-- name: payload_to_all
-- From canaries to all; a second time changes nothing.
UPDATE payload SET stage = 'fleet' WHERE secret = $1 AND generation = $2 AND completed_at IS NULL AND stage = 'canary'
RETURNING generation;

-- name: add_payload_canaries
INSERT INTO payload_canary (secret, generation, target_id) SELECT $1, $2, unnest($3::bigint[]) ON CONFLICT DO NOTHING;

-- name: payload_canaries
SELECT target_id, certvoy_now() - asked_at AS asked_for FROM payload_canary WHERE secret = $1 AND generation = $2;

-- name: payloads
-- These versions, with what is needed to open them.
SELECT p.secret, p.generation, p.kind, p.phase, p.stage, p.content, p.not_after, p.created_at, p.created_by, p.completed_at,
       p.outcome, p.evidence, p.error, k.id AS key_id, k.purpose, k.spki_sha256, k.suite, k.envelope, k.dek_wrapped, k.kek_uri, k.kek_version
  FROM payload p LEFT JOIN key_material k ON k.id = p.key_id AND k.destroyed_at IS NULL
 WHERE (p.secret, p.generation) IN (SELECT * FROM unnest($1::text[], $2::int[])) AND (p.key_id IS NULL OR k.id IS NOT NULL);

-- name: served_payload
-- The one that is offered under the name.
SELECT p.secret, p.generation, p.kind, p.phase, p.stage, p.content, p.not_after, p.created_at, p.created_by, p.completed_at,
       p.outcome, p.evidence, p.error, k.id AS key_id, k.purpose, k.spki_sha256, k.suite, k.envelope, k.dek_wrapped, k.kek_uri, k.kek_version
  FROM secret s JOIN payload p ON p.secret = s.name AND p.generation = s.served_generation
  LEFT JOIN key_material k ON k.id = p.key_id AND k.destroyed_at IS NULL
 WHERE s.name = $1 AND s.deleted_at IS NULL;

-- name: payload_history
-- The newest $2, without what they hold.
SELECT secret, generation, kind, phase, stage, NULL AS content, not_after, created_at, created_by, completed_at, outcome, evidence,
       error, NULL AS key_id
  FROM payload WHERE secret = $1 ORDER BY generation DESC LIMIT $2;

-- name: open_payload
-- The version of a Secret that its Targets must take, and the one before.
SELECT p.secret, p.generation, p.kind, p.phase, p.content, p.stage, s.frozen_at IS NOT NULL AS frozen,
       certvoy_now() - p.created_at AS age, payload_before(p) AS before
  FROM payload p JOIN secret s ON s.name = p.secret AND s.deleted_at IS NULL
 WHERE p.secret = $1 AND p.completed_at IS NULL;

-- name: claim_payload_looks
-- As claim_looks: this replica, and nobody for $1 or, after the first minute, for a twentieth of their age, a minute at most.
UPDATE payload p SET look_at = certvoy_now() + greatest($1::interval, least(
         (certvoy_now() - interval '1 minute' - p.created_at) / 20, interval '1 minute'))
 WHERE (p.secret, p.generation) IN (
        SELECT secret, generation FROM payload WHERE completed_at IS NULL AND look_at <= certvoy_now()
         ORDER BY look_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING p.secret;

-- name: chains_served
-- Certificates that some Target of a live set is served, or may be, each with its chain; behind ($1, $2).
SELECT c.secret, c.generation, n.chain_pem
  FROM certificate c JOIN secret s ON s.name = c.secret AND s.deleted_at IS NULL
  JOIN certificate_chain n ON n.cert_id = c.id
 WHERE c.status IN ('issued', 'active', 'expiring_soon', 'rotating') AND (c.secret, c.generation) > ($1, $2)
   AND EXISTS (SELECT FROM delivery d WHERE d.secret = c.secret AND (d.registered OR d.seen_until > certvoy_now()))
 ORDER BY c.secret, c.generation LIMIT $3;

-- name: put_ticket_schedule
-- A new one is due at once; another interval counts from the last key.
INSERT INTO ticket_schedule AS t (secret, rotate_every, keep) VALUES ($1, $2, $3)
ON CONFLICT (secret) DO UPDATE
   SET rotate_every = excluded.rotate_every, keep = excluded.keep, next_at = t.next_at - t.rotate_every + excluded.rotate_every
 WHERE (t.rotate_every, t.keep) IS DISTINCT FROM (excluded.rotate_every, excluded.keep) RETURNING secret;

-- name: hasten_ticket_schedule
UPDATE ticket_schedule SET next_at = certvoy_now() WHERE secret = $1 RETURNING secret;

-- name: forget_ticket_schedule
DELETE FROM ticket_schedule WHERE secret = $1;

-- name: ticket_schedule
SELECT rotate_every, keep, next_at FROM ticket_schedule WHERE secret = $1;

-- name: claim_ticket_schedule
-- One that is due, kept from others for $1: a key is made and sealed outside of any transaction.
UPDATE ticket_schedule SET leased_until = certvoy_now() + $1::interval
 WHERE secret = (SELECT t.secret FROM ticket_schedule t JOIN secret s ON s.name = t.secret
                  WHERE t.next_at <= certvoy_now() AND (t.leased_until IS NULL OR t.leased_until <= certvoy_now())
                    AND s.deleted_at IS NULL AND s.frozen_at IS NULL
                  ORDER BY t.next_at LIMIT 1 FOR UPDATE OF t SKIP LOCKED)
RETURNING secret, keep;

-- name: ticket_rotated
-- One that somebody wanted since it was claimed, for $2, is due still.
UPDATE ticket_schedule
   SET next_at = CASE WHEN next_at > leased_until - $2::interval THEN next_at ELSE certvoy_now() + rotate_every END,
       leased_until = NULL
 WHERE secret = $1;

-- ---------------------------------------------------------------- staples

-- name: expect_staple
INSERT INTO staple (cert_id, url, issuer_der, must) VALUES ($1, $2, $3, $4);

-- name: forget_staples
-- At most $1 of those that are due, of Certificates that are over: nobody staples them.
DELETE FROM staple WHERE cert_id = ANY (ARRAY(
        SELECT t.cert_id FROM staple t JOIN certificate c ON c.id = t.cert_id
         WHERE t.next_at <= certvoy_now() AND c.status IN ('replaced', 'rejected', 'expired', 'revoked')
         LIMIT $1 FOR UPDATE OF t SKIP LOCKED));

-- name: claim_staples
-- Those about which a responder is asked now, kept from other replicas for $1; of issuers $3 none.
UPDATE staple t SET next_at = certvoy_now() + $1::interval
  FROM certificate c, certificate_chain p
 WHERE c.id = t.cert_id AND p.cert_id = t.cert_id AND t.cert_id = ANY (ARRAY(
        SELECT d.cert_id FROM staple d JOIN certificate c ON c.id = d.cert_id
          JOIN secret s ON s.name = c.secret AND s.deleted_at IS NULL
         WHERE d.next_at <= certvoy_now() AND d.revoked_at IS NULL AND c.issuer <> ALL ($3::text[])
           AND c.status IN ('issued', 'active', 'expiring_soon', 'rotating')
         ORDER BY d.next_at LIMIT $2 FOR UPDATE OF d SKIP LOCKED))
RETURNING t.cert_id, c.secret, c.generation, c.issuer, p.chain_pem, t.url, t.issuer_der, t.attempts, t.response, t.this_update,
          t.next_update;

-- name: keep_staple
-- $5: when the next one is fetched; $6: whether it is another one than before.
UPDATE staple
   SET response = $2, this_update = $3, next_update = $4, next_at = certvoy_now() + $5::interval, attempts = 0, error = NULL,
       number = number + CASE WHEN $6::boolean THEN 1 ELSE 0 END
 WHERE cert_id = $1 AND revoked_at IS NULL RETURNING number;

-- name: staple_failed
UPDATE staple SET error = $2, attempts = attempts + 1, next_at = certvoy_now() + $3::interval WHERE cert_id = $1;

-- name: staple_revoked
-- The CA says that it has revoked it: what it said before is stapled no more.
UPDATE staple
   SET revoked_at = certvoy_now(), response = NULL, this_update = NULL, next_update = NULL, error = NULL, next_at = 'infinity'
 WHERE cert_id = $1 AND revoked_at IS NULL RETURNING cert_id;

-- name: stapling
SELECT url, must, next_update, next_at, revoked_at, error FROM staple WHERE cert_id = $1;

-- name: staple_dates
-- Of what is served, those that end first.
SELECT c.secret, t.this_update, t.next_update
  FROM staple t JOIN certificate c ON c.id = t.cert_id
  JOIN secret s ON s.name = c.secret AND s.served_generation = c.generation AND s.deleted_at IS NULL
 WHERE t.next_update IS NOT NULL ORDER BY t.next_update LIMIT $1;

-- ---------------------------------------------------------------- CAs that are fallen back on

-- name: look_at_fallbacks
-- A Secret that names some is looked at now, and one that names none no more.
WITH gone AS (DELETE FROM fallback_look l USING secret s WHERE l.secret = $1 AND s.name = $1 AND s.fallback = '{}')
INSERT INTO fallback_look (secret) SELECT name FROM secret WHERE name = $1 AND fallback <> '{}'
ON CONFLICT (secret) DO UPDATE SET look_at = certvoy_now();

-- name: forget_fallback_look
DELETE FROM fallback_look WHERE secret = $1;

-- name: claim_fallback_looks
-- Those that are looked at now, kept from other replicas for $1.
UPDATE fallback_look SET look_at = certvoy_now() + $1::interval
 WHERE secret = ANY (ARRAY(
       SELECT secret FROM fallback_look WHERE look_at <= certvoy_now() ORDER BY look_at LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING secret, found;

-- name: fallbacks_looked
UPDATE fallback_look SET found = $2, look_at = certvoy_now() + $3::interval WHERE secret = $1;

-- name: fallback_findings
SELECT found FROM fallback_look WHERE secret = $1;

-- ---------------------------------------------------------------- revocation lists

-- name: expect_crl
-- One that nobody needed any more is looked at again; so is one that may list already ($3) what somebody brings. No other is
-- locked: all that are issued name a few lists.
WITH made AS (INSERT INTO crl (url, issuer_der, uploaded) VALUES ($1, $2, $3)
              ON CONFLICT (url, issuer_sha256, uploaded) DO NOTHING)
UPDATE crl SET next_at = certvoy_now(), etag = NULL
 WHERE url = $1 AND issuer_sha256 = sha256($2) AND uploaded = $3 AND (next_at = 'infinity' OR uploaded);

-- name: tell_by_crl
INSERT INTO crl_certificate (cert_id, crl_id)
SELECT $1, id FROM crl WHERE url = $2 AND issuer_sha256 = sha256($3) AND uploaded = $4;

-- name: claim_crls
-- Those that are looked at now, kept from other replicas for $1.
UPDATE crl SET next_at = certvoy_now() + $1::interval
 WHERE id = ANY (ARRAY(SELECT id FROM crl WHERE next_at <= certvoy_now() ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, url, issuer_der, uploaded, attempts, etag, this_update, next_update;

-- name: forget_told_by_crl
-- Nobody asks whether what is over is revoked.
DELETE FROM crl_certificate k USING certificate c
 WHERE k.crl_id = $1 AND c.id = k.cert_id AND c.status IN ('replaced', 'rejected', 'expired', 'revoked');

-- name: told_by_crl
SELECT c.id, c.secret, c.generation, c.serial_number FROM crl_certificate k JOIN certificate c ON c.id = k.cert_id
 WHERE k.crl_id = $1 AND c.issuer <> ALL ($2::text[]);

-- name: rest_crl
UPDATE crl SET attempts = 0, error = NULL, next_at = CASE WHEN EXISTS (SELECT FROM crl_certificate WHERE crl_id = $1)
                                                          THEN certvoy_now() + $2::interval ELSE 'infinity' END
 WHERE id = $1;

-- name: crl_read
UPDATE crl SET this_update = $2, next_update = $3, etag = $4, next_at = certvoy_now() + $5::interval, attempts = 0, error = NULL
 WHERE id = $1;

-- name: crl_failed
UPDATE crl SET error = $2, attempts = attempts + 1, next_at = certvoy_now() + $3::interval WHERE id = $1;

-- ---------------------------------------------------------------- revocations

-- name: certificate_to_revoke
-- Generation $2 of Secret $1; null: the one that is served.
SELECT id, generation, status, issuer FROM certificate
 WHERE secret = $1 AND CASE WHEN $2::int IS NULL THEN status NOT IN ('replaced', 'rejected', 'revoked') ELSE generation = $2 END
 ORDER BY generation DESC LIMIT 1;

-- name: want_revocation
-- Asked for again it is tried now; for another reason, or at once, as was said last. What is done stays as it is.
INSERT INTO revocation AS r (cert_id, reason, at_once) VALUES ($1, $2, $3)
ON CONFLICT (cert_id) DO UPDATE
   SET reason = excluded.reason, at_once = r.at_once OR excluded.at_once, next_attempt_at = certvoy_now()
 WHERE r.done_at IS NULL;

-- name: claim_revocation
-- One that the CA may be asked for, kept from others for $1; the conditions are repeated, as nothing was locked.
UPDATE revocation SET attempts = attempts + 1, next_attempt_at = certvoy_now() + $1::interval
 WHERE done_at IS NULL AND next_attempt_at <= certvoy_now()
   AND cert_id = (SELECT r.cert_id FROM revocation r JOIN certificate c ON c.id = r.cert_id
                   WHERE r.done_at IS NULL AND r.next_attempt_at <= certvoy_now() AND revocable(c, r.at_once)
                     AND NOT EXISTS (SELECT FROM issuer_pause p WHERE p.issuer = c.issuer)
                   ORDER BY r.at_once DESC, r.next_attempt_at LIMIT 1)
RETURNING cert_id, reason, attempts;

-- name: lock_secret_of
-- Deleted or not: what somebody wanted revoked is revoked.
SELECT s.name FROM certificate c JOIN secret s ON s.name = c.secret WHERE c.id = $1 FOR UPDATE OF s;

-- name: revocation_done
UPDATE revocation SET done_at = certvoy_now(), error = NULL WHERE cert_id = $1 AND done_at IS NULL RETURNING reason;

-- name: revocation_failed
UPDATE revocation SET error = $2, next_attempt_at = certvoy_now() + $3::interval
 WHERE cert_id = $1 AND done_at IS NULL RETURNING cert_id;

-- name: revocations
-- Newest generation first, of one Secret or of these Certificates.
SELECT r.cert_id, r.reason, r.at_once, r.wanted_at, r.attempts, r.next_attempt_at, r.error, r.done_at,
       c.secret, c.generation, c.status, revocable(c, r.at_once) AS ready
  FROM revocation r JOIN certificate c ON c.id = r.cert_id
 WHERE ($1::text IS NULL OR c.secret = $1) AND ($2::uuid[] IS NULL OR c.id = ANY ($2))
 ORDER BY c.generation DESC LIMIT $3;

-- name: served_of_issuer
-- What Secrets behind $2 are served with of this issuer, by name. Frozen ones stay as they are.
SELECT s.name, c.generation FROM secret s
  JOIN LATERAL (
        SELECT generation, issuer FROM certificate
         WHERE secret = s.name AND status NOT IN ('replaced', 'rejected', 'revoked')
         ORDER BY generation DESC LIMIT 1) c ON c.issuer = $1
 WHERE s.deleted_at IS NULL AND s.frozen_at IS NULL AND s.name > $2 ORDER BY s.name LIMIT $3;

-- name: mass_progress
-- Rotations since $2 that replace what this issuer issued and is to be revoked, or would be in a drill.
SELECT count(*) AS total,
       count(*) FILTER (WHERE r.completed_at IS NULL AND r.new_cert_id IS NULL) AS waiting,
       count(*) FILTER (WHERE r.completed_at IS NULL AND r.new_cert_id IS NOT NULL) AS rolling_out,
       count(*) FILTER (WHERE r.completed_at IS NOT NULL) AS replaced,
       count(v.done_at) AS revoked
  FROM certrotation r JOIN certificate c ON c.id = r.cert_id LEFT JOIN revocation v ON v.cert_id = c.id
 WHERE r.reason = 'revoked' AND r.triggered_at >= $2 AND c.issuer = $1;

-- name: mass_waiting
-- The names of those that are still to be ordered, at most $3.
SELECT s.domains FROM certrotation r JOIN certificate c ON c.id = r.cert_id JOIN secret s ON s.name = r.secret
 WHERE r.reason = 'revoked' AND r.triggered_at >= $2 AND c.issuer = $1 AND r.completed_at IS NULL AND r.new_cert_id IS NULL
 ORDER BY r.needed_by, r.id LIMIT $3;

-- ---------------------------------------------------------------- rotations

-- name: open_rotation
SELECT id, cert_id, new_cert_id, stage FROM certrotation WHERE secret = $1 AND completed_at IS NULL;

-- name: rotations_for_change
-- How many Rotations began within this time because something was changed, such as a key that is gone.
SELECT count(*) FROM certrotation WHERE secret = $1 AND reason = 'changed' AND triggered_at > certvoy_now() - $2::interval;

-- name: insert_rotation
-- Nothing is ordered for it before $4; null: at once.
INSERT INTO certrotation (secret, cert_id, reason, by_hand, starts_at, next_attempt_at)
SELECT $1, $2, $3, $3 = 'operator', at, at FROM (SELECT greatest(certvoy_now(), $4::timestamptz) AS at) t RETURNING id;

-- name: hasten_rotation
-- An open Rotation that waits for its next attempt is tried now; $2: a person wants it.
UPDATE certrotation SET next_attempt_at = certvoy_now(), starts_at = least(starts_at, certvoy_now()), by_hand = by_hand OR $2 WHERE id = $1 AND completed_at IS NULL AND new_cert_id IS NULL;

-- name: hasten_key_awaited
-- One that waits for a signing request alone. What the CA has refused keeps its pause: a Target that brings one request after the
-- other must not have us order as often.
UPDATE certrotation SET next_attempt_at = certvoy_now()
 WHERE id = $1 AND completed_at IS NULL AND new_cert_id IS NULL AND last_error->>'rule' = 'csr' RETURNING id;

-- name: take_rotation_back
-- The Secret was changed: whoever holds the Lease has lost it, and the Rotation is claimed anew.
UPDATE certrotation SET lease_no = lease_no + 1, leased_until = NULL, next_attempt_at = certvoy_now()
 WHERE id = $1 AND completed_at IS NULL AND new_cert_id IS NULL;

-- name: end_rotation
UPDATE certrotation SET completed_at = certvoy_now(), outcome = $2, leased_until = NULL, evidence = $3
 WHERE id = $1 AND completed_at IS NULL RETURNING id;

-- name: claimable
-- One Rotation that wants a worker, nearest expiry first; a first issuance has no date and comes when nothing is urgent. Looked
-- for among the $1 most urgent of those that nobody has tried, and the $1 that wait for longest to be tried again. Where
-- pairs are uploaded an open one waits for a person; what is frozen waits as well, and, where the CA is left alone, for its
-- return; so does what would be one more than issuers $2 may have worked on at once, each $3. One that waits for DNS asks its CA
-- for nothing meanwhile, and counts for none.
WITH full_up AS MATERIALIZED (
     SELECT w.issuer FROM certrotation l JOIN secret w ON w.name = l.secret
       JOIN unnest($2::text[], $3::int[]) AS most (issuer, number) ON most.issuer = w.issuer
      WHERE l.completed_at IS NULL AND l.new_cert_id IS NULL AND l.leased_until > certvoy_now() AND NOT l.waits_for_dns
      GROUP BY w.issuer, most.number HAVING count(*) >= most.number)
SELECT r.id, r.secret, s.issuer FROM certrotation r JOIN secret s ON s.name = r.secret
 WHERE r.id = ANY (ARRAY(
        (SELECT u.id FROM certrotation u JOIN secret o ON o.name = u.secret
          WHERE u.completed_at IS NULL AND u.new_cert_id IS NULL AND u.attempts = 0 AND u.next_attempt_at <= certvoy_now()
            AND o.deleted_at IS NULL AND o.issuer <> 'upload' AND o.frozen_at IS NULL
             AND (o.issuer NOT IN (SELECT issuer FROM issuer_pause) OR (o.fallback <> '{}' AND may_fall_back(o)))
             AND o.issuer NOT IN (SELECT issuer FROM full_up)
          ORDER BY u.needed_by, u.triggered_at LIMIT $1)
         UNION ALL
        (SELECT a.id FROM certrotation a JOIN secret o ON o.name = a.secret
          WHERE a.completed_at IS NULL AND a.new_cert_id IS NULL AND a.attempts > 0 AND a.next_attempt_at <= certvoy_now()
            AND (a.leased_until IS NULL OR a.leased_until < certvoy_now())
            AND o.deleted_at IS NULL AND o.issuer <> 'upload' AND o.frozen_at IS NULL
             AND (o.issuer NOT IN (SELECT issuer FROM issuer_pause) OR (o.fallback <> '{}' AND may_fall_back(o)))
             AND o.issuer NOT IN (SELECT issuer FROM full_up)
          ORDER BY a.next_attempt_at LIMIT $1)))
   AND s.deleted_at IS NULL AND s.issuer <> 'upload' AND s.frozen_at IS NULL
 ORDER BY r.needed_by, r.triggered_at LIMIT 1 FOR UPDATE OF s SKIP LOCKED;

-- name: lock_claims
SELECT pg_advisory_xact_lock(hashtextextended('certvoy claims of ' || $1::text, 0));

-- name: claimed_of
-- How many Rotations of the issuer are worked on now, those left out that wait for DNS.
SELECT count(*) FROM certrotation l JOIN secret s ON s.name = l.secret
 WHERE l.completed_at IS NULL AND l.new_cert_id IS NULL AND l.leased_until > certvoy_now() AND NOT l.waits_for_dns
   AND s.issuer = $1;

-- name: claim
-- The lease number grows with every claim; the condition is repeated because the row was not locked when it was found.
UPDATE certrotation
   SET lease_no = lease_no + 1, leased_by = $2, leased_until = certvoy_now() + $3::interval, attempts = attempts + 1,
       waits_for_dns = false
 WHERE id = $1 AND completed_at IS NULL AND new_cert_id IS NULL AND next_attempt_at <= certvoy_now()
   AND (leased_until IS NULL OR leased_until < certvoy_now())
RETURNING id, secret, reason, cert_id, lease_no, leased_until, attempts, by_hand,
          (SELECT issuer FROM secret WHERE name = certrotation.secret) AS issuer;

-- name: extend_lease
UPDATE certrotation SET leased_until = certvoy_now() + $3::interval
 WHERE id = $1 AND lease_no = $2 AND leased_until > certvoy_now() AND completed_at IS NULL RETURNING leased_until;

-- name: wait_for_dns
-- Whoever works on it begins ($3) or ends to wait for DNS.
UPDATE certrotation SET waits_for_dns = $3
 WHERE id = $1 AND lease_no = $2 AND leased_until > certvoy_now() AND completed_at IS NULL RETURNING id;

-- name: hold_lease
-- Every write of a worker begins here: no row, no right.
SELECT id, cert_id FROM certrotation
 WHERE id = $1 AND lease_no = $2 AND leased_until > certvoy_now() AND completed_at IS NULL AND new_cert_id IS NULL
   FOR UPDATE;

-- name: rotation_stored
UPDATE certrotation SET new_cert_id = $2, leased_until = NULL, last_error = NULL, stage = 'fleet', overruled = false,
       look_at = certvoy_now()
 WHERE id = $1;

-- name: rotation_failed
-- Back into the queue with the reason, due again after $3; null: held, until a person hastens it. An attempt that could not succeed, whatever was tried, does not
-- count ($4).
UPDATE certrotation SET leased_until = NULL, next_attempt_at = coalesce(certvoy_now() + $3::interval, 'infinity'), last_error = $2,
       attempts = CASE WHEN $4 THEN attempts ELSE greatest(attempts - 1, 0) END
 WHERE id = $1;

-- name: release_lease
-- The attempt was stopped in the middle: it does not count, and whoever is next goes on at once.
UPDATE certrotation SET leased_until = NULL, attempts = greatest(attempts - 1, 0) WHERE id = $1;

-- name: rotation_of_new
SELECT r.id, r.cert_id, r.attempts, c.generation FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id
 WHERE r.new_cert_id = $1 AND r.completed_at IS NULL FOR UPDATE OF r;

-- name: rotation_rejected
-- Its new Certificate was refused: the same Rotation tries again.
UPDATE certrotation SET new_cert_id = NULL, stage = 'fleet', next_attempt_at = certvoy_now() + $3::interval, last_error = $2
 WHERE id = $1;

-- name: to_canaries
UPDATE certrotation SET stage = 'canary' WHERE id = $1;

-- name: fan_out
-- From the canaries to all.
UPDATE certrotation SET stage = 'fleet', look_at = certvoy_now() WHERE id = $1 AND stage = 'canary' AND completed_at IS NULL
RETURNING id;

-- name: overrule
UPDATE certrotation SET overruled = true, look_at = certvoy_now()
 WHERE secret = $1 AND completed_at IS NULL AND new_cert_id IS NOT NULL;

-- name: add_canaries
INSERT INTO canary (rotation_id, target_id) SELECT $1, unnest($2::bigint[]) ON CONFLICT DO NOTHING;

-- name: forget_canaries
DELETE FROM canary WHERE rotation_id = $1;

-- name: canaries
SELECT target_id, certvoy_now() - asked_at AS asked_for FROM canary WHERE rotation_id = $1;

-- name: rotation
-- One whose CA is left alone waits for that, and for that reason.
SELECT r.id, r.secret, r.reason, r.cert_id, r.new_cert_id, r.attempts, r.triggered_at, r.completed_at, r.outcome,
       nullif(greatest(r.next_attempt_at, p.until), 'infinity') AS next_attempt_at, coalesce(p.error, r.last_error) AS last_error,
       r.completed_at IS NULL AND r.new_cert_id IS NULL AND coalesce(r.leased_until > certvoy_now(), false) AS leased, r.stage, r.evidence,
       ARRAY(SELECT t.name FROM canary k JOIN target t ON t.id = k.target_id WHERE k.rotation_id = r.id ORDER BY t.name)
           AS canaries
  FROM certrotation r JOIN secret s ON s.name = r.secret
  LEFT JOIN issuer_pause p ON p.issuer = s.issuer AND r.completed_at IS NULL AND r.new_cert_id IS NULL
       AND coalesce(r.leased_until <= certvoy_now(), true)
 WHERE r.id = $1;

-- name: rotations
-- Newest first, those before $3; what is null is not asked.
SELECT r.id, r.secret, r.reason, r.cert_id, r.new_cert_id, r.attempts, r.triggered_at, r.completed_at, r.outcome,
       nullif(greatest(r.next_attempt_at, p.until), 'infinity') AS next_attempt_at, coalesce(p.error, r.last_error) AS last_error,
       r.completed_at IS NULL AND r.new_cert_id IS NULL AND coalesce(r.leased_until > certvoy_now(), false) AS leased, r.stage, r.evidence,
       ARRAY(SELECT t.name FROM canary k JOIN target t ON t.id = k.target_id WHERE k.rotation_id = r.id ORDER BY t.name)
           AS canaries
  FROM certrotation r JOIN secret s ON s.name = r.secret
  LEFT JOIN issuer_pause p ON p.issuer = s.issuer AND r.completed_at IS NULL AND r.new_cert_id IS NULL
       AND coalesce(r.leased_until <= certvoy_now(), true)
 WHERE ($1::text IS NULL OR r.secret = $1) AND ($2::boolean IS NULL OR (r.completed_at IS NULL) = $2) AND r.id < $3
 ORDER BY r.id DESC LIMIT $4;

-- name: rotation_steps
-- What the audit tells of a Rotation of Secret $1, which began at $2.
SELECT action, actor, timestamp, payload FROM certaudit
 WHERE subject = $1 AND timestamp >= $2::timestamptz AND (payload::jsonb ->> 'rotation')::bigint = $3
 ORDER BY id LIMIT $4;

-- name: rotation_reached
-- How far the live set of Secret $1 is with Certificate $2; nothing where there is none yet.
SELECT count(*) AS targets, count(*) FILTER (WHERE d.sent >= c.generation) AS sent,
       count(*) FILTER (WHERE d.accepted >= c.generation) AS accepted,
       count(*) FILTER (WHERE d.refused = c.generation AND d.accepted IS DISTINCT FROM c.generation) AS refused,
       count(*) FILTER (WHERE d.proved >= c.generation) AS proved
  FROM delivery d LEFT JOIN certificate c ON c.id = $2
 WHERE d.secret = $1 AND (d.registered OR d.seen_until > certvoy_now());

-- name: claim_looks
-- Rotations whose new Certificate is stored and not yet proved everywhere, and who looks at them: this replica, and nobody for
-- $1 or, after the first minute, for a twentieth of their age, a minute at most.
UPDATE certrotation r SET look_at = certvoy_now() + greatest($1::interval, least((
         SELECT certvoy_now() - interval '1 minute' - c.issued_at FROM certificate c WHERE c.id = r.new_cert_id) / 20,
         interval '1 minute'))
 WHERE r.id IN (SELECT id FROM certrotation WHERE completed_at IS NULL AND new_cert_id IS NOT NULL AND look_at <= certvoy_now()
                 ORDER BY look_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING r.secret;

-- ---------------------------------------------------------------- names on demand

-- name: hold_on_demand_rules
-- Rules that this replica has, for $2 more.
INSERT INTO on_demand_rule AS r (name, held_until) SELECT name, certvoy_now() + $2::interval FROM unnest($1::text[]) AS name ORDER BY 1
ON CONFLICT (name) DO UPDATE SET held_until = greatest(r.held_until, excluded.held_until);

-- name: lock_on_demand_rule
-- Whoever makes a name holds it, so that what is counted is all that there is. It may be that nobody has said yet to have the rule.
INSERT INTO on_demand_rule AS r (name, held_until) VALUES ($1, certvoy_now() + interval '1 minute')
ON CONFLICT (name) DO UPDATE SET held_until = greatest(r.held_until, excluded.held_until);

-- name: governed_secrets
-- Secrets whose names are these, or end so, or ($3) have a dot at all, however they are spelt; behind $4, by name. Of all kinds:
-- a trust bundle is asked for by its name as well.
SELECT name, domains FROM secret
 WHERE deleted_at IS NULL AND name > $4
   AND (rtrim(lower(name), '.') = ANY ($1::text[])
        OR EXISTS (SELECT FROM unnest($2::text[]) AS s WHERE right(rtrim(lower(name), '.'), length(s)) = s)
        OR ($3 AND strpos(name, '.') > 0))
 ORDER BY name LIMIT $5;

-- name: wildcard_secrets
SELECT name, domains FROM secret WHERE deleted_at IS NULL AND has_wildcard(domains) AND kind = 'tls_certificate' ORDER BY name LIMIT $1;

-- name: secrets_named
SELECT name, domains FROM secret WHERE deleted_at IS NULL AND name = ANY ($1::text[]);

-- name: on_demand_budget
-- What is spent of rule $1: its names, those new of identity $2 within $4, those new of domain $3 within $5; and when there is
-- room again for the last two.
SELECT (SELECT count(*) FROM on_demand_name WHERE rule = $1) AS names, i.spent AS of_identity, i.oldest + $4::interval AS identity_again,
       d.spent AS of_domain, d.oldest + $5::interval AS domain_again, certvoy_now() AS now
  FROM (SELECT count(*) AS spent, min(created_at) AS oldest FROM on_demand_name
         WHERE rule = $1 AND identity = $2 AND created_at > certvoy_now() - $4::interval) i,
       (SELECT count(*) AS spent, min(created_at) AS oldest FROM on_demand_name
         WHERE rule = $1 AND domain = $3 AND created_at > certvoy_now() - $5::interval) d;

-- name: insert_on_demand_name
INSERT INTO on_demand_name (secret, rule, identity, domain, keep, look_at) VALUES ($1, $2, $3, $4, $5, certvoy_now() + least($5, $6::interval));

-- name: forget_on_demand_name
DELETE FROM on_demand_name WHERE secret = $1;

-- name: on_demand_name
SELECT secret, rule, identity, created_at, wanted_at, keep FROM on_demand_name WHERE secret = $1;

-- name: idle_on_demand_names
-- At most $1 at which it is time to look, locked: until when somebody subscribes as far as is known, and whether any replica has
-- their rule still. What is frozen stays as it is.
SELECT o.secret, o.rule, o.wanted_at, o.keep, r.name IS NULL OR r.held_until <= certvoy_now() AS orphaned, certvoy_now() AS now,
       greatest(o.wanted_at, (SELECT max(CASE WHEN d.registered THEN certvoy_now() ELSE d.seen_until END)
                                FROM delivery d WHERE d.secret = o.secret)) AS wanted_until
  FROM on_demand_name o JOIN secret s ON s.name = o.secret LEFT JOIN on_demand_rule r ON r.name = o.rule
 WHERE o.look_at <= certvoy_now() AND s.frozen_at IS NULL ORDER BY o.look_at LIMIT $1 FOR UPDATE OF s SKIP LOCKED;

-- name: hasten_orphans
-- Of rules that no replica has any more.
UPDATE on_demand_name SET look_at = certvoy_now()
 WHERE look_at > certvoy_now() AND rule IN (SELECT name FROM on_demand_rule WHERE held_until <= certvoy_now());

-- name: forget_on_demand_rules
-- Those that nobody has, and of which there are no names.
DELETE FROM on_demand_rule r WHERE held_until <= certvoy_now() AND NOT EXISTS (SELECT FROM on_demand_name o WHERE o.rule = r.name);

-- name: keep_on_demand_name
-- Somebody subscribes: looked at again after $3, or when it may be removed.
UPDATE on_demand_name SET wanted_at = $2, look_at = least($2::timestamptz + keep, certvoy_now() + $3::interval) WHERE secret = $1;

-- ---------------------------------------------------------------- issuers that are left alone

-- name: pause_issuers
-- A pause is made longer, never shorter, and has the newest reason. $2 null: until a person ends it. Says which are new.
INSERT INTO issuer_pause AS p (issuer, until, error) SELECT name, coalesce(certvoy_now() + $2::interval, 'infinity'), $3 FROM unnest($1::text[]) AS name
ON CONFLICT (issuer) DO UPDATE SET until = greatest(p.until, excluded.until), error = excluded.error
RETURNING issuer, nullif(until, 'infinity') AS until, xmax = 0 AS begun;

-- name: issuer_pauses
SELECT issuer, since, nullif(until, 'infinity') AS until, error, until <= certvoy_now() AS over FROM issuer_pause WHERE issuer = ANY ($1::text[]) ORDER BY issuer;

-- name: take_issuer_pause
-- One whose time has passed is this replica's to ask about, for $2; the others leave it alone meanwhile.
UPDATE issuer_pause SET until = certvoy_now() + $2::interval WHERE issuer = $1 AND until <= certvoy_now() RETURNING until;

-- name: prolong_issuer_pause
-- It does not answer; nothing changes where somebody was told of a longer pause since we took it.
UPDATE issuer_pause SET until = certvoy_now() + $3::interval, error = $4 WHERE issuer = $1 AND until = $2;

-- name: hasten_issuer_pause
-- A person has acted: it is asked at once whether it answers, and then work goes on.
UPDATE issuer_pause SET until = certvoy_now() WHERE issuer = ANY ($1::text[]) RETURNING issuer;

-- name: end_issuer_pause
DELETE FROM issuer_pause WHERE issuer = $1 AND until = $2 RETURNING since;

-- name: secret_is_paused
-- And there is none to fall back to now.
SELECT EXISTS (SELECT FROM secret s JOIN issuer_pause p ON p.issuer = s.issuer
                WHERE s.name = $1 AND NOT (s.fallback <> '{}' AND may_fall_back(s)));

-- name: standings
-- How these issuers stand: left alone, for how long from now (null: until a person acts), and how often they failed in a row.
SELECT i.name AS issuer, p.issuer IS NOT NULL AS paused,
       CASE WHEN p.until < 'infinity' THEN p.until - certvoy_now() END AS paused_for,
       coalesce(t.failures, 0) AS failures, certvoy_now() - t.last_at AS failed_ago, t.error->>'what' AS error
  FROM unnest($1::text[]) AS i (name)
  LEFT JOIN issuer_pause p ON p.issuer = i.name LEFT JOIN issuer_trouble t ON t.issuer = i.name;

-- name: note_trouble
INSERT INTO issuer_trouble AS t (issuer, failures, error) SELECT name, 1, $2 FROM unnest($1::text[]) AS name ORDER BY name
ON CONFLICT (issuer) DO UPDATE SET failures = t.failures + 1, last_at = certvoy_now(), error = excluded.error;

-- name: end_trouble
DELETE FROM issuer_trouble WHERE issuer = ANY ($1::text[]) RETURNING issuer;

-- ---------------------------------------------------------------- keys, accounts, orders, tokens

-- name: insert_key
INSERT INTO key_material (id, purpose, spki_sha256, suite, envelope, dek_wrapped, kek_uri, kek_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: key
SELECT id AS key_id, purpose, spki_sha256, suite, envelope, dek_wrapped, kek_uri, kek_version
  FROM key_material WHERE id = $1 AND destroyed_at IS NULL;

-- name: keks_in_use
-- How many keys each version of a KEK has wrapped; one that its Target keeps is wrapped by none.
SELECT kek_uri, kek_version, count(*) AS keys FROM key_material
 WHERE destroyed_at IS NULL AND kek_uri <> 'external' GROUP BY kek_uri, kek_version ORDER BY kek_uri, kek_version;

-- name: keks_left
-- When keys were last moved away from a KEK's version, or destroyed under it: backups before that need it.
SELECT kek_uri, kek_version, max(left_at) AS left_at FROM (
       SELECT subject AS kek_uri, (payload::json ->> 'from_version')::int AS kek_version, max(timestamp) AS left_at FROM certaudit
        WHERE action = 'keys.rewrapped' GROUP BY 1, 2
        UNION ALL
       SELECT kek_uri, kek_version, max(destroyed_at) FROM key_material
        WHERE destroyed_at IS NOT NULL AND kek_uri <> 'external' GROUP BY 1, 2) AS gone
 GROUP BY 1, 2;

-- name: sample_keys
-- $2 keys from $1 on, round the end: ids are random, so are their neighbours.
SELECT k.key_id, k.purpose, k.spki_sha256, k.suite, k.envelope, k.dek_wrapped, k.kek_uri, k.kek_version, h.chain_pem
  FROM (SELECT * FROM (SELECT 0 AS half, id AS key_id, purpose, spki_sha256, suite, envelope, dek_wrapped, kek_uri, kek_version
                         FROM key_material WHERE id >= $1 AND destroyed_at IS NULL AND kek_uri <> 'external' ORDER BY id LIMIT $2) a
        UNION ALL
        SELECT * FROM (SELECT 1 AS half, id AS key_id, purpose, spki_sha256, suite, envelope, dek_wrapped, kek_uri, kek_version
                         FROM key_material WHERE id < $1 AND destroyed_at IS NULL AND kek_uri <> 'external' ORDER BY id LIMIT $2) b
         ORDER BY half, key_id LIMIT $2) k
  LEFT JOIN certificate c ON c.key_id = k.key_id LEFT JOIN certificate_chain h ON h.cert_id = c.id;

-- name: keys_behind
-- The next $5 keys behind $1 that version $3 of the KEK $2 has not wrapped; $4: all the others too.
SELECT id AS key_id, purpose, spki_sha256, suite, envelope, dek_wrapped, kek_uri, kek_version FROM key_material
 WHERE id > $1 AND destroyed_at IS NULL AND kek_uri <> 'external' AND ($4 OR kek_uri <> $2 OR kek_version <> $3)
 ORDER BY id LIMIT $5;

-- name: rewrap_keys
-- The wrapped DEKs of $1 from $2 to $3, wrapped by $4 in the versions $5: what was changed or destroyed meanwhile stays. Locked
-- in one order, so that two who do this together wait, and do not deadlock.
WITH wanted AS (SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $5::int[]) AS n (id, old, new, version)),
     locked AS (SELECT k.id FROM key_material k WHERE k.id = ANY ($1::uuid[]) ORDER BY k.id FOR UPDATE)
UPDATE key_material k SET dek_wrapped = w.new, kek_uri = $4, kek_version = w.version
  FROM wanted w JOIN locked l ON l.id = w.id
 WHERE k.id = w.id AND k.dek_wrapped = w.old AND k.destroyed_at IS NULL RETURNING k.id;

-- name: key_is_used
SELECT EXISTS (SELECT FROM key_material WHERE spki_sha256 = $1);

-- name: key_is_ordered
-- Whether a key that its Target keeps was ordered for this Secret.
SELECT EXISTS (SELECT FROM key_material k JOIN acme_order o ON o.key_id = k.id JOIN certrotation r ON r.id = o.rotation_id
                WHERE k.spki_sha256 = $1 AND k.kek_uri = 'external' AND r.secret = $2);

-- name: key_request
SELECT secret, identity, node_id, csr, spki_sha256, domains, key_type, brought_at FROM key_request WHERE secret = $1;

-- name: keys_of_target
-- The newest two Certificates of a Secret that may be served and whose keys are its Target's, newest first.
SELECT c.generation, c.spki_sha256 FROM certificate c JOIN key_material k ON k.id = c.key_id AND k.kek_uri = 'external'
 WHERE c.secret = $1 AND c.status NOT IN ('rejected', 'revoked') ORDER BY c.generation DESC LIMIT 2;

-- name: bring_key_request
-- The first Target that brings one is the one whose keys these are.
INSERT INTO key_request AS k (secret, identity, node_id, csr, spki_sha256, domains, key_type)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (secret) DO UPDATE
   SET csr = excluded.csr, spki_sha256 = excluded.spki_sha256, domains = excluded.domains, key_type = excluded.key_type,
       brought_at = certvoy_now()
 WHERE (k.identity, k.node_id) = (excluded.identity, excluded.node_id)
RETURNING secret;

-- name: use_key_request
UPDATE key_request SET csr = NULL, spki_sha256 = NULL, domains = NULL, key_type = NULL WHERE secret = $1;

-- name: forget_key_request
DELETE FROM key_request WHERE secret = $1;

-- name: forget_key_requests_of
-- A Target that is removed keeps no Secret's keys any more; one that was never seen, or is forgotten, is known by its node id.
DELETE FROM key_request k
 WHERE EXISTS (SELECT FROM target t WHERE t.name = $1 AND (k.identity, k.node_id) = (t.identity, t.node_id))
    OR $1 IN (k.node_id, k.node_id || ' (' || k.identity || ')')
       AND NOT EXISTS (SELECT FROM target t WHERE (k.identity, k.node_id) = (t.identity, t.node_id))
RETURNING secret;

-- name: forget_key_requests_by
-- Of an identity that was removed: nothing is ordered for its keys any more, and another Target may bring its own.
DELETE FROM key_request WHERE identity = $1 RETURNING secret;

-- name: account
SELECT key_id, account_url, next_key_id FROM acme_account WHERE directory_url = $1 AND status = 'valid';

-- name: insert_account
INSERT INTO acme_account (directory_url, key_id) VALUES ($1, $2);

-- name: plan_account_key
-- Whoever plans first decides which key comes next.
UPDATE acme_account SET next_key_id = $3 WHERE directory_url = $1 AND key_id = $2 AND status = 'valid' AND next_key_id IS NULL
RETURNING next_key_id;

-- name: account_key_changed
UPDATE acme_account SET key_id = next_key_id, next_key_id = NULL
 WHERE directory_url = $1 AND next_key_id = $2 AND status = 'valid' RETURNING key_id;

-- name: account_deactivated
UPDATE acme_account SET status = 'deactivated' WHERE directory_url = $1 AND account_url = $2 AND status = 'valid' RETURNING key_id;

-- name: account_registered
UPDATE acme_account SET account_url = $3 WHERE directory_url = $1 AND key_id = $2;

-- name: order_under_way
SELECT id, state, csr, key_id, url, certificate_url, domains, issuer FROM acme_order
 WHERE rotation_id = $1 AND state NOT IN ('stored', 'abandoned');

-- name: account_forgotten
-- The CA lost it: back to the state before its registration, unless somebody has registered again already.
UPDATE acme_account SET account_url = NULL WHERE directory_url = $1 AND account_url = $2 RETURNING key_id;

-- name: insert_order
INSERT INTO acme_order (rotation_id, issuer, domains, csr, key_id) VALUES ($1, $2, $3, $4, $5) RETURNING id;

-- name: order_step
-- planned -> ordered -> finalizing -> issued; a step that is repeated after a crash changes nothing.
UPDATE acme_order SET state = $2, url = coalesce($3, url), certificate_url = coalesce($4, certificate_url),
       updated_at = certvoy_now()
 WHERE id = $1;

-- name: order_made_by
UPDATE acme_order SET account_url = $2, replaces = $3 WHERE id = $1;

-- name: replaceable
-- The chain of Certificate $1, if an order of account $3 at issuer $2 may name it as the one that it replaces. Orders of before
-- this was noted were the account's.
SELECT p.chain_pem FROM certificate c JOIN certificate_chain p ON p.cert_id = c.id
 WHERE c.id = $1 AND c.issuer = $2
   AND EXISTS (SELECT FROM acme_order o WHERE o.url = c.order_url AND coalesce(o.account_url, $3) = $3)
   AND NOT EXISTS (SELECT FROM acme_order r WHERE r.replaces = c.id AND r.certificate_url IS NOT NULL);

-- name: order_given_up
-- The last one of the Rotation that nobody wants any more, known to its CA, which has not issued by it.
SELECT id, issuer, domains, csr, key_id, url, certificate_url FROM acme_order
 WHERE rotation_id = $1 AND state = 'abandoned' AND url IS NOT NULL AND certificate_url IS NULL ORDER BY id DESC LIMIT 1;

-- name: orders_stored
UPDATE acme_order SET state = 'stored', updated_at = certvoy_now()
 WHERE rotation_id = $1 AND state NOT IN ('stored', 'abandoned');

-- name: abandon_orders
-- Its key is destroyed when $2 has passed.
UPDATE acme_order SET state = 'abandoned', updated_at = certvoy_now(), key_until = certvoy_now() + $2::interval
 WHERE rotation_id = $1 AND state NOT IN ('stored', 'abandoned');

-- ---------------------------------------------------------------- what is left of CAs' rate limits

-- name: now
SELECT certvoy_now();

-- name: make_buckets
-- Full ones, of which nothing was taken yet.
INSERT INTO rate_bucket (directory_url, counted, of, full_at)
SELECT $1, b.counted, b.of, certvoy_now() FROM unnest($2::text[], $3::text[]) AS b (counted, of) ORDER BY b.counted, b.of
ON CONFLICT DO NOTHING;

-- name: lock_buckets
SELECT counted, of, full_at, closed_until FROM rate_bucket
 WHERE directory_url = $1 AND (counted, of) IN (SELECT b.counted, b.of FROM unnest($2::text[], $3::text[]) AS b (counted, of))
 ORDER BY counted, of FOR UPDATE;

-- name: buckets
SELECT counted, of, full_at, closed_until FROM rate_bucket
 WHERE directory_url = $1 AND greatest(full_at, closed_until) > certvoy_now() ORDER BY counted, of;

-- name: emptiest_buckets
-- Of each limit what the account, the domain or the names have of which least is left.
SELECT directory_url, counted, max(full_at) AS full_at, max(closed_until) AS closed_until FROM rate_bucket
 WHERE greatest(full_at, closed_until) > certvoy_now() GROUP BY directory_url, counted;

-- name: deferred_orders
-- Rotations that wait as their CA would count the order against us, by the reason.
SELECT s.issuer, r.last_error->>'rule' AS reason, count(*) AS orders FROM certrotation r JOIN secret s ON s.name = r.secret
 WHERE r.completed_at IS NULL AND r.new_cert_id IS NULL AND r.next_attempt_at > certvoy_now() AND s.deleted_at IS NULL
   AND (r.last_error->>'rule' IN ('spacing', 'issuers') OR starts_with(r.last_error->>'rule', 'budget.'))
 GROUP BY 1, 2;

-- name: take_of_bucket
UPDATE rate_bucket SET full_at = $4 WHERE directory_url = $1 AND counted = $2 AND of = $3;

-- name: close_bucket
-- A CA's word makes a bucket emptier, never fuller.
UPDATE rate_bucket SET full_at = greatest(full_at, $4), closed_until = greatest(closed_until, $5)
 WHERE directory_url = $1 AND counted = $2 AND of = $3;

-- name: sweep_buckets
-- Those that are full again: as if there were none.
DELETE FROM rate_bucket b WHERE (b.directory_url, b.counted, b.of) IN (
       SELECT directory_url, counted, of FROM rate_bucket
        WHERE full_at < certvoy_now() AND coalesce(closed_until, '-infinity') < certvoy_now()
        ORDER BY full_at LIMIT $1 FOR UPDATE SKIP LOCKED);

-- name: reservations
SELECT counted, of, cost FROM rate_reservation WHERE order_id = $1;

-- name: put_reservation
INSERT INTO rate_reservation AS r (order_id, directory_url, counted, of, cost) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (order_id, counted, of) DO UPDATE SET cost = greatest(r.cost, excluded.cost);

-- name: orders_in_flight
-- Those of other Rotations that somebody works on now, by registered domain.
SELECT v.of, count(*) AS orders FROM rate_reservation v
  JOIN acme_order o ON o.id = v.order_id JOIN certrotation r ON r.id = o.rotation_id
 WHERE v.directory_url = $1 AND v.counted = 'domain' AND v.of = ANY ($2::text[]) AND v.order_id <> $3
   AND r.completed_at IS NULL AND r.new_cert_id IS NULL AND r.leased_until > certvoy_now()
 GROUP BY v.of;

-- name: spend_reservations
-- The CA may issue from now on: what was taken is not given back.
UPDATE rate_reservation SET cost = interval '0' WHERE order_id = $1 AND cost > interval '0';

-- name: forget_reservations
DELETE FROM rate_reservation v USING acme_order o WHERE o.id = v.order_id AND o.rotation_id = $1;

-- name: lock_reserved_buckets
SELECT b.of FROM rate_bucket b
 WHERE EXISTS (SELECT FROM rate_reservation v JOIN acme_order o ON o.id = v.order_id
                WHERE o.rotation_id = $1 AND o.state = 'abandoned'
                  AND (v.directory_url, v.counted, v.of) = (b.directory_url, b.counted, b.of))
 ORDER BY b.directory_url, b.counted, b.of FOR UPDATE OF b;

-- name: give_back
WITH gone AS (
     DELETE FROM rate_reservation v USING acme_order o
      WHERE o.id = v.order_id AND o.rotation_id = $1 AND o.state = 'abandoned'
     RETURNING v.directory_url, v.counted, v.of, v.cost)
UPDATE rate_bucket b SET full_at = b.full_at - g.cost FROM gone g
 WHERE (g.directory_url, g.counted, g.of) = (b.directory_url, b.counted, b.of);

-- name: put_token
INSERT INTO challenge_token (token, key_authorization, rotation_id, expires_at)
VALUES ($1, $2, $3, certvoy_now() + $4::interval)
ON CONFLICT (token) DO UPDATE SET key_authorization = excluded.key_authorization, expires_at = excluded.expires_at;

-- name: token
SELECT key_authorization FROM challenge_token WHERE token = $1 AND expires_at > certvoy_now();

-- name: tokens
SELECT token, key_authorization FROM challenge_token WHERE token = ANY ($1::text[]) AND expires_at > certvoy_now();

-- name: delete_token
DELETE FROM challenge_token WHERE token = $1;

-- name: clear_challenges
-- A Rotation's attempt is over: whatever it asked to be answered is not asked any more.
WITH tokens AS (DELETE FROM challenge_token WHERE rotation_id = $1)
UPDATE challenge_value SET due_at = certvoy_now() WHERE rotation_id = $1 AND due_at > certvoy_now();

-- name: note_failures
INSERT INTO validation_failure (issuer, identifier, type) SELECT $1, * FROM unnest($2::text[], $3::text[]);

-- name: failures_of
SELECT identifier, certvoy_now() - failed_at AS age FROM validation_failure
 WHERE issuer = ANY ($1::text[]) AND identifier = ANY ($2::text[]) AND failed_at > certvoy_now() - $3::interval;

-- name: issued_lately
-- Certificates of these issuers that have one of the names as their first; which have all of them is looked at afterwards.
SELECT domain, san_domains, certvoy_now() - issued_at AS age FROM certificate
 WHERE domain = ANY ($2::text[]) AND issuer = ANY ($1::text[]) AND issued_at > certvoy_now() - $3::interval;

-- name: guilty
-- Names that failed in the last hour, those that failed most first, $1 of them.
SELECT issuer, identifier, count(*) AS failures FROM validation_failure WHERE failed_at > certvoy_now() - interval '1 hour'
 GROUP BY issuer, identifier ORDER BY failures DESC, identifier LIMIT $1;

-- name: sweep_failures
DELETE FROM validation_failure WHERE failed_at <= certvoy_now() - interval '1 day';

-- name: sweep_tokens
DELETE FROM challenge_token WHERE expires_at <= certvoy_now();

-- name: put_value
-- No row comes back while somebody removes the same value.
INSERT INTO challenge_value AS known (name, value, issuer, rotation_id, due_at)
VALUES ($1, $2, $3, $4, certvoy_now() + $5::interval)
ON CONFLICT (name, value) DO UPDATE
   SET issuer = excluded.issuer, rotation_id = excluded.rotation_id, due_at = excluded.due_at, held_until = NULL
 WHERE known.held_until IS NULL OR known.held_until <= certvoy_now()
RETURNING true;

-- name: delete_value
DELETE FROM challenge_value WHERE name = $1 AND value = $2;

-- name: take_due_values
-- $1: the issuers whose provider the asking replica has.
UPDATE challenge_value SET held_until = certvoy_now() + $2::interval
 WHERE (name, value) IN (
       SELECT name, value FROM challenge_value
        WHERE due_at <= certvoy_now() AND (held_until IS NULL OR held_until <= certvoy_now()) AND issuer = ANY($1)
        ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING name, value, issuer, held_until;

-- name: delete_held_value
DELETE FROM challenge_value WHERE name = $1 AND value = $2 AND held_until = $3;

-- name: keep_held_value
-- It could not be removed: tried again later.
UPDATE challenge_value SET held_until = NULL, due_at = certvoy_now() + $4::interval
 WHERE name = $1 AND value = $2 AND held_until = $3;

-- name: give_up_values
DELETE FROM challenge_value WHERE due_at <= certvoy_now() AND since < certvoy_now() - $1::interval
RETURNING name, issuer;

-- ---------------------------------------------------------------- targets and deliveries

-- name: register_target
-- A Target that was only seen until now becomes a registered one. $7: null leaves its push address, '' takes it away. $2: null
-- leaves its kind; who is new is an Envoy, and who is pushed to is none. $8: null leaves whether it wants the PROXY protocol,
-- $9 whether it serves HTTP/3 as well.
-- What was proved at another address, or in another way, is proved no more; nor is an agent's word where it is another's by now.
WITH moved AS (
    UPDATE delivery d SET proved = NULL, look_at = certvoy_now() FROM target t
     WHERE t.name = $1 AND d.target_id = t.id
       AND ($5 IS DISTINCT FROM t.probe AND $5 IS NOT NULL OR t.probe IS NULL AND $6 IS DISTINCT FROM t.admin AND $6 IS NOT NULL
            OR t.probe IS NOT NULL AND ($8 <> t.proxy_protocol OR $9 <> t.http3)
            OR t.probe IS NULL AND t.admin IS NULL AND ($3 <> t.identity OR $4 <> t.node_id OR $7 > '' AND $7 <> t.push)))
INSERT INTO target (name, kind, identity, node_id, probe, admin, registered, vouched, push, proxy_protocol, http3)
VALUES ($1, coalesce($2, CASE WHEN $7 > '' THEN 'files' ELSE 'envoy' END), $3, $4, $5, $6, true, $3::text IS NOT NULL, nullif($7, ''),
        coalesce($8::boolean, false), coalesce($9::boolean, false))
ON CONFLICT (name) DO UPDATE
   SET registered = true, vouched = target.vouched OR excluded.vouched, kind = CASE WHEN $2 IS NULL AND (target.kind <> 'envoy' OR $7 IS NULL OR $7 = '') THEN target.kind ELSE excluded.kind END,
       probe = coalesce(excluded.probe, target.probe),
       admin = coalesce(excluded.admin, target.admin), identity = coalesce(excluded.identity, target.identity),
       node_id = coalesce(excluded.node_id, target.node_id), push = nullif(coalesce($7, target.push), ''),
       proxy_protocol = coalesce($8, target.proxy_protocol), http3 = coalesce($9, target.http3)
RETURNING id, identity, push;

-- name: lock_secrets_at
-- Those that know a Target, in the order in which whoever registers one locks them: it may be chosen as a canary of theirs.
SELECT name FROM secret
 WHERE name IN (SELECT d.secret FROM delivery d JOIN target t ON t.id = d.target_id WHERE t.name = $1)
 ORDER BY name COLLATE "C" FOR UPDATE;

-- name: remove_target
DELETE FROM target WHERE name = $1 RETURNING id;

-- name: targets
-- By name, behind $1.
SELECT id, name, kind, identity, node_id, probe, admin, registered, vouched, push, proxy_protocol, http3, last_seen FROM target
 WHERE name > $1 ORDER BY name LIMIT $2;

-- name: target
SELECT id, name, kind, identity, node_id, probe, admin, registered, vouched, push, proxy_protocol, http3, last_seen FROM target WHERE name = $1;

-- name: target_by_id
SELECT id, name, kind, identity, node_id, probe, admin, registered, vouched, push, proxy_protocol, http3 FROM target WHERE id = $1;

-- name: target_of_secret
-- A Target by its name, if it is known of the Secret.
SELECT t.id, t.name, t.kind, t.identity, t.node_id, t.probe, t.admin, t.registered, t.vouched, t.push, t.proxy_protocol, t.http3
  FROM target t JOIN delivery d ON d.target_id = t.id WHERE t.name = $1 AND d.secret = $2 FOR NO KEY UPDATE OF t;

-- name: deliveries_of
-- What is known of each Secret at these Targets, or of $2 alone, with the generation that they are offered.
SELECT d.target_id, d.secret, d.sent, d.accepted, d.refused, d.proved, d.refusal, d.probe_error, d.push_error, d.updated_at, d.proved_by,
       d.proved_at, d.served, d.stale_since, certvoy_now() - d.stale_since AS stale_for, d.salt,
       certvoy_now() - d.accepted_at AS accepted_for, certvoy_now() - d.salted_at AS salted_for,
       unseen(d) AS unseen, certvoy_now() - d.said_at AS said_ago,
       certvoy_now() - d.updated_at AS unchanged_for, p.id IS NOT NULL OR y.before IS NOT NULL AS waits,
       coalesce(p.generation, c.generation, y.before, y.generation) AS current,
       coalesce((SELECT kind FROM secret WHERE name = d.secret), 'tls_certificate') AS secret_kind,
       d.registered OR coalesce(d.seen_until > certvoy_now(), false) AS live, coalesce(d.instances, 1) AS instances, d.agreed
  FROM delivery d
  LEFT JOIN LATERAL (
        SELECT id, generation FROM certificate
         WHERE secret = d.secret AND status NOT IN ('replaced', 'rejected', 'revoked')
         ORDER BY generation DESC LIMIT 1) c ON true
  LEFT JOIN certrotation r ON r.secret = d.secret AND r.completed_at IS NULL AND r.new_cert_id = c.id AND r.stage = 'canary'
  LEFT JOIN canary k ON k.rotation_id = r.id AND k.target_id = d.target_id
  LEFT JOIN certificate p ON p.id = r.cert_id AND k.target_id IS NULL AND servable(p)
  LEFT JOIN LATERAL (
        SELECT s.served_generation AS generation,
               CASE WHEN q.stage = 'canary' AND q.completed_at IS NULL AND NOT EXISTS (
                        SELECT FROM payload_canary
                         WHERE secret = q.secret AND generation = q.generation AND target_id = d.target_id)
                    THEN payload_before(q) END AS before
          FROM secret s LEFT JOIN payload q ON q.secret = s.name AND q.generation = s.served_generation
         WHERE s.name = d.secret AND s.kind <> 'tls_certificate') y ON true
 WHERE d.target_id = ANY ($1::bigint[]) AND ($2::text IS NULL OR d.secret = $2) ORDER BY d.target_id, d.secret;

-- name: target_of_peer
-- Locked, peer by peer in their order: whoever removes it waits until what is written of it is written.
SELECT id FROM target WHERE identity = $1 AND node_id = $2 FOR NO KEY UPDATE;

-- name: bind_target
-- A registered Target that was not seen yet is bound to the first peer that fits: its identity if it names one, its node id
-- if it names one, and its name where it names no node id. One that is pushed to may have answered before it is seen.
UPDATE target SET identity = $1, node_id = $2, last_seen = certvoy_now()
 WHERE id = (SELECT id FROM target
              WHERE registered AND (last_seen IS NULL OR push IS NOT NULL AND node_id IS NULL) AND coalesce(identity, $1) = $1
                AND coalesce(node_id, CASE WHEN identity IS NULL THEN name ELSE $2 END) = $2
              ORDER BY (identity IS NOT NULL) DESC, (node_id IS NOT NULL) DESC, id LIMIT 1
                FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id;

-- name: see_target
-- A peer that nobody registered: a Target of its own, at most $4 an identity among those that were seen within a day.
INSERT INTO target (name, kind, identity, node_id, registered, last_seen)
SELECT $3, $5, $1, $2, false, certvoy_now()
 WHERE (SELECT count(*) FROM target
         WHERE identity = $1 AND NOT registered AND last_seen > certvoy_now() - interval '1 day') < $4
ON CONFLICT DO NOTHING RETURNING id;

-- name: sweep_targets
-- At most $2 that nobody registered, and nobody has seen for $1: pods that are gone, above all.
DELETE FROM target WHERE id IN (
    SELECT id FROM target WHERE NOT registered AND last_seen < certvoy_now() - $1::interval
     ORDER BY last_seen LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING name;

-- name: touch_targets
-- They are locked, no stronger than NO KEY UPDATE: whoever holds Deliveries may name these rows as canaries.
UPDATE target SET last_seen = certvoy_now() WHERE id = ANY ($1::bigint[]);

-- name: register_delivery
INSERT INTO delivery (target_id, secret, registered) VALUES ($1, $2, true)
ON CONFLICT (target_id, secret) DO UPDATE SET registered = true;

-- name: deliveries_before
-- What is recorded of these before they are written: the first of each kind is audited. Held: by a living replica that is not $3.
SELECT d.target_id, d.secret, d.sent, d.accepted, d.refused, d.replica, d.instances, d.agreed, d.seen_until - certvoy_now() AS seen_for,
       d.replica <> $3 AND d.seen_until > certvoy_now()
           AND EXISTS (SELECT FROM replica r WHERE r.token = d.replica AND r.alive_until > certvoy_now()) AS held
  FROM delivery d
 WHERE (d.target_id, d.secret) IN (SELECT * FROM unnest($1::bigint[], $2::text[])) ORDER BY d.target_id, d.secret FOR UPDATE;

-- name: write_deliveries
-- One row a (Target, Secret). Of one generation what was said last counts; null means nothing new; seen_for null: no longer
-- subscribed, so no longer of the live set unless registered. A name that is nobody's Secret makes no row. Of several instances
-- a handshake reaches any: a refusal by one takes the proof away. Of one who refuses what it was proved to serve, started anew, say,
-- that is looked at now. That it subscribes still is no change of what is known.
INSERT INTO delivery AS d (target_id, secret, sent, accepted, accepted_at, refused, refusal, seen_until, updated_at,
                           replica, instances, agreed)
SELECT w.target_id, w.secret, w.sent, w.accepted, CASE WHEN w.accepted IS NOT NULL THEN certvoy_now() END, w.refused, w.refusal,
       certvoy_now() + w.seen_for, certvoy_now(), w.replica, w.instances, w.agreed
  FROM unnest($1::bigint[], $2::text[], $3::int[], $4::int[], $5::int[], $6::text[], $7::interval[], $8::text[], $9::int[], $10::int[])
       AS w (target_id, secret, sent, accepted, refused, refusal, seen_for, replica, instances, agreed)
 WHERE EXISTS (SELECT FROM secret s WHERE s.name = w.secret)
 ORDER BY 1, 2
ON CONFLICT (target_id, secret) DO UPDATE
   SET sent = coalesce(excluded.sent, d.sent),
       accepted = coalesce(excluded.accepted, CASE WHEN d.accepted IS DISTINCT FROM excluded.refused THEN d.accepted END),
       accepted_at = coalesce(excluded.accepted_at, d.accepted_at),
       refused = coalesce(excluded.refused, CASE WHEN d.refused IS DISTINCT FROM excluded.accepted THEN d.refused END),
       refusal = coalesce(excluded.refusal, d.refusal),
       proved = CASE WHEN excluded.instances > 1 AND excluded.refused = d.proved THEN NULL ELSE d.proved END,
       look_at = CASE WHEN excluded.refused = d.proved THEN certvoy_now() ELSE d.look_at END,
       seen_until = coalesce(excluded.seen_until, certvoy_now()),
       updated_at = CASE WHEN coalesce(excluded.sent, excluded.accepted, excluded.refused) IS NULL THEN d.updated_at
                         ELSE excluded.updated_at END,
       replica = excluded.replica, instances = excluded.instances, agreed = excluded.agreed;

-- name: roll_up_deliveries
-- Somebody who hindered is gone: what the others have accepted is news.
UPDATE delivery d
   SET accepted = coalesce(w.accepted, d.accepted), accepted_at = CASE WHEN w.accepted IS NULL THEN d.accepted_at ELSE certvoy_now() END,
       refused = CASE WHEN d.refused IS DISTINCT FROM w.accepted THEN d.refused END,
       replica = w.replica, instances = w.instances, agreed = w.agreed, updated_at = certvoy_now()
  FROM unnest($1::bigint[], $2::text[], $3::int[], $4::text[], $5::int[], $6::int[])
       AS w (target_id, secret, accepted, replica, instances, agreed)
 WHERE d.target_id = w.target_id AND d.secret = w.secret;

-- name: lock_targets
-- In the order of their peers, as streams' news lock them.
SELECT id FROM target WHERE id = ANY ($1::bigint[]) ORDER BY identity COLLATE "C", node_id COLLATE "C", id FOR NO KEY UPDATE;

-- name: instances_of
-- What living replicas say of those Deliveries that have several instances.
SELECT i.target_id, i.secret, i.replica, i.streams, i.accepted, i.refused
  FROM target_instance i JOIN replica r ON r.token = i.replica AND r.alive_until > certvoy_now()
 WHERE (i.target_id, i.secret) IN (SELECT * FROM unnest($1::bigint[], $2::text[])) AND i.seen_until > certvoy_now();

-- name: forget_instances
-- Of these Deliveries, all but those of $3, $4, $5.
DELETE FROM target_instance i
 WHERE (i.target_id, i.secret) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
   AND (i.target_id, i.secret, i.replica) NOT IN (SELECT * FROM unnest($3::bigint[], $4::text[], $5::text[]));

-- name: put_instances
INSERT INTO target_instance AS i (target_id, secret, replica, streams, accepted, refused, seen_until)
SELECT w.target_id, w.secret, w.replica, w.streams, w.accepted, w.refused, certvoy_now() + w.seen_for
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::interval[])
       AS w (target_id, secret, replica, streams, accepted, refused, seen_for)
 WHERE EXISTS (SELECT FROM delivery d WHERE d.target_id = w.target_id AND d.secret = w.secret)
ON CONFLICT (target_id, secret, replica) DO UPDATE
   SET streams = excluded.streams, accepted = excluded.accepted, refused = excluded.refused, seen_until = excluded.seen_until;

-- name: instances_of_the_dead
-- At most $1 Deliveries of which a replica spoke that is dead, or has no stream of them any more.
SELECT DISTINCT i.target_id, i.secret FROM target_instance i
 WHERE i.seen_until <= certvoy_now()
    OR NOT EXISTS (SELECT FROM replica r WHERE r.token = i.replica AND r.alive_until > certvoy_now())
 ORDER BY 1, 2 LIMIT $1;

-- name: several_instances
-- At most $2 Targets with several instances, one of them at replica $1.
SELECT t.name, t.identity, t.node_id, max(d.instances) AS instances
  FROM target_instance i JOIN delivery d ON d.target_id = i.target_id AND d.secret = i.secret JOIN target t ON t.id = i.target_id
 WHERE i.replica = $1 AND d.instances > 1 GROUP BY t.id ORDER BY t.name LIMIT $2;

-- name: replica_lives
-- For $3 more. Others that are dead are forgotten and, at the first word of a life ($4), an earlier life of the same name: one
-- that lives all the same says so again. Returns whether it counted as living until now.
WITH before AS (SELECT alive_until > certvoy_now() AS lived FROM replica WHERE token = $1),
     gone AS (DELETE FROM replica WHERE token IN (
         SELECT token FROM replica WHERE token <> $1 AND (alive_until <= certvoy_now() OR $4 AND name = $2) FOR UPDATE SKIP LOCKED))
INSERT INTO replica (token, name, alive_until) VALUES ($1, $2, certvoy_now() + $3::interval)
ON CONFLICT (token) DO UPDATE SET alive_until = excluded.alive_until
RETURNING coalesce((SELECT lived FROM before), false) AS lived;

-- name: replica_ends
DELETE FROM replica WHERE token = $1;

-- name: refuse_content
INSERT INTO refused_content (identity, node_id, secret, version)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING;

-- name: refused_content
-- The newest $1.
SELECT identity, node_id, secret, version FROM refused_content ORDER BY refused_at DESC LIMIT $1;

-- name: sweep_refused_content
-- At most $1 of those that are older than each Certificate which may still be offered: their content is gone.
DELETE FROM refused_content WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM refused_content r
         WHERE NOT EXISTS (
                SELECT FROM certificate c JOIN secret s ON s.name = c.secret
                 WHERE c.secret = r.secret AND c.issued_at <= r.refused_at
                   AND (c.status IN ('issued', 'active', 'expiring_soon', 'rotating') OR c.generation = s.served_generation))
            AND NOT EXISTS (
                SELECT FROM payload p JOIN secret s ON s.name = p.secret
                 WHERE p.secret = r.secret AND p.created_at <= r.refused_at AND p.generation = s.served_generation)
         LIMIT $1))
RETURNING version;

-- name: live_set
-- Every Target that counts for a Secret now, with what is known of it, and the generation that it is offered, as deliveries_of.
-- $2: for so much longer one that was seen counts, where nobody could have seen it.
WITH offer AS (
    SELECT c.generation, r.id AS staged, p.generation AS before
      FROM (SELECT id, generation FROM certificate
             WHERE secret = $1 AND status NOT IN ('replaced', 'rejected', 'revoked') ORDER BY generation DESC LIMIT 1) c
      LEFT JOIN certrotation r ON r.secret = $1 AND r.completed_at IS NULL AND r.new_cert_id = c.id AND r.stage = 'canary'
      LEFT JOIN certificate p ON p.id = r.cert_id AND servable(p)
     UNION ALL
    SELECT s.served_generation, NULL, CASE WHEN p.stage = 'canary' AND p.completed_at IS NULL THEN payload_before(p) END
      FROM secret s LEFT JOIN payload p ON p.secret = s.name AND p.generation = s.served_generation
     WHERE s.name = $1 AND s.kind <> 'tls_certificate')
SELECT t.id, t.name, t.kind, t.identity, t.node_id, t.probe, t.admin, t.registered, t.vouched, t.push, t.proxy_protocol, t.http3, d.sent, d.accepted, d.refused,
       d.proved, d.refusal, d.probe_error, d.push_error, d.updated_at, d.proved_by, d.proved_at, d.served, d.stale_since,
       certvoy_now() - d.stale_since AS stale_for, d.salt, certvoy_now() - d.accepted_at AS accepted_for,
       certvoy_now() - d.salted_at AS salted_for, certvoy_now() - d.updated_at AS unchanged_for,
       unseen(d) AS unseen, certvoy_now() - d.said_at AS said_ago,
       o.before IS NOT NULL AND k.target_id IS NULL AS waits, coalesce(d.instances, 1) AS instances, d.agreed,
       CASE WHEN k.target_id IS NULL THEN coalesce(o.before, o.generation) ELSE o.generation END AS current,
       (SELECT kind FROM secret WHERE name = $1) AS secret_kind
  FROM delivery d JOIN target t ON t.id = d.target_id
  LEFT JOIN offer o ON true
  LEFT JOIN LATERAL (
        SELECT target_id FROM canary WHERE rotation_id = o.staged AND target_id = d.target_id
         UNION ALL
        SELECT target_id FROM payload_canary
         WHERE secret = $1 AND generation = o.generation AND target_id = d.target_id AND o.staged IS NULL) k ON true
 WHERE d.secret = $1 AND (d.registered OR d.seen_until > certvoy_now() - $2::interval) ORDER BY t.name;

-- name: roll_out
-- The open Rotation of a Secret and the Certificate that its Targets must be proved to serve.
SELECT r.id, r.cert_id, r.stage, r.overruled, r.attempts, c.id AS new_cert_id, c.generation, c.fingerprint, c.serial_number,
       EXISTS (SELECT FROM on_demand_name WHERE secret = s.name) AS on_demand, s.name AS secret, s.domains, s.proof, s.frozen_at IS NOT NULL AS frozen, certvoy_now() - c.issued_at AS age,
       p.generation AS before_generation, p.fingerprint AS before_fingerprint, p.serial_number AS before_serial_number,
       p.status AS before_status, p.not_before AS before_not_before, p.not_after AS before_not_after,
       EXISTS (SELECT FROM revocation v WHERE v.cert_id = p.id
                  AND (v.at_once OR v.reason = 'keyCompromise' OR v.done_at IS NOT NULL)) AS before_revoked,
       certvoy_now() AS now
  FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id JOIN secret s ON s.name = r.secret
  LEFT JOIN certificate p ON p.id = r.cert_id
 WHERE r.secret = $1 AND r.completed_at IS NULL;

-- name: prove_deliveries
-- Their salt stays: on another stream each must get the bytes that it took, and not those that it refused. Where one has several
-- instances a look has reached one of them: each must have accepted the generation as well.
WITH w AS (SELECT * FROM unnest($2::bigint[], $3::text[]) AS w (target_id, proved_by)),
     unproved AS (SELECT d.target_id, w.proved_by FROM delivery d JOIN w ON w.target_id = d.target_id
                   WHERE d.secret = $1 AND coalesce(d.proved, 0) < $4
                     AND (coalesce(d.instances, 1) < 2 OR d.agreed >= $4) ORDER BY d.target_id FOR NO KEY UPDATE OF d)
UPDATE delivery d SET proved = $4, proved_by = u.proved_by, proved_at = certvoy_now(), said_at = certvoy_now(), probe_error = NULL,
       served = NULL, stale_since = NULL, updated_at = certvoy_now()
  FROM unproved u WHERE d.target_id = u.target_id AND d.secret = $1 RETURNING d.target_id, d.proved_by;

-- name: moved
-- Of these Targets those that are to be looked at elsewhere by now than at $2 and $3, or otherwise than by $4 and $5.
SELECT t.id
  FROM target t
  JOIN unnest($1::bigint[], $2::text[], $3::text[], $4::boolean[], $5::boolean[]) AS w (id, probe, admin, proxy_protocol, http3)
    ON w.id = t.id
 WHERE (t.probe, t.admin, t.proxy_protocol, t.http3) IS DISTINCT FROM (w.probe, w.admin, w.proxy_protocol, w.http3);

-- name: take_proof_back
-- An agent whose word was the proof says itself that its program does not serve it.
UPDATE delivery SET proved = NULL WHERE target_id = $1 AND secret = $2 AND proved = $3;

-- name: say_again
-- An agent says once more that its program serves what was proved by its word.
UPDATE delivery SET said_at = certvoy_now(), probe_error = NULL WHERE target_id = $1 AND secret = $2 AND proved = $3;

-- name: doubt_proof
-- An agent whose word was the proof cannot see it any more: its word is over, also when the reason gives way to that of a roll-out.
UPDATE delivery SET probe_error = $4, said_at = least(said_at, certvoy_now() - interval '3 hours') WHERE target_id = $1 AND secret = $2 AND proved = $3 AND proved_by = 'agent';

-- name: note_looks
-- Why Targets are not proved, and the leaf that was seen in place of the wanted one; null: none was seen. $5: of a roll-out of that
-- generation; who was proved to serve it while others were looked at is so still. Null: whoever was proved is looked at.
WITH w AS (SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[]) AS w (target_id, error, served)),
     changed AS (SELECT d.target_id FROM delivery d JOIN w ON w.target_id = d.target_id
                  WHERE d.secret = $1 AND (d.probe_error IS DISTINCT FROM w.error OR d.served IS DISTINCT FROM coalesce(w.served, d.served))
                    AND ($5::integer IS NULL OR coalesce(d.proved, 0) < $5)
                  ORDER BY d.target_id FOR NO KEY UPDATE OF d)
UPDATE delivery d SET probe_error = w.error, served = coalesce(w.served, d.served), updated_at = certvoy_now()
  FROM w WHERE d.target_id = w.target_id AND d.secret = $1 AND d.target_id IN (SELECT target_id FROM changed);

-- name: lock_deliveries
-- All of a Secret, before any may be written, in the order in which streams' news are: see deliveries_before.
SELECT target_id FROM delivery WHERE secret = $1 ORDER BY target_id FOR NO KEY UPDATE;

-- name: lock_looked_at
-- The same of these ($2), which were looked at, and of whom generation $3 may be offered as other bytes.
SELECT target_id FROM delivery
 WHERE secret = $1 AND (target_id = ANY ($2::bigint[]) OR refused = $3 OR served IS NOT NULL)
 ORDER BY target_id FOR NO KEY UPDATE;

-- name: forget_proofs
-- Of a generation that was taken back: whether who served it serves the one before again is looked at once it had time for that.
-- Who was given it and did not refuse it, or is being pushed it now, may serve it, whatever was proved of the one before.
UPDATE delivery SET proved = NULL, look_at = certvoy_now() + interval '5 seconds'
 WHERE secret = $1 AND (proved = $2 OR push_generation = $2
                        OR (sent = $2 OR accepted = $2) AND (refused IS DISTINCT FROM $2 OR instances > 1));

-- name: forget_looks
-- Why Targets were not proved to serve what was taken back says nothing of the one before.
UPDATE delivery SET probe_error = NULL WHERE secret = $1 AND probe_error IS NOT NULL;

-- name: offer_again
-- As other bytes, so that the proxy judges them anew.
UPDATE delivery SET salt = salt + 1, salted_at = certvoy_now() WHERE target_id = $1 AND secret = $2 AND salt = $3
RETURNING target_id;

-- name: offer_plainly
-- A new Certificate has other bytes anyway.
UPDATE delivery SET salt = 0, salted_at = NULL
 WHERE secret = $1 AND target_id IN (
        SELECT target_id FROM delivery WHERE secret = $1 AND salt > 0 ORDER BY target_id FOR NO KEY UPDATE);

-- name: offer_bundle_anew
-- A new version of a bundle may have bytes that some Target refused once: who ever did gets others, all others get it plainly.
UPDATE delivery SET salt = CASE WHEN refused IS NULL THEN 0 ELSE salt + 1 END,
       salted_at = CASE WHEN refused IS NULL THEN NULL ELSE certvoy_now() END
 WHERE secret = $1 AND target_id IN (
        SELECT target_id FROM delivery WHERE secret = $1 AND (salt > 0 OR refused IS NOT NULL) ORDER BY target_id FOR NO KEY UPDATE);

-- ---------------------------------------------------------------- pushes

-- name: push_anew
-- Of a Target whose address was named again: its pushes begin anew, now.
UPDATE delivery SET push_generation = NULL, push_at = NULL, push_attempts = 0, push_error = NULL WHERE target_id = $1;

-- name: claim_pushes
-- At most $2 Deliveries to be pushed: what their Target is offered is not proved, and either those very bytes (generation and
-- salt) were never pushed, or a push of them was not answered and its pause is over; or the agent whose word is the proof should
-- have said it again by itself: who is asked looks anew. Nobody else takes one for $1. Those that were never tried, or answered the
-- last time, come first: a fleet that is away keeps nobody waiting.
WITH due AS (
    SELECT d.target_id, d.secret, o.generation
      FROM target t
      JOIN delivery d ON d.target_id = t.id
     CROSS JOIN LATERAL (SELECT served_generation, kind FROM secret WHERE name = d.secret AND deleted_at IS NULL OFFSET 0) s
      LEFT JOIN LATERAL (
            SELECT r.id, p.generation AS before FROM certrotation r JOIN certificate p ON p.id = r.cert_id AND servable(p)
             WHERE r.secret = d.secret AND r.completed_at IS NULL AND r.new_cert_id IS NOT NULL AND r.stage = 'canary'
            OFFSET 0) staged ON true
      LEFT JOIN canary k ON k.rotation_id = staged.id AND k.target_id = d.target_id
     CROSS JOIN LATERAL (
            SELECT CASE WHEN k.target_id IS NULL THEN coalesce(staged.before, s.served_generation) ELSE s.served_generation END
                       AS generation) o
     WHERE t.push IS NOT NULL AND t.identity IS NOT NULL AND (d.registered OR d.seen_until > certvoy_now())
       AND o.generation IS NOT NULL
       AND (d.proved IS DISTINCT FROM o.generation OR d.proved_by = 'agent' AND d.said_at < certvoy_now() - interval '90 minutes')
       AND (d.push_lease IS NULL OR d.push_lease <= certvoy_now())
       AND ((d.push_generation, d.push_salt) IS DISTINCT FROM (o.generation, d.salt) OR d.push_at <= certvoy_now()
            OR d.proved = o.generation AND d.push_at IS NULL)
     ORDER BY (d.push_generation, d.push_salt) IS NOT DISTINCT FROM (o.generation, d.salt) AND d.push_at IS NOT NULL, d.push_at, d.target_id, d.secret LIMIT $2
       FOR UPDATE OF d SKIP LOCKED)
UPDATE delivery d
   SET push_generation = due.generation, push_salt = d.salt, push_lease = certvoy_now() + $1::interval, push_at = certvoy_now(),
       push_attempts = CASE WHEN (d.push_generation, d.push_salt) IS NOT DISTINCT FROM (due.generation, d.salt)
                            THEN d.push_attempts + 1 ELSE 1 END
  FROM due JOIN target t ON t.id = due.target_id
 WHERE d.target_id = due.target_id AND d.secret = due.secret
RETURNING t.id, t.name, t.kind, t.identity, t.node_id, t.probe, t.admin, t.registered, t.vouched, t.push, t.proxy_protocol, t.http3,
          d.secret, d.push_generation, d.push_salt, d.push_attempts;

-- name: push_answered
-- The agent said what became of it: no more of these bytes, or, to hear more of them, again after $5.
UPDATE delivery SET sent = push_generation, push_at = certvoy_now() + $5::interval, push_lease = NULL, push_error = NULL,
       push_attempts = CASE WHEN $5::interval IS NULL THEN 0 ELSE push_attempts END
 WHERE target_id = $1 AND secret = $2 AND push_generation = $3 AND push_salt = $4 RETURNING target_id;

-- name: learn_kind
-- Who is pushed to is of the kind "files" until it is known better.
UPDATE target SET kind = $2 WHERE id = $1 AND kind = 'files' RETURNING id;

-- name: push_failed
-- Tried again after $5, unless something else is to be pushed. Returns the reason before, and what was sent.
WITH before AS (SELECT push_error, sent FROM delivery WHERE target_id = $1 AND secret = $2)
UPDATE delivery d
   SET push_at = certvoy_now() + $5::interval, push_lease = NULL, push_error = $6, sent = CASE WHEN $7 THEN push_generation ELSE d.sent END,
       updated_at = CASE WHEN d.push_error IS DISTINCT FROM $6 THEN certvoy_now() ELSE d.updated_at END
  FROM before
 WHERE d.target_id = $1 AND d.secret = $2 AND d.push_generation = $3 AND d.push_salt = $4
RETURNING before.push_error, before.sent;

-- name: push_overtaken
-- An agent was given other bytes than those that were pushed to it by somebody else meanwhile: nobody knows which it serves, so
-- it is pushed anew what it is offered.
UPDATE delivery SET proved = NULL, push_generation = NULL, push_at = NULL, look_at = certvoy_now() + interval '5 seconds'
 WHERE target_id = $1 AND secret = $2 AND (push_generation, push_salt) IS DISTINCT FROM ($3, $4) RETURNING target_id;

-- ---------------------------------------------------------------- watches

-- name: claim_watches
-- Deliveries at which this replica looks, and nobody else for about $1; spread, so that a fleet's looks do not come together.
UPDATE delivery d SET look_at = certvoy_now() + $1::interval * (0.7 + 0.6 * random())
  FROM (SELECT target_id, secret FROM delivery WHERE look_at <= certvoy_now() ORDER BY look_at LIMIT $2
           FOR UPDATE SKIP LOCKED) due
 WHERE d.target_id = due.target_id AND d.secret = due.secret
RETURNING d.target_id, d.secret;

-- name: watched
-- Those of these that can be looked at: they count, have an address, and are not the prover's, who looks at those that a
-- roll-out has not proved yet; who waits for the canaries should serve the one before. Of names on demand only with a living
-- stream: a handshake for one that its Envoy has let go would have it asked for again, for ever.
SELECT t.id, d.secret, d.accepted, d.refused, d.proved, d.salt, d.stale_since, certvoy_now() - d.salted_at AS salted_for,
       d.probe_error, coalesce(d.instances, 1) AS instances, d.agreed,
       certvoy_now() - d.updated_at AS unchanged_for, t.name, t.kind, t.identity, t.node_id, t.probe, t.admin, t.registered, t.vouched,
       t.push, t.proxy_protocol, t.http3, s.domains, o.secret IS NOT NULL AS on_demand, c.id AS cert_id, c.domain, c.san_domains,
       c.generation, c.fingerprint, c.serial_number,
       b.generation AS before_generation, b.fingerprint AS before_fingerprint, b.serial_number AS before_serial_number
  FROM delivery d
  JOIN target t ON t.id = d.target_id
  JOIN secret s ON s.name = d.secret AND s.deleted_at IS NULL
  LEFT JOIN on_demand_name o ON o.secret = d.secret
 CROSS JOIN LATERAL (
        SELECT id FROM certificate
         WHERE secret = d.secret AND status NOT IN ('replaced', 'rejected', 'revoked')
         ORDER BY generation DESC LIMIT 1) n
  LEFT JOIN certrotation r ON r.secret = d.secret AND r.completed_at IS NULL AND r.new_cert_id IS NOT NULL
  LEFT JOIN certificate p ON p.id = r.cert_id AND r.stage = 'canary' AND servable(p)
        AND NOT EXISTS (SELECT FROM canary WHERE rotation_id = r.id AND target_id = d.target_id)
  JOIN certificate c ON c.id = coalesce(p.id, n.id)
  LEFT JOIN LATERAL (
        SELECT generation, fingerprint, serial_number FROM certificate
         WHERE secret = d.secret AND generation < c.generation ORDER BY generation DESC LIMIT 1) b ON true
 WHERE (d.target_id, d.secret) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
   AND (d.registered OR d.seen_until > certvoy_now()) AND coalesce(t.probe, t.admin) IS NOT NULL
   AND (o.secret IS NULL OR d.registered OR d.replica IS NOT NULL)
   AND (d.proved = c.generation OR r.id IS NULL OR p.id IS NOT NULL);

-- name: watched_bundles
-- Those of these that are a trust bundle's, have an admin interface to ask and count; while it is rolled out those that are proved,
-- as the settler asks all others. What it should have loaded, and what it had before.
SELECT t.id, d.secret, d.accepted, d.refused, d.proved, d.salt, d.stale_since, certvoy_now() - d.salted_at AS salted_for,
       d.probe_error, coalesce(d.instances, 1) AS instances, d.agreed, certvoy_now() - d.updated_at AS unchanged_for,
       t.name, t.kind, t.identity, t.node_id, t.probe, t.admin, t.registered, t.vouched, t.push, t.proxy_protocol, t.http3,
       p.generation, p.content, b.generation AS before, b.content AS before_content
  FROM delivery d
  JOIN target t ON t.id = d.target_id
  JOIN secret s ON s.name = d.secret AND s.deleted_at IS NULL AND s.kind = 'validation_context'
  JOIN payload p ON p.secret = d.secret AND p.generation = s.served_generation AND (p.completed_at IS NOT NULL OR d.proved = p.generation)
  LEFT JOIN payload b ON b.secret = d.secret AND b.generation = payload_before(p)
 WHERE (d.target_id, d.secret) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
   AND (d.registered OR d.seen_until > certvoy_now()) AND t.admin IS NOT NULL;

-- name: unproved_bundles_of
-- Deliveries of a bundle that are not proved to be what it is served with.
SELECT d.target_id, d.secret FROM delivery d JOIN secret s ON s.name = d.secret AND s.kind = 'validation_context'
 WHERE d.secret = $1 AND (d.proved IS NULL OR d.proved < s.served_generation) ORDER BY d.target_id LIMIT $2;

-- name: unproved_of
-- Deliveries of a Secret that are not proved to be what it is served with.
SELECT d.target_id, d.secret FROM delivery d
 WHERE d.secret = $1 AND (d.proved IS NULL OR d.proved < (
        SELECT max(generation) FROM certificate WHERE secret = $1 AND status NOT IN ('replaced', 'rejected', 'revoked')))
 ORDER BY d.target_id LIMIT $2;

-- name: mark_stale
-- It serves something else than it was proved to serve, or than it took.
UPDATE delivery SET proved = NULL, served = coalesce($3, served), probe_error = $4, stale_since = coalesce(stale_since, certvoy_now()),
       updated_at = CASE WHEN stale_since IS NULL THEN certvoy_now() ELSE updated_at END
 WHERE target_id = $1 AND secret = $2 RETURNING stale_since;

-- name: look_again
UPDATE delivery SET look_at = least(look_at, certvoy_now() + $3::interval) WHERE target_id = $1 AND secret = $2;

-- ---------------------------------------------------------------- facts, for metrics

-- name: count_secrets
-- How many there are, and of those the few that are not well: nothing issued, expired, past their renewal. ``changes`` are to
-- be added up (add_up_secrets).
SELECT (SELECT coalesce(sum(change), 0)::bigint FROM secret_count) AS secrets,
       (SELECT count(*) FROM secret_count) AS changes,
       (SELECT count(*) FROM secret WHERE deleted_at IS NULL AND served_until IS NULL AND kind = 'tls_certificate') AS none,
       (SELECT count(*) FROM secret WHERE deleted_at IS NULL AND served_until <= certvoy_now()
                                      AND kind = 'tls_certificate') AS expired,
       (SELECT count(*) FROM secret WHERE deleted_at IS NULL AND renew_at <= certvoy_now()
                                      AND kind = 'tls_certificate') AS overdue;

-- name: add_up_secrets
-- The same sum in one row; whoever does it at the same time adds up what is left.
WITH gone AS (DELETE FROM secret_count RETURNING change)
INSERT INTO secret_count SELECT sum(change) FROM gone HAVING count(*) > 0;

-- name: dates
-- The dates of what is served, those first that end first.
SELECT name, served_from AS not_before, served_until AS not_after, renew_at FROM secret
 WHERE deleted_at IS NULL AND served_until IS NOT NULL AND kind = 'tls_certificate' ORDER BY served_until, name LIMIT $1;

-- name: freezes
-- Since when which Secrets are held, the longest first, and whether a person holds them.
SELECT name, frozen_at, frozen_by NOT LIKE 'replica:%' AS by_person FROM secret
 WHERE frozen_at IS NOT NULL AND deleted_at IS NULL ORDER BY frozen_at, name LIMIT $1;

-- name: stale_since
-- Since when a live Target of which Secrets serves something else than it should, the longest first.
SELECT d.secret, min(d.stale_since) AS since FROM delivery d JOIN secret s ON s.name = d.secret AND s.deleted_at IS NULL
 WHERE d.stale_since IS NOT NULL AND (d.registered OR d.seen_until > certvoy_now())
 GROUP BY d.secret ORDER BY 2, 1 LIMIT $1;

-- name: count_rotations
-- Open Rotations by how far they are (conditions.rotation_state), when the oldest began, or is to begin, and how many failed last.
SELECT CASE WHEN new_cert_id IS NOT NULL THEN 'rolling_out'
            WHEN leased_until > certvoy_now() THEN 'issuing'
            WHEN next_attempt_at = 'infinity' THEN 'held'
            ELSE 'waiting' END AS state,
       count(*) AS open, min(starts_at) AS oldest, count(*) FILTER (WHERE last_error IS NOT NULL) AS failing
  FROM certrotation r JOIN secret s ON s.name = r.secret
 WHERE r.completed_at IS NULL AND s.deleted_at IS NULL GROUP BY 1;

-- name: begin_census
-- One replica counts, and keeps the others from it for $1; none does before the next one is due.
UPDATE census SET begun_at = certvoy_now(), due_at = certvoy_now() + $1::interval
 WHERE due_at <= certvoy_now() RETURNING begun_at;

-- name: end_census
-- The next count is due after $2, and later where this one took long: no more than a $3rd of the time is spent on it.
UPDATE census SET taken_at = certvoy_now(), deliveries = $1,
       due_at = certvoy_now() + greatest($2::interval, (certvoy_now() - begun_at) * $3::integer);

-- name: census
-- What was counted last, if that is not too long ago.
SELECT deliveries FROM census WHERE taken_at > certvoy_now() - $1::interval;

-- name: count_deliveries
-- Deliveries of live sets by what is known of them (conditions.delivery_state): in all, and for the $1 Secrets and states
-- with the most that are not proved. Of what is no certificate a Target's word is mostly all that there is.
WITH state AS (
    SELECT d.secret, s.kind,
           CASE WHEN c.generation IS NULL THEN 'never'
                WHEN d.stale_since IS NOT NULL THEN 'stale'
                WHEN d.proved >= c.generation THEN CASE WHEN unseen(d) THEN 'unseen' WHEN c.waits THEN 'waiting' ELSE 'proved' END
                WHEN d.refused = c.generation AND d.accepted IS DISTINCT FROM c.generation THEN 'refused'
                WHEN d.accepted = c.generation AND c.waits AND s.kind <> 'tls_certificate' THEN 'waiting'
                WHEN d.accepted >= c.generation THEN 'accepted'
                WHEN d.sent >= c.generation THEN 'sent'
                WHEN coalesce(d.sent, d.accepted, d.proved) IS NOT NULL THEN 'stale'
                ELSE 'never' END AS state
      FROM delivery d
      -- By name, one after the other: never by reading all Secrets.
     CROSS JOIN LATERAL (SELECT served_generation, kind FROM secret WHERE name = d.secret AND deleted_at IS NULL OFFSET 0) s
      LEFT JOIN LATERAL (
            SELECT r.id, p.generation AS before FROM certrotation r JOIN certificate p ON p.id = r.cert_id AND servable(p)
             WHERE r.secret = d.secret AND r.completed_at IS NULL AND r.new_cert_id IS NOT NULL AND r.stage = 'canary'
            OFFSET 0) staged ON true
      LEFT JOIN canary k ON k.rotation_id = staged.id AND k.target_id = d.target_id
      LEFT JOIN LATERAL (
            SELECT payload_before(p) AS before FROM payload p
             WHERE s.kind <> 'tls_certificate' AND p.secret = d.secret AND p.completed_at IS NULL AND p.stage = 'canary'
               AND NOT EXISTS (SELECT FROM payload_canary
                                WHERE secret = p.secret AND generation = p.generation AND target_id = d.target_id)
            OFFSET 0) other ON true
     CROSS JOIN LATERAL (
            SELECT staged.id IS NOT NULL AND k.target_id IS NULL OR other.before IS NOT NULL AS waits,
                   CASE WHEN k.target_id IS NULL THEN coalesce(staged.before, other.before, s.served_generation)
                        ELSE s.served_generation END AS generation) c
     WHERE d.registered OR d.seen_until > certvoy_now())
(SELECT NULL AS secret, state, count(*) AS targets FROM state GROUP BY state)
UNION ALL
(SELECT secret, state, count(*) FROM state
  WHERE state NOT IN ('proved', 'waiting') AND (state <> 'accepted' OR kind = 'tls_certificate') GROUP BY secret, state ORDER BY 3 DESC, 1, 2 LIMIT $1);

-- name: refusers
-- Registered Targets that refuse what one of these Secrets is served with, $2 of them. Others are called as their clients like.
SELECT d.secret, t.name AS target FROM delivery d
  JOIN secret s ON s.name = d.secret AND s.deleted_at IS NULL AND d.refused = s.served_generation
  JOIN target t ON t.id = d.target_id
 WHERE d.secret = ANY ($1::text[]) AND d.registered AND d.accepted IS DISTINCT FROM d.refused AND coalesce(d.proved, 0) < d.refused
 ORDER BY d.secret, t.name LIMIT $2;

-- ---------------------------------------------------------------- audit and feed

-- name: append_audit
INSERT INTO certaudit (cert_id, action, actor, subject, payload) VALUES ($1, $2, $3, $4, $5);

-- name: backup
-- What a restored database holds, and until when.
SELECT (SELECT max(timestamp) FROM certaudit) AS until, (SELECT count(*) FROM certaudit) AS entries,
       (SELECT count(*) FROM secret WHERE deleted_at IS NULL) AS secrets;

-- name: done_by_key
-- What a caller did first by a key of its own within $3, among its last $4 entries.
SELECT timestamp, action, subject FROM (
       SELECT id, timestamp, action, subject, payload FROM certaudit WHERE actor = $1 ORDER BY id DESC LIMIT $4) AS latest
 WHERE timestamp > certvoy_now() - $3::interval AND payload::json ->> 'idempotency_key' = $2 ORDER BY id LIMIT 1;

-- name: newest_audited
-- What was told last of the subject under this action.
SELECT payload FROM certaudit WHERE subject = $1 AND action = $2 ORDER BY id DESC LIMIT 1;

-- name: tally_audit
-- Count what an identity did, and return how often it has in this window.
INSERT INTO audit_tally AS known (identity, action, times) VALUES ($1, $2, $3)
    ON CONFLICT (identity, action) DO UPDATE SET times = known.times + EXCLUDED.times
RETURNING times;

-- name: end_audit_windows
-- Windows that have lasted $1; of two replicas that come at once each ends its own.
DELETE FROM audit_tally WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM audit_tally WHERE began_at <= certvoy_now() - $1::interval ORDER BY began_at LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING identity, action, began_at, times;

-- name: contents_of
-- What these generations are: the Certificate with its serial number, and the key that belongs to it.
SELECT wanted.secret, wanted.generation, c.id AS cert_id, c.serial_number, coalesce(c.key_id, p.key_id) AS key_id
  FROM unnest($1::text[], $2::integer[]) AS wanted (secret, generation)
  LEFT JOIN certificate c ON c.secret = wanted.secret AND c.generation = wanted.generation
  LEFT JOIN payload p ON p.secret = wanted.secret AND p.generation = wanted.generation;

-- name: audit
-- Newest first, before $5; what is null is not asked.
SELECT id, cert_id, action, actor, timestamp, subject, payload FROM certaudit
 WHERE ($1::text IS NULL OR subject = $1) AND ($2::text IS NULL OR action = $2) AND ($3::text IS NULL OR actor = $3)
   AND ($4::timestamptz IS NULL OR timestamp >= $4) AND id < $5
 ORDER BY id DESC LIMIT $6;

-- name: notify
SELECT pg_notify('certvoy', $1);

-- ---------------------------------------------------------------- the audit's tree

-- name: audit_head
-- How the tree stands: its leaves, its newest checkpoint, and the oldest entry that has no leaf yet. Clusters are few, so that each
-- is looked up by itself. misplaced: somebody has moved how far that is, so that entries before it would never be sealed.
WITH RECURSIVE clusters (cluster) AS (
    SELECT min(cluster) FROM certaudit
     UNION ALL
    SELECT (SELECT min(a.cluster) FROM certaudit a WHERE a.cluster > c.cluster) FROM clusters c WHERE c.cluster IS NOT NULL)
SELECT (SELECT coalesce(max(leaf_index) + 1, 0) FROM auditleaf) AS leaves, s.tree_size, c.tree_size AS checkpoint, c.note,
       (SELECT certvoy_now() - min(oldest.timestamp)
          FROM clusters k LEFT JOIN auditsealed p ON p.cluster = k.cluster
         CROSS JOIN LATERAL (
               SELECT a.timestamp FROM certaudit a
                WHERE a.cluster = k.cluster AND (a.xid, a.id) > (coalesce(p.xid, '0'), coalesce(p.event_id, 0))
                ORDER BY a.xid, a.id LIMIT 1) oldest) AS unsealed,
       EXISTS (SELECT FROM auditsealed p
                WHERE NOT EXISTS (SELECT FROM auditleaf l JOIN certaudit a ON a.id = l.event_id
                                   WHERE l.event_id = p.event_id AND a.xid = p.xid AND a.cluster = p.cluster)) AS misplaced
  FROM auditsealer s
  LEFT JOIN (SELECT tree_size, note FROM auditcheckpoint ORDER BY tree_size DESC LIMIT 1) c ON true;

-- name: audit_size
SELECT coalesce(max(leaf_index) + 1, 0) FROM auditleaf;

-- name: claim_audit_sealer
-- Nobody's, or ours: with a new number each time, by which what we began before is fenced off.
UPDATE auditsealer SET lease_no = lease_no + 1, leased_by = $1, leased_until = certvoy_now() + $2::interval
 WHERE leased_by = $1 OR leased_until IS NULL OR leased_until <= certvoy_now()
RETURNING lease_no;

-- name: entries_to_seal
-- The next $1 entries: those of another PostgreSQL first (a dump of it was restored here, where nobody writes them any more), then
-- ours, as far as no transaction is under way that could still add one before them.
WITH RECURSIVE clusters (cluster) AS (
    SELECT min(cluster) FROM certaudit
     UNION ALL
    SELECT (SELECT min(a.cluster) FROM certaudit a WHERE a.cluster > c.cluster) FROM clusters c WHERE c.cluster IS NOT NULL)
SELECT a.id, a.cert_id, a.action, a.actor, a.timestamp, a.xid::text AS xid, a.cluster, a.subject, a.payload
  FROM clusters k LEFT JOIN auditsealed p ON p.cluster = k.cluster
 CROSS JOIN LATERAL (
       SELECT * FROM certaudit e
        WHERE e.cluster = k.cluster AND (e.xid, e.id) > (coalesce(p.xid, '0'), coalesce(p.event_id, 0))
          AND (e.cluster <> certvoy_cluster() OR e.xid < pg_snapshot_xmin(pg_current_snapshot()))
        ORDER BY e.xid, e.id LIMIT $1) a
 ORDER BY a.cluster = certvoy_cluster(), a.cluster, a.xid, a.id LIMIT $1;

-- name: seal_audit
-- Leaves $3 (entries), $4 (hashes), $5 (nodes) behind the $2 that there are, with their checkpoint, for who has lease $1: all of it
-- or nothing.
WITH fence AS (
    UPDATE auditsealer SET tree_size = tree_size + cardinality($3::bigint[])
     WHERE lease_no = $1 AND tree_size = $2 AND leased_until > certvoy_now() RETURNING tree_size),
leaves AS (
    INSERT INTO auditleaf (leaf_index, event_id, leaf_hash, nodes)
    SELECT $2 + n.nth - 1, n.event_id, n.leaf_hash, n.nodes
      FROM fence, unnest($3::bigint[], $4::bytea[], $5::bytea[]) WITH ORDINALITY AS n (event_id, leaf_hash, nodes, nth)),
places AS (
    INSERT INTO auditsealed AS known (cluster, xid, event_id)
    SELECT n.cluster, n.xid::xid8, n.event_id FROM fence, unnest($6::bigint[], $7::text[], $8::bigint[]) AS n (cluster, xid, event_id)
        ON CONFLICT (cluster) DO UPDATE SET xid = EXCLUDED.xid, event_id = EXCLUDED.event_id)
INSERT INTO auditcheckpoint (tree_size, root, note) SELECT tree_size, $9, $10 FROM fence RETURNING tree_size;

-- name: audit_nodes
-- The hashes beside these leaves.
SELECT leaf_index, leaf_hash, nodes FROM auditleaf WHERE leaf_index = ANY ($1::bigint[]);

-- name: audit_leaves
-- The next $2 leaves from $1 on, each with its entry, if that is there, and the checkpoint of the tree that ends with it.
SELECT l.leaf_index, l.leaf_hash, l.event_id, c.note,
       a.id, a.cert_id, a.action, a.actor, a.timestamp, a.xid::text AS xid, a.cluster, a.subject, a.payload
  FROM auditleaf l
  LEFT JOIN certaudit a ON a.id = l.event_id
  LEFT JOIN auditcheckpoint c ON c.tree_size = l.leaf_index + 1
 WHERE l.leaf_index >= $1 ORDER BY l.leaf_index LIMIT $2;

-- name: audit_unsealed
-- The next $2 entries behind $1 that are in no leaf.
SELECT a.id, a.cert_id, a.action, a.actor, a.timestamp, a.xid::text AS xid, a.cluster, a.subject, a.payload
  FROM certaudit a
 WHERE a.id > $1 AND NOT EXISTS (SELECT FROM auditleaf l WHERE l.event_id = a.id) ORDER BY a.id LIMIT $2;

-- name: audit_leaf
-- The leaf of entry $1.
SELECT l.leaf_index, a.id, a.cert_id, a.action, a.actor, a.timestamp, a.xid::text AS xid, a.cluster, a.subject, a.payload
  FROM auditleaf l JOIN certaudit a ON a.id = l.event_id WHERE l.event_id = $1;

-- name: audit_entry_exists
SELECT EXISTS (SELECT FROM certaudit WHERE id = $1);

-- ---------------------------------------------------------------- tokens of the API

-- name: insert_api_token
INSERT INTO api_token (name, sha256, scopes, created_by, expires_at, identity)
VALUES ($1, $2, $3, $4, certvoy_now() + $5::interval, $6)
RETURNING id, name, scopes, created_at, created_by, expires_at, revoked_at, last_used_at, identity;

-- name: usable_api_token
-- Of the admin API.
SELECT id, name, scopes, created_at, created_by, expires_at, revoked_at, last_used_at, identity FROM api_token
 WHERE sha256 = $1 AND identity IS NULL AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > certvoy_now());

-- name: use_api_token
-- At most one write a minute and token: who used it last is for people, not for accounting.
UPDATE api_token SET last_used_at = certvoy_now()
 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < certvoy_now() - interval '1 minute');

-- name: api_tokens
SELECT id, name, scopes, created_at, created_by, expires_at, revoked_at, last_used_at, identity FROM api_token
 WHERE id > $1 ORDER BY id LIMIT $2;

-- name: revoke_api_token
UPDATE api_token SET revoked_at = certvoy_now() WHERE id = $1 AND revoked_at IS NULL RETURNING name;

-- name: identity_tokens
-- Of these identities; null: of all.
SELECT id, sha256, identity, expires_at FROM api_token
 WHERE identity IS NOT NULL AND revoked_at IS NULL AND expires_at > certvoy_now()
   AND ($1::text[] IS NULL OR identity = ANY ($1)) ORDER BY identity, id;

-- ---------------------------------------------------------------- enrolment

-- name: control_cas
SELECT generation, key_id, certificate_pem, created_at FROM control_ca WHERE not_after > certvoy_now() ORDER BY generation;

-- name: newest_control_ca
SELECT max(generation) FROM control_ca;

-- name: insert_control_ca
INSERT INTO control_ca (generation, key_id, certificate_pem, not_after) VALUES ($1, $2, $3, $4);

-- name: rights_horizon
-- What was written by this transaction or a later one may not be seen yet by what is read next.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text;

-- name: rights_changed
-- Whose rights were changed since the horizon $1.
SELECT DISTINCT identity FROM rights_change WHERE xid >= $1::text::xid8;

-- name: forget_rights_changes
DELETE FROM rights_change WHERE changed_at < certvoy_now() - $1::interval;

-- name: identity_grants
-- Of these identities; null: of all.
SELECT identity, name, kinds, issue, max_names FROM identity_grant
 WHERE $1::text[] IS NULL OR identity = ANY ($1) ORDER BY identity, name;

-- name: grants_of
SELECT identity, name, kinds, issue, max_names, granted_at, granted_by FROM identity_grant
 WHERE identity = ANY ($1::text[]) ORDER BY identity, name;

-- name: put_grant
-- Who granted a name stays who granted it on the terms of now.
INSERT INTO identity_grant AS known (identity, name, granted_by, kinds, issue, max_names) VALUES ($1, $2, $3, $4::text[], $5, $6)
    ON CONFLICT (identity, name) DO UPDATE
   SET kinds = EXCLUDED.kinds, issue = EXCLUDED.issue, max_names = EXCLUDED.max_names,
       granted_at = certvoy_now(), granted_by = EXCLUDED.granted_by
 WHERE (known.kinds, known.issue, known.max_names) IS DISTINCT FROM (EXCLUDED.kinds, EXCLUDED.issue, EXCLUDED.max_names);

-- name: delete_grants
DELETE FROM identity_grant WHERE identity = $1;

-- name: enrolled
-- Of these identities; null: all.
SELECT id, identity FROM proxy WHERE $1::text[] IS NULL OR identity = ANY ($1);

-- name: proxy
SELECT id AS proxy_id, name AS proxy_name, identity AS proxy_identity, created_at, created_by, credential_at, credential_until
  FROM proxy WHERE name = $1;

-- name: proxies
-- Envoys and whoever was invited, by name behind ($1, $2): a Target and its proxy in one row, a proxy that has none in its own.
SELECT * FROM (
    SELECT t.name, false AS alone, t.id, t.kind, t.identity, t.node_id, t.probe, t.admin, t.registered, t.vouched, t.push, t.proxy_protocol, t.http3, t.last_seen,
           p.id AS proxy_id, p.name AS proxy_name, p.identity AS proxy_identity,
           p.created_at, p.created_by, p.credential_at, p.credential_until
      FROM target t LEFT JOIN proxy p ON p.identity = t.identity OR (t.identity IS NULL AND p.name = t.name)
     WHERE t.kind = 'envoy'
     UNION ALL
    SELECT p.name, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           p.id, p.name, p.identity, p.created_at, p.created_by, p.credential_at, p.credential_until
      FROM proxy p
     WHERE NOT EXISTS (SELECT FROM target t WHERE (t.kind = 'envoy' OR t.last_seen IS NOT NULL)
                       AND (t.identity = p.identity OR (t.identity IS NULL AND t.name = p.name)))
) listed WHERE (name, alone) > ($1, $2) ORDER BY name, alone LIMIT $3;

-- name: insert_proxy
INSERT INTO proxy (name, identity, created_by) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING;

-- name: lock_proxy
SELECT id, identity FROM proxy WHERE name = $1 FOR UPDATE;

-- name: delete_proxy
-- Its enrolment tokens go with it.
DELETE FROM proxy WHERE name = $1 RETURNING id, identity;

-- name: insert_enrolment_token
INSERT INTO enrolment_token (sha256, proxy_id, created_by, expires_at) VALUES ($1, $2, $3, certvoy_now() + $4::interval)
RETURNING expires_at;

-- name: sweep_enrolment_tokens
DELETE FROM enrolment_token WHERE expires_at < certvoy_now() - interval '1 day';

-- name: usable_enrolment_token
-- For this key pair: not used, or used by it.
SELECT p.id, p.name, p.identity FROM enrolment_token t JOIN proxy p ON p.id = t.proxy_id
 WHERE t.sha256 = $1 AND t.expires_at > certvoy_now() AND (t.spki_sha256 IS NULL OR t.spki_sha256 = $2);

-- name: use_enrolment_token
-- The database alone decides who was first.
UPDATE enrolment_token SET used_at = coalesce(used_at, certvoy_now()), spki_sha256 = $2
 WHERE sha256 = $1 AND expires_at > certvoy_now() AND (spki_sha256 IS NULL OR spki_sha256 = $2)
RETURNING proxy_id;

-- name: credential_issued
UPDATE proxy SET credential_at = certvoy_now(), credential_until = $3 WHERE id = $1 AND identity = $2 RETURNING name;

-- ---------------------------------------------------------------- migrations

-- name: schema_owner
-- Nobody: there is no schema yet.
SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass('schema_migration');

-- name: role
SELECT role_of($1)::text;

-- name: may_act_as
-- Whether whoever asks can be that role (SET ROLE): since PostgreSQL 16 a member may be one that cannot.
SELECT pg_has_role($1::text::name, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END);

-- name: transaction_number
-- By what the server knows it later; no row: it has written nothing. A promoted replica begins another timeline, and counts on from what it has seen.
SELECT pg_current_xact_id_if_assigned()::text AS number, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline
 WHERE pg_current_xact_id_if_assigned() IS NOT NULL;

-- name: transaction_fate
SELECT CASE WHEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) = $2 THEN pg_xact_status($1::text::xid8) END;

-- name: has_roles
SELECT to_regproc('role_of') IS NOT NULL;

-- name: may_become
-- As may_act_as, of a role that may not be there.
SELECT coalesce(pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END), false)
  FROM pg_roles WHERE rolname = $1::text::name;

-- name: reads_keys
SELECT has_table_privilege('key_material', 'SELECT');

-- name: set_up_roles
SELECT set_up_roles();

-- name: become
-- Until the transaction ends.
SELECT set_config('role', $1, true);

-- name: login
SELECT session_user::text;

-- name: may_create
SELECT has_schema_privilege(current_schema(), 'CREATE');

-- name: lock_migrations
-- Replicas that start together migrate one after the other.
SELECT pg_advisory_xact_lock(4951760157);

-- name: try_lock_migrations
SELECT pg_try_advisory_xact_lock(4951760157);

-- name: reads_migrations
SELECT has_table_privilege('schema_migration', 'SELECT');

-- name: migrations
SELECT version, name, checksum FROM schema_migration ORDER BY version;

-- name: insert_migration
INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3);

-- name: is_empty
-- Whether the schema holds nothing at all, ours or anybody's.
SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = current_schema() AND c.relkind = 'r');
