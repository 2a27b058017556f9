#!/usr/bin/env bash
#
# import.sh [events [rounds]]
#	  es_import beside COPY of the same rows into a plain table with as many
#	  indexes, in turns, each into an empty table of one and the same server.
#
# The rows are made once, as a table for es_import and as a file for COPY:
# events of 8 streams in 100 each in the order in which they happened, with ids,
# versions and times.  Prints seconds of both, also of the backend's CPU time, and
# the ratios of the medians.

set -euo pipefail
cd "$(dirname "$0")/../.."
events=${1:-200000}
rounds=${2:-5}
pg_config=${PG_CONFIG:-pg_config}

. test/cluster.sh
cluster_start "$pg_config" 'shared_buffers = 1GB' 'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'autovacuum = off' 'synchronous_commit = on'
sql() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

sql <<-SQL
	CREATE EXTENSION event_store;
	CREATE UNLOGGED TABLE source AS
	SELECT n AS global_position, 'Order-' || (n % 1000) * 50 + n / 1000 % 50 AS stream_id, (n / 50000 + 1)::bigint AS version, 'Type' || n % 8 AS event_type,
	       jsonb_build_object('order', n, 'total', n % 977, 'customer', md5(n::text), 'lines', jsonb_build_array(n % 7, n % 11, n % 13)) AS data,
	       jsonb_build_object('user', 'u' || n % 100) AS metadata, md5(n::text)::uuid AS event_id, now() - n * interval '1 s' AS created_at
	  FROM generate_series(0, $events - 1) n;
	VACUUM ANALYZE source;
	COPY (SELECT * FROM source ORDER BY global_position) TO '$cluster_dir/events.copy';
	SQL

# A statement; prints its seconds, and those of CPU time of its backend.
timed() {
	/usr/bin/time -f %e -o "$cluster_dir/time" psql -XAtq -v ON_ERROR_STOP=1 -c "$1" \
		-c "SELECT 'cpu: ' || pg_read_file('/proc/self/stat')" |
		awk -v hz="$(getconf CLK_TCK)" '/^cpu: / { print ($15 + $16) / hz }' >"$cluster_dir/cpu"
	echo "$(cat "$cluster_dir/time") $(cat "$cluster_dir/cpu")"
}

load_copy() {
	sql <<-SQL
		DROP TABLE IF EXISTS plain;
		CREATE TABLE plain (global_position bigint PRIMARY KEY, stream_id text NOT NULL, version bigint NOT NULL, event_type text NOT NULL,
			data jsonb NOT NULL, metadata jsonb NOT NULL, event_id uuid UNIQUE, created_at timestamptz NOT NULL, UNIQUE (stream_id, version));
		CREATE INDEX ON plain (event_type, global_position);
		CHECKPOINT;
		SQL
	timed "COPY plain FROM '$cluster_dir/events.copy'"
}

load_import() {
	sql <<-SQL
		SET client_min_messages = error;
		DROP EXTENSION event_store;
		CREATE EXTENSION event_store;
		CHECKPOINT;
		SQL
	timed "SELECT es_import('SELECT stream_id, version, event_type, data, metadata, event_id, created_at
		FROM source ORDER BY global_position')"
}

median() { tr ' ' '\n' <<<"$*" | sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

copies=() imports=() copies_cpu=() imports_cpu=()
for ((i = 0; i < rounds; i++)); do
	read -r time cpu <<<"$(load_copy)"
	copies+=("$time") copies_cpu+=("$cpu")
	read -r time cpu <<<"$(load_import)"
	imports+=("$time") imports_cpu+=("$cpu")
done
echo "COPY      ${copies[*]} s, CPU ${copies_cpu[*]} s"
echo "es_import ${imports[*]} s, CPU ${imports_cpu[*]} s"
awk -v c="$(median "${copies[@]}")" -v i="$(median "${imports[@]}")" -v n="$events" \
	-v cc="$(median "${copies_cpu[@]}")" -v ic="$(median "${imports_cpu[@]}")" 'BEGIN {
	printf "%d events: COPY %.0f/s, es_import %.0f/s, ratio of speeds %.2f\n", n, n / c, n / i, c / i
	printf "CPU: COPY %.1f us an event, es_import %.1f us, ratio %.2f\n", cc * 1e6 / n, ic * 1e6 / n, cc / ic }'
