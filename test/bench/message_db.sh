#!/usr/bin/env bash
#
# message_db.sh
#	  message-db's functions on the event store beside message-db itself: the
#	  same statements, the same messages, in turns on one throw-away server.
#
#	  write	write_message by 16 clients to 10 000 streams of 10 categories
#	  page	get_category_messages, 1000 from a random position on, 4 clients
#
# event_store and event_store_message_db must be installed; message-db comes from
# npm, as contrib/message_db/test/package-lock.json has it.  Prints for each work the medians, and the median of the ratios of each
# round.  Environment: PG_CONFIG, BENCH_EVENTS (200000), BENCH_REPEAT (5),
# BENCH_SECONDS (3), BENCH_WORK (write page).

set -euo pipefail
cd "$(dirname "$0")/../.."
here=test/bench
events=${BENCH_EVENTS:-200000}
rounds=${BENCH_REPEAT:-5}
seconds=${BENCH_SECONDS:-3}

# shellcheck source=test/cluster.sh
. test/cluster.sh
cluster_start "${PG_CONFIG:-pg_config}" 'shared_buffers = 1GB' 'max_wal_size = 8GB' 'checkpoint_timeout = 1h' \
	'autovacuum = off' 'jit = off' "shared_preload_libraries = 'event_store'"
PATH=$cluster_bin:$PATH
work=$cluster_dir/message_db
mkdir -p "$work"

sql() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

cp contrib/message_db/test/package*.json "$work"
npm ci --prefix "$work" --no-audit --no-fund --ignore-scripts >"$work/npm.log" 2>&1 ||
	{ cat "$work/npm.log" >&2; exit 1; }

for db in real ours; do
	sql -c "CREATE DATABASE $db" -c "ALTER DATABASE $db SET search_path = message_store, public"
	sql -d $db -v streams=$((events / 50)) -f $here/sql/events.sql
done
DATABASE_NAME=real CREATE_DATABASE=off bash "$work/node_modules/@eventide/message-db/database/install.sh" >"$work/install.log" 2>&1
sql -d real -f $here/sql/message_db.sql
sql -d ours -c 'SET client_min_messages = warning' -c 'CREATE EXTENSION event_store_message_db CASCADE' >/dev/null
sql -d ours -c "SELECT es_import('SELECT stream_id, version, event_type, data, metadata
	FROM bench.events(0, (SELECT last_event FROM bench.config)) ORDER BY n')" >/dev/null
data=$(sql -d real -c 'SELECT data::text FROM bench.events(4711, 4711)')
metadata=$(sql -d real -c 'SELECT metadata::text FROM bench.events(4711, 4711)')
for db in real ours; do
	sql -d $db -c 'VACUUM (ANALYZE)'
	[ "$(sql -d $db -c "SELECT count(*) FROM get_category_messages('Order3', 1, 1000)")" = 1000 ]
done
sql -c CHECKPOINT

# run database work: messages per second
run() {
	local db=$1 file clients per
	case $2 in
		write) file=append clients=16 per=1 ;;
		page) file=category clients=4 per=1000 ;;
		*) echo "no such work: $2" >&2; exit 2 ;;
	esac
	pgbench -n -M prepared -c $clients -j 2 -T "$seconds" -f $here/pgbench/$file.message_db.sql -D data="$data" -D metadata="$metadata" \
		-D lo=1 -D step=1 -D count=$((events / 50)) -D maxpos="$events" "$db" >"$work/pgbench.log" 2>&1 ||
		{ cat "$work/pgbench.log" >&2; exit 1; }
	awk -v per=$per '/^tps = / { printf "%.0f\n", $3 * per }' "$work/pgbench.log"
}

for item in ${BENCH_WORK:-write page}; do
	# after a checkpoint the first writes log whole pages; pages are read once
	for db in real ours; do run $db "$item" >/dev/null; done
	: >"$work/$item"
	for ((i = 0; i < rounds; i++)); do
		echo "$(run real "$item") $(run ours "$item")" >>"$work/$item"
	done
	awk -v item="$item" '
		function median(a, n,   i, j, t) {
			for (i = 2; i <= n; i++)
				for (j = i; j > 1 && a[j] < a[j - 1]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
			return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
		}
		{ real[NR] = $1; ours[NR] = $2; ratio[NR] = $2 / $1; all = all sprintf(" %.2f", $2 / $1) }
		END { printf "%s: message-db %d/s, event_store_message_db %d/s, ratio %.2f (%s)\n", item,
			median(real, NR), median(ours, NR), median(ratio, NR), substr(all, 2) }' "$work/$item"
done
