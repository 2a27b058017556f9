#!/usr/bin/env bash
#
# decide.sh
#	  What decisions across streams cost, measured on a throw-away cluster and
#	  printed as a Markdown table with their targets.
#
#	disjoint	es_append_if with one tag that nobody else has, 16 clients, against
#				es_append, and against the npm package
#				@dcb-es/event-store-postgres: its own functions and SQL, called by
#				pgbench without its driver
#	hot			16 clients decide on one tag: read, append, begin again when
#				somebody was faster; decisions that got through, against the same
#	boundary	es_append_if on a boundary of 10 000 events against one of 10, with
#				after_position near the head; time per call
#	streams		es_append_streams of 3 streams, against three es_append in one
#				transaction of the client, 4 clients
#
# The two sides of a comparison take turns; each repetition gives one ratio, and
# the median of those is reported.
#
# Environment (defaults in brackets):
#   PG_CONFIG          pg_config of the server to use [pg_config]
#   BENCH_REPEAT       repetitions [5]
#   BENCH_SECONDS      seconds per run [3]
#   BENCH_DCB          folder of the unpacked npm package [fetched with npm pack]

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/../cluster.sh"

pg_config=${PG_CONFIG:-pg_config}
repeat=${BENCH_REPEAT:-5}
seconds=${BENCH_SECONDS:-3}

cluster_start "$pg_config" 'shared_buffers = 512MB' 'max_wal_size = 4GB' 'jit = off' \
	'max_connections = 50' ${BENCH_PRELOAD:+'shared_preload_libraries = event_store'}
PATH=$("$pg_config" --bindir):$PATH
scratch=$(mktemp -d)
cluster_before_stop() { rm -rf "$scratch"; }
export PGOPTIONS="-c client_min_messages=warning"

