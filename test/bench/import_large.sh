#!/usr/bin/env bash
#
# import_large.sh [events]
#	  An import of very many events: its speed on the way, and its memory.
#
# Runs on the server that PGHOST and so on name, on the same machine, in a
# database "large" that must not be there yet, and leaves it there:
#
#		test/cluster.sh test/bench/import_large.sh 1000000
#
# The rows are made by the query as it runs: streams of 50 events, 1000 of them
# at a time, 8 types, ids of version 7, about 60 bytes of data.  The import is
# killed once when a twentieth of it (a million at the most) is written, by a
# signal that takes the server down with it; then nothing must be there, and it
# is started again.  Prints a line when 1, 2, 5, 10, ... million events are
# written, the speed since the line before, and the process's memory: the peak
# of its own (RssAnon), and with the shared buffers that it has touched (VmHWM).

set -euo pipefail
events=${1:-100000000}

export PGDATABASE=large
sql() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }
sql -d postgres -c 'CREATE DATABASE large'
sql -c 'CREATE EXTENSION event_store'

query="SELECT 'Order' || stream % 10 || '-' || stream AS stream_id, 'Type' || n % 8 AS event_type, n % 50000 / 1000 + 1 AS version,
              jsonb_build_object('order', n, 'total', n % 977, 'note', 'about as much as an event') AS data,
              (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid AS event_id,
              '2024-01-01'::timestamptz + n * interval '10 ms' AS created_at
         FROM (SELECT n, n / 50000 * 1000 + n % 1000 AS stream, md5(n::text) AS hash
                 FROM (SELECT generate_series(0::bigint, $((events - 1))) AS n) AS rows OFFSET 0) AS made"

psql=
pid=
begin() {
	psql -XAtq -v ON_ERROR_STOP=1 -c "SELECT es_import(\$\$$query\$\$)" &
	psql=$!
	until pid=$(sql -c 'SELECT pid FROM event_store.import_progress') && [ -n "$pid" ]; do
		kill -0 $psql
		sleep 0.1
	done
}

written() { sql -c 'SELECT events FROM event_store.import_progress'; }

begin
half=$((events / 20 < 1000000 ? events / 20 : 1000000))
until [ "$(written)" -ge $half ]; do sleep 0.1; done
kill -KILL "$pid"
wait $psql 2>/dev/null || true
until sql -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done
echo "killed at $half: $(sql -c 'SELECT count(*) FROM event_store.event') events, $(sql -c 'SELECT count(*) FROM event_store.stream') streams"
sql -c 'VACUUM'

begin
started=$(date +%s.%N)
last="$started 0"
peak=0
next=1000000
while kill -0 $psql 2>/dev/null; do
	now=$(written)
	own=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null) || own=
	[ "${own:-0}" -le $peak ] || peak=$own
	if [ -n "$now" ] && [ "$now" -ge $next ]; then
		most=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status" 2>/dev/null) || most=
		last=$(awk -v n="$now" -v t="$(date +%s.%N)" -v last="$last" -v s="$started" -v own=$peak -v most="${most:-0}" 'BEGIN {
			split(last, l, " ")
			printf "%d events, %.0f s, %.0f/s since the line before, RssAnon %d kB, VmHWM %d kB\n", n, t - s, (n - l[2]) / (t - l[1]), own, most >"/dev/stderr"
			print t, n }')
		case $next in
			1* | 5*) next=$((next * 2)) ;;
			*) next=$((next / 2 * 5)) ;;
		esac
	fi
	sleep 1
done
wait $psql
awk -v n="$events" -v s="$started" -v t="$(date +%s.%N)" 'BEGIN { printf "%d events in %.0f s, %.0f/s\n", n, t - s, n / (t - s) }'
sql -c "SELECT pg_size_pretty(pg_database_size('large')) || ', ' || es_head() || ' is the head, ' || (SELECT count(*) FROM event_store.stream) || ' streams'"
