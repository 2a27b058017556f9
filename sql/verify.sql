-- Tampering with the log shows: es_verify() and event_store.hash_chain.
--
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\pset null (null)
SET client_min_messages = warning;

CREATE FUNCTION guards(enable boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    guarded text;
BEGIN
    FOREACH guarded IN ARRAY ARRAY['event', 'stream', 'event_type', 'mark'] LOOP
        EXECUTE format(CASE WHEN enable THEN 'ALTER TABLE event_store.%1$I ENABLE ALWAYS TRIGGER es_guard_statement, ENABLE ALWAYS TRIGGER es_guard_row'
                            ELSE 'ALTER TABLE event_store.%1$I DISABLE TRIGGER USER' END, guarded);
    END LOOP;
END
$$;
-- one act of tampering, what is found of it, and everything as before
CREATE FUNCTION tamper(VARIADIC commands text[]) RETURNS TABLE (stream text, version bigint, problem text)
LANGUAGE plpgsql AS $$
DECLARE
    command text;
    touched bigint;
BEGIN
    BEGIN
        PERFORM guards(false);
        FOREACH command IN ARRAY commands LOOP
            EXECUTE command;
            GET DIAGNOSTICS touched = ROW_COUNT;
            ASSERT touched > 0, command;
        END LOOP;
        PERFORM guards(true);
        CREATE TEMP TABLE found_now AS
            SELECT row_number() OVER () AS n, v.stream_id, v.version,
                   regexp_replace(v.problem, 'number \d+|above \d+', '...') AS problem FROM es_verify() AS v;
        RAISE EXCEPTION USING ERRCODE = 'P0001', MESSAGE =
            coalesce((SELECT json_agg(json_build_array(f.stream_id, f.version, f.problem) ORDER BY f.n) FROM found_now AS f)::text, '[]');
    EXCEPTION WHEN raise_exception THEN
        RETURN QUERY SELECT j ->> 0, (j ->> 1)::bigint, j ->> 2 FROM json_array_elements(SQLERRM::json) AS j;
    END;
END
$$;
CREATE FUNCTION at(stream text, version bigint) RETURNS bigint LANGUAGE sql AS
    'SELECT global_position FROM event_store.events WHERE stream_id = $1 AND version = $2';

-- every form of append, with and without hashes
SELECT es_head() AS start \gset
SHOW event_store.hash_chain;
SELECT count(*) FROM es_append('Plain-1', 0, '[{"event_type": "A", "data": 1}, {"event_type": "B", "data": 2, "tags": ["x"]}, {"event_type": "A", "data": 3}]');
SET event_store.hash_chain = on;
SELECT version FROM es_append('Chain-1', 0, 'A', '{"n": 1.50}', '{"who": "ee"}');
SELECT version FROM es_append_batch('Chain-1', 1, ARRAY['A', 'B', 'B'], ARRAY['{"n": 2}', '{"n": 3}', '{"n": 4}']::jsonb[],
                                    tags => ARRAY[NULL, '["blue", "red"]', '[]']::jsonb[]);
SELECT version FROM es_append('Chain-1', 4, '[{"event_type": "C", "data": null, "schema_version": 3}, {"event_type": "A", "data": [5], "tags": ["red"]}]');
SELECT version FROM es_append_streams('[{"stream_id": "Chain-2", "expected_version": 0, "events": [{"event_type": "A", "data": {}}, {"event_type": "A", "data": {}}]},
                                        {"stream_id": "Chain-1", "expected_version": 6, "events": [{"event_type": "D", "data": {}}]}]');
SELECT version FROM es_append_if('[{"event_type": "Free", "data": 1, "tags": ["a"]}, {"event_type": "Free", "data": 2},
                                   {"event_type": "E", "data": 3, "stream_id": "Chain-2"}]', '{"items": [{"tags": ["none"]}]}');
-- large data, compressed and out of line
SELECT version FROM es_append('Chain-2', 3, 'Large', (SELECT to_jsonb(string_agg(md5(i::text), '')) FROM generate_series(1, 2000) AS i));
SELECT count(*) FROM es_append_batch('VerifyLong-1', 0, array_fill('L'::text, ARRAY[500]), array_fill('{"l": 1}'::jsonb, ARRAY[500]));
-- imported, with times of their own
SELECT es_import($$SELECT 'Chain-5' AS stream_id, 'I' AS event_type, to_jsonb(i) AS data, timestamptz '2020-02-02 02:02:02.5' AS created_at FROM generate_series(1, 600) AS i
                   UNION ALL SELECT 'Chain-5', 'J', '0', NULL$$);
SELECT es_import($$SELECT 'Chain-5' AS stream_id, 'I' AS event_type, to_jsonb(i) AS data FROM generate_series(1, 3) AS i$$);
-- in one transaction, with a part that is rolled back
BEGIN;
SELECT version FROM es_append('Chain-3', 0, 'A', '1');
SAVEPOINT s;
SELECT version FROM es_append('Chain-3', 1, 'A', '2');
ROLLBACK TO s;
SELECT version FROM es_append('Chain-3', 1, 'A', '3');
COMMIT;
-- a chain begins in the middle of a stream
SELECT version FROM es_append('Plain-2', 0, 'A', '1');
SET event_store.hash_chain = off;
SELECT version FROM es_append('Plain-3', 0, 'A', '1');
SELECT version FROM es_append('Plain-3', 1, 'A', '2');
SET event_store.hash_chain = on;
SELECT version FROM es_append('Plain-3', 2, 'A', '3');
SET event_store.hash_chain = off;
-- and goes on when the setting is off; a stream without does not begin one
SELECT version FROM es_append('Plain-3', 3, 'A', '4');
SELECT version FROM es_append('Chain-1', 7, 'A', '8');
SELECT version FROM es_append('Plain-1', 3, 'A', '4');
SELECT count(*) FROM es_append_if('[{"event_type": "Free", "data": 3}]', '{"items": [{"tags": ["none"]}]}');
SELECT s.stream_id, string_agg(CASE WHEN length(e.hash) = 32 THEN 'h' WHEN e.hash IS NULL THEN '-' END, '' ORDER BY e.global_position) AS hashes
  FROM event_store.event AS e LEFT JOIN event_store.stream AS s USING (stream_no)
 WHERE e.global_position > :start AND s.stream_id IS DISTINCT FROM 'VerifyLong-1' AND s.stream_id IS DISTINCT FROM 'Chain-5' GROUP BY 1 ORDER BY 1;
SELECT * FROM es_verify();
SELECT * FROM es_verify('Chain-1');
SELECT * FROM es_verify('Nobody-1');
SELECT es_verify('');

-- whoever does not trust es_verify recomputes the hashes
CREATE FUNCTION len_text(text) RETURNS bytea LANGUAGE sql AS
    $$ SELECT int4send(octet_length(convert_to($1, 'UTF8'))) || convert_to($1, 'UTF8') $$;
SELECT count(*) AS hashes, count(*) FILTER (WHERE hash = sha256(previous || int8send(global_position) || content)) AS equal
  FROM (SELECT e.global_position, e.hash,
               coalesce(lag(e.hash) OVER (PARTITION BY e.stream_no ORDER BY e.version), decode(repeat('00', 32), 'hex')) AS previous,
               sha256(len_text(s.stream_id) || int8send(e.version) || uuid_send(e.event_id) || len_text(t.event_type)
                      || int4send(e.schema_version) || timestamptz_send(e.created_at)
                      || sha256(convert_to(e.data::text, 'UTF8')) || sha256(convert_to(e.metadata::text, 'UTF8'))
                      || int4send(coalesce(cardinality(e.tags), 0))
                      || coalesce((SELECT string_agg(len_text(tag), '' ORDER BY n) FROM unnest(e.tags) WITH ORDINALITY AS u (tag, n)), '')) AS content
          FROM event_store.event AS e JOIN event_store.stream AS s USING (stream_no) JOIN event_store.event_type AS t USING (type_no)) AS h
 WHERE hash IS NOT NULL;

-- tampering: one event is changed
SELECT * FROM tamper(format('UPDATE event_store.event SET data = ''{"n": 1.5}'' WHERE global_position = %s', at('Chain-1', 1)));
SELECT * FROM tamper(format('UPDATE event_store.event SET metadata = ''{"who": "e"}'' WHERE global_position = %s', at('Chain-1', 1)));
SELECT * FROM tamper(format('UPDATE event_store.event SET tags = ''{blue}'' WHERE global_position = %s', at('Chain-1', 3)));
SELECT * FROM tamper(format('UPDATE event_store.event SET created_at = created_at + interval ''1 us'' WHERE global_position = %s', at('Chain-1', 3)));
SELECT * FROM tamper(format('UPDATE event_store.event SET event_id = gen_random_uuid() WHERE global_position = %s', at('Chain-1', 3)));
SELECT * FROM tamper(format('UPDATE event_store.event SET schema_version = 2 WHERE global_position = %s', at('Chain-1', 3)));
SELECT * FROM tamper(format('UPDATE event_store.event SET type_no = (SELECT type_no FROM event_store.event WHERE global_position = %s) WHERE global_position = %s', at('Chain-1', 1), at('Chain-1', 3)));
SELECT * FROM tamper(format('UPDATE event_store.event SET data = ''1'' WHERE global_position = %s', at('Chain-2', 4)));
-- ... its hash is taken away, or is another one
SELECT * FROM tamper(format('UPDATE event_store.event SET hash = NULL WHERE global_position = %s', at('Chain-1', 4)));
SELECT * FROM tamper(format('UPDATE event_store.event SET hash = NULL, data = ''0'' WHERE global_position = %s', at('Chain-1', 4)));
SELECT * FROM tamper(format('UPDATE event_store.event SET hash = NULL WHERE global_position = %s', at('Chain-1', 1)));
SELECT * FROM tamper(format('UPDATE event_store.event SET hash = NULL WHERE global_position = %s', at('Chain-1', 8)),
                     'SELECT es_append(''Chain-1'', 8, ''A'', ''9'')');
SELECT * FROM tamper(format('UPDATE event_store.event SET hash = ''\x00'' WHERE global_position = %s', at('Chain-1', 4)));
-- removed: the first, one, two, all
SELECT * FROM tamper(format('DELETE FROM event_store.event WHERE global_position = %s', at('Chain-1', 1)));
SELECT * FROM tamper(format('DELETE FROM event_store.event WHERE global_position = %s', at('Chain-1', 3)));
SELECT * FROM tamper(format('DELETE FROM event_store.event WHERE global_position IN (%s, %s)', at('Chain-1', 3), at('Chain-1', 4)));
SELECT * FROM tamper('DELETE FROM event_store.event AS e USING event_store.stream AS s WHERE s.stream_no = e.stream_no AND s.stream_id = ''Chain-3''');
-- ... and what comes after moved up
SELECT * FROM tamper(format('DELETE FROM event_store.event WHERE global_position = %s', at('Chain-2', 3)),
                     format('UPDATE event_store.event SET version = 3 WHERE global_position = %s', at('Chain-2', 4)));
-- two change places, or positions
SELECT * FROM tamper(format('UPDATE event_store.event SET version = -1 WHERE global_position = %s', at('Chain-1', 3)),
                     format('UPDATE event_store.event SET version = 3 WHERE global_position = %s', at('Chain-1', 4)),
                     format('UPDATE event_store.event SET version = 4 WHERE global_position = %s', at('Chain-1', 3)));
SELECT * FROM tamper(format('UPDATE event_store.event SET global_position = -1 WHERE global_position = %s', at('Chain-1', 3)),
                     format('UPDATE event_store.event SET global_position = %2$s WHERE global_position = %1$s', at('Chain-1', 4), at('Chain-1', 3)),
                     format('UPDATE event_store.event SET global_position = %s WHERE global_position = -1', at('Chain-1', 4)));
-- put in, with and without a hash
SELECT * FROM tamper(format('INSERT INTO event_store.event SELECT -5, stream_no, created_at, gen_random_uuid(), 9, type_no, schema_version, data, metadata, tags FROM event_store.event WHERE global_position = %s', at('Chain-1', 8)));
SELECT * FROM tamper(format('INSERT INTO event_store.event SELECT 1000000, stream_no, created_at, gen_random_uuid(), 9, type_no, schema_version, data, metadata, tags, hash FROM event_store.event WHERE global_position = %s', at('Chain-1', 8)));
-- to another stream, and the names of streams and types
SELECT * FROM tamper(format('UPDATE event_store.event SET stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = ''Chain-1''), version = 9 WHERE global_position = %s', at('Chain-2', 4)));
SELECT * FROM tamper('UPDATE event_store.stream SET stream_id = ''Chain-4'' WHERE stream_id = ''Chain-3''');
SELECT * FROM tamper('UPDATE event_store.event_type SET event_type = ''Dd'' WHERE event_type = ''D'' AND category = ''Chain''');
SELECT * FROM tamper('UPDATE event_store.event_type SET category = ''Dd'' WHERE event_type = ''D'' AND category = ''Chain''');
SELECT * FROM tamper('DELETE FROM event_store.event_type WHERE event_type = ''D'' AND category = ''Chain''');
SELECT * FROM tamper('DELETE FROM event_store.stream WHERE stream_id = ''Chain-3''');
-- what belongs to no stream
SELECT * FROM tamper('UPDATE event_store.event SET data = ''7'' WHERE stream_no IS NULL AND data = ''2'' AND hash IS NOT NULL');
-- without hashes a change is not found, only what stands on its own
SELECT * FROM tamper(format('UPDATE event_store.event SET data = ''0'' WHERE global_position = %s', at('Plain-1', 2)));
SELECT * FROM tamper(format('DELETE FROM event_store.event WHERE global_position = %s', at('Plain-1', 2)));
-- nor that the end was cut off: that shows by the hashes that were kept elsewhere
SELECT * FROM tamper(format('DELETE FROM event_store.event WHERE global_position = %s', at('Chain-1', 8)));

-- guards that are off
ALTER TABLE event_store.event DISABLE TRIGGER es_guard_row;
SELECT * FROM es_verify();
SELECT * FROM es_verify('Chain-1');
ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_row;
SELECT * FROM es_verify();
-- and other triggers of the store
BEGIN;
ALTER TABLE event_store.projection DISABLE TRIGGER es_mark_replicated;
ALTER TABLE event_store.aggregate DISABLE TRIGGER es_definition_changed;
DROP TRIGGER es_definition_changed_row ON event_store.upcaster;
SELECT problem FROM es_verify();
ROLLBACK;
SELECT * FROM es_verify();

-- who may
CREATE ROLE regress_es_verifier;
SET ROLE regress_es_verifier;
SELECT * FROM es_verify();
SET event_store.hash_chain = on;
RESET ROLE;
SELECT es_grant('regress_es_verifier', 'admin');
SET ROLE regress_es_verifier;
SELECT * FROM es_verify();
RESET ROLE;
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_verifier;
SELECT * FROM es_verify();
SELECT * FROM es_verify('Chain-1');
RESET ROLE;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
SELECT es_revoke('regress_es_verifier', 'admin');
DROP ROLE regress_es_verifier;

-- a rewritten table
VACUUM FULL event_store.event;
SELECT * FROM es_verify();

DROP FUNCTION tamper(text[]);
DROP FUNCTION guards(boolean);
DROP FUNCTION at(text, bigint);
DROP FUNCTION len_text(text);
