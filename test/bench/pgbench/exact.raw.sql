\set n :n + 1
\set s :run * 100 + :client_id
\set c :s % 10
\set t random(0, 9)
INSERT INTO events (stream_id, version, event_type, schema_version, data, metadata) VALUES ('Order' || :c::text || '-' || :s::text, :n, 'OrderEvent' || :t::text, 1, :data, :metadata);
