\set n :n + 1
\set s :run * 100 + :client_id
\set c :s % 10
\set t random(0, 9)
BEGIN;
SELECT coalesce(max(version), 0) AS cur FROM events WHERE stream_id = 'Order' || :c::text || '-' || :s::text \gset
\if :cur = :n - 1
INSERT INTO events (stream_id, version, event_type, schema_version, data, metadata) VALUES ('Order' || :c::text || '-' || :s::text, :n, 'OrderEvent' || :t::text, 1, :data, :metadata);
\endif
COMMIT;
