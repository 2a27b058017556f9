-- The events that every contestant is loaded with, in the order in which they
-- are loaded.  :streams streams of 50 events each, taken in turns (in a
-- different order each time round), so that the events of one stream lie far
-- from each other, as they do in a store that has grown over time.  Every 26th
-- event belongs to one of 20 long streams.  The last one opens stream 0, the
-- hot stream.
CREATE SCHEMA bench;

CREATE TABLE bench.config AS
	SELECT :streams::bigint AS streams, :streams::bigint * 52 AS last_event;

CREATE FUNCTION bench.events(first bigint, last bigint)
RETURNS TABLE (n bigint, stream_no bigint, stream_id text, version bigint,
			   event_type text, data jsonb, metadata jsonb)
LANGUAGE sql STABLE
AS $$
SELECT e.n, p.stream_no,
	   'Order' || p.stream_no % 10 || '-' || p.stream_no,
	   p.version,
	   'OrderEvent' || e.n % 10,
	   jsonb_build_object(
			'orderId', 'Order' || p.stream_no % 10 || '-' || p.stream_no,
			'customerId', 'cust-' || lpad((e.n * 31 % 100000)::text, 6, '0'),
			'status', (ARRAY['placed', 'paid', 'packed', 'shipped'])[1 + e.n % 4],
			'currency', 'EUR',
			'total', round((e.n * 37 % 100000) / 100.0, 2),
			'items', jsonb_build_array(jsonb_build_object(
				'sku', 'SKU-' || lpad((e.n * 17 % 100000)::text, 5, '0'),
				'name', 'Blue ceramic mug',
				'quantity', 1 + e.n % 5,
				'price', round((e.n * 13 % 10000) / 100.0, 2))),
			'address', jsonb_build_object(
				'street', (1 + e.n % 200) || ' Main Street',
				'city', 'Leipzig', 'zip', '04109', 'country', 'DE')),
	   jsonb_build_object(
			'correlation_id', md5((e.n / 3)::text)::uuid,
			'causation_id', md5(e.n::text)::uuid,
			'user_id', 'user-' || lpad((e.n * 7 % 10000)::text, 5, '0'))
FROM generate_series(events.first, events.last) AS e (n)
	CROSS JOIN bench.config AS k
	CROSS JOIN LATERAL (SELECT e.n - e.n / 26 AS m, e.n / 26 AS b) AS i
	CROSS JOIN LATERAL (
		SELECT CASE WHEN e.n = k.last_event THEN 0
					WHEN e.n % 26 = 25 THEN k.streams + 1 + i.b % 20
					ELSE 1 + (i.m % k.streams * 7919 + i.m / k.streams * 104729) % k.streams
			   END AS stream_no,
			   CASE WHEN e.n = k.last_event THEN 1
					WHEN e.n % 26 = 25 THEN i.b / 20 + 1
					ELSE i.m / k.streams + 1
			   END AS version) AS p;
$$;