dcb=${BENCH_DCB:-}
if [ -z "$dcb" ]; then
	(cd "$scratch" && npm pack --silent @dcb-es/event-store-postgres@7.0.1 >/dev/null && tar xzf ./*.tgz)
	dcb=$scratch/package
fi

run() {
	psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"
}

run -c 'CREATE DATABASE bench'
run -d bench -f - >/dev/null <<'SQL'
	CREATE EXTENSION event_store;

	-- one attempt on the hot tag, as a client makes it: read, decide, append
	CREATE FUNCTION attempt_store() RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		last bigint;
	BEGIN
		SELECT global_position INTO last
		  FROM es_read_query('{"items": [{"event_types": ["Hot"], "tags": ["hot"]}]}', max_count => 1, backward => true);
		PERFORM es_append_if('[{"event_type": "Hot", "data": {"n": 1}, "tags": ["hot"]}]',
							 '{"items": [{"event_types": ["Hot"], "tags": ["hot"]}]}', last);
		RETURN 1;
	EXCEPTION WHEN SQLSTATE 'VE007' THEN
		RETURN 0;
	END $$;

	-- boundaries of 10 and of 10 000 events
	DO $$
	BEGIN
		PERFORM count(*) FROM generate_series(1, 10000) n, es_append('Load', es_any(), 'Boundary', '{"n": 1}', tags => ARRAY['large']);
		PERFORM count(*) FROM generate_series(1, 10) n, es_append('Load', es_any(), 'Boundary', '{"n": 1}', tags => ARRAY['small']);
	END $$;
	CREATE SEQUENCE boundary_head;
	SELECT setval('boundary_head', es_head());
SQL
node "$here/dcb_schema.mjs" "$dcb" | run -d bench -f - >/dev/null
run -d bench -f - >/dev/null <<'SQL'
	CREATE FUNCTION attempt_peer() RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		bound bigint;
		last bigint;
	BEGIN
		bound := peer_barrier_hwm('{1}', '{}');
		SELECT sequence_position INTO last FROM peer e
		 WHERE e.sequence_position <= bound AND type IN ('Hot') AND tags && '{hot}'::text[]
		 ORDER BY e.sequence_position DESC LIMIT 1;
		PERFORM peer_append('{1}', '{2,3}', '{Hot}', '{hot}', '{"{\"data\":{\"n\":1},\"metadata\":{}}"}',
							'{0}', '{Hot}', '{hot}', ARRAY[coalesce(last, 0)]);
		RETURN 1;
	EXCEPTION WHEN raise_exception THEN
		RETURN 0;
	END $$;
SQL

# sides: a pgbench script each
cat >"$scratch/plain.sql" <<'SQL'
\set r random(1, 1000000000)
SELECT * FROM es_append('Plain-' || :r::text, es_any(), 'Plain', '{"n": 1}');
SQL
cat >"$scratch/disjoint.sql" <<'SQL'
\set r random(1, 1000000000000)
SELECT * FROM es_append_if(('[{"event_type": "Tagged", "data": {"n": 1}, "tags": ["t:' || :r::text || '"]}]')::jsonb, ('{"items": [{"event_types": ["Tagged"], "tags": ["t:' || :r::text || '"]}]}')::jsonb);
SQL
cat >"$scratch/disjoint_peer.sql" <<'SQL'
\set r random(1, 1000000000000)
SELECT peer_append(ARRAY[:r::bigint + 10], '{2,3}', '{Tagged}', ARRAY['t:' || :r::text], '{"{\"data\":{\"n\":1},\"metadata\":{}}"}', '{0}', '{Tagged}', ARRAY['t:' || :r::text], '{0}');
SQL
echo 'SELECT attempt_store();' >"$scratch/hot.sql"
echo 'SELECT attempt_peer();' >"$scratch/hot_peer.sql"
for size in small large; do
	cat >"$scratch/boundary_$size.sql" <<SQL
SELECT * FROM es_append_if('[{"event_type": "Other", "data": {"n": 1}, "tags": ["other"]}]', '{"items": [{"tags": ["$size"]}]}', (SELECT last_value FROM boundary_head));
SQL
done
cat >"$scratch/streams.sql" <<'SQL'
\set r random(1, 1000000000)
SELECT * FROM es_append_streams(('[{"stream_id": "A-' || :r::text || '", "expected_version": -100, "events": [{"event_type": "A", "data": {"n": 1}}]}, {"stream_id": "B-' || :r::text || '", "expected_version": -100, "events": [{"event_type": "B", "data": {"n": 1}}]}, {"stream_id": "C-' || :r::text || '", "expected_version": -100, "events": [{"event_type": "C", "data": {"n": 1}}]}]')::jsonb);
SQL
cat >"$scratch/three.sql" <<'SQL'
\set r random(1, 1000000000)
BEGIN;
SELECT * FROM es_append('A-' || :r::text, es_any(), 'A', '{"n": 1}');
SELECT * FROM es_append('B-' || :r::text, es_any(), 'B', '{"n": 1}');
SELECT * FROM es_append('C-' || :r::text, es_any(), 'C', '{"n": 1}');
COMMIT;
SQL

# transactions per second
tps() {	# script clients
	pgbench -n -M prepared -c "$2" -j 2 -T "$seconds" -f "$scratch/$1.sql" bench 2>>"$scratch/log" |
		sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

# decisions per second that got through
decided() {	# script query
	local before after
	before=$(run -d bench -c "$2")
	tps "$1" 16 >/dev/null
	after=$(run -d bench -c "$2")
	echo "$(( (after - before) * 1000 / seconds ))e-3"
}
hot_store="SELECT count(*) FROM es_read_query('{\"items\": [{\"event_types\": [\"Hot\"]}]}', max_count => NULL)"
hot_peer_query="SELECT count(*) FROM peer WHERE type = 'Hot'"

median() {
	sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for script in plain disjoint disjoint_peer hot hot_peer boundary_small boundary_large streams three; do
	pgbench -n -M prepared -c 2 -t 20 -f "$scratch/$script.sql" bench >/dev/null 2>>"$scratch/log"
done
for ((i = 0; i < repeat; i++)); do
	plain=$(tps plain 16)
	disjoint=$(tps disjoint 16)
	peer=$(tps disjoint_peer 16)
	hot=$(decided hot "$hot_store")
	hot_peer=$(decided hot_peer "$hot_peer_query")
	run -d bench -c "SELECT setval('boundary_head', es_head())" >/dev/null
	small=$(tps boundary_small 1)
	large=$(tps boundary_large 1)
	three=$(tps three 4)
	streams=$(tps streams 4)
	echo "$plain $disjoint $peer $hot $hot_peer $small $large $three $streams" >>"$scratch/figures"
done
ratio() {	# awk expression
	awk "{ print $1 }" "$scratch/figures" | median
}

echo '| what | measured | target |'
echo '|---|---:|---:|'
printf '| es_append_if, one tag, disjoint, 16 clients, of es_append (%.0f/s) | %.2f | ≥ .8 |\n' "$(ratio '$1')" "$(ratio '$2/$1')"
printf '| the same, of @dcb-es/event-store-postgres (%.0f/s) | %.1f | ≥ 5 |\n' "$(ratio '$3')" "$(ratio '$2/$3')"
printf '| one hot boundary, 16 clients, decisions of the same (%.0f/s) | %.1f | ≥ 2 |\n' "$(ratio '$5')" "$(ratio '$4/$5')"
printf '| boundary of 10 000 events, time of one of 10 | %.2f | ≤ 2 |\n' "$(ratio '$6/$7')"
printf '| es_append_streams of 3, of three appends in a transaction (%.0f/s) | %.2f | ≥ 1.5 |\n' "$(ratio '$8')" "$(ratio '$9/$8')"
