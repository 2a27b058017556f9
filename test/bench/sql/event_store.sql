CREATE EXTENSION event_store;

CREATE VIEW bench.positions AS SELECT global_position FROM event_store.event;

-- Through the public call, one event at a time, in the common order.  A
-- transaction holds a lock for each stream it appends to: 1000 of them each.
DO $$
DECLARE
	last_event bigint := (SELECT c.last_event FROM bench.config c);
BEGIN
	FOR begins IN 0 .. last_event BY 1000 LOOP
		PERFORM es_append(e.stream_id, es_any(), e.event_type, e.data, e.metadata)
		FROM bench.events(begins, least(begins + 999, last_event)) AS e;
		COMMIT;
	END LOOP;
END
$$;
