#!/usr/bin/env bash
#
# How soon consumers have an event, and what they cost the writers.  Prints a
# Markdown table; see README.md in this directory.
#
# Environment (defaults in brackets):
#   PG_CONFIG       pg_config of the server to use [pg_config]
#   BENCH_WORK      what to measure [idle busy throughput group]
#   BENCH_REPEAT    repetitions [3]
#   BENCH_SECONDS   seconds per run of the writers [4]
#   BENCH_EVENTS    events timed per run [3000]
#   BENCH_PLOTS     draw the distribution of the latencies as SVG into this
#                   folder (needs gnuplot)

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PG_CONFIG=${PG_CONFIG:-pg_config}
work=" ${BENCH_WORK:-idle busy throughput group} "
repeat=${BENCH_REPEAT:-3}
seconds=${BENCH_SECONDS:-4}
events=${BENCH_EVENTS:-3000}

. "$here/../cluster.sh"
cluster_start "$PG_CONFIG" 'shared_preload_libraries = event_store' 'shared_buffers = 512MB' \
	'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'jit = off' 'max_connections = 200'
bin=$("$PG_CONFIG" --bindir)
export PATH="$bin:$PATH"
client=$cluster_dir/client
"${CC:-cc}" -O2 -Wall -I"$("$PG_CONFIG" --includedir)" "$here/subscription.c" -o "$client" \
	-L"$("$PG_CONFIG" --libdir)" -lpq
conninfo="host=$PGHOST dbname=postgres user=$PGUSER"
psql -qXc 'CREATE EXTENSION event_store'
psql -qXc 'CREATE DATABASE other'

cat >"$cluster_dir/append.sql" <<'SQL'
\set s random(1, 10000)
SELECT * FROM es_append('Order-' || :s::text, es_any(), 'OrderPlaced', '{"order": 1, "items": ["a", "b", "c"], "total": 99.5}');
SQL

# Arguments: pgbench's; prints events per second.
writers() {
	pgbench -n -M prepared -f "$cluster_dir/append.sql" "$@" 2>/dev/null |
		sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

median() { sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

notify() {
	psql -qXc "ALTER SYSTEM SET event_store.notify = $1" -c 'SELECT pg_reload_conf()' >/dev/null
	until [ "$(psql -qAtXc 'SHOW event_store.notify' -c '')" = "$1" ]; do :; done
}

# Title, then the arguments of the client: medians over the repetitions of
# p50, p99; largest; sums of got and missed.  "busy" is run beside it.
latency() {
	local title=$1 mode=$2 gap=$3 busy=${4:-} i beside

	: >"$cluster_dir/latency"
	for i in $(seq "$repeat"); do
		beside=
		if [ -n "$busy" ]; then
			$busy >/dev/null 2>&1 &
			beside=$!
		fi
		BENCH_TIMES="$cluster_dir/times, ${title//\//}, $mode" "$client" latency "$mode" "$events" "$gap" "$conninfo" \
			>>"$cluster_dir/latency"
		if [ -n "$beside" ]; then
			kill "$beside" 2>/dev/null || true
			wait "$beside" 2>/dev/null || true
		fi
	done
	printf '| %s, %s | %s | %s | %s | %s | %s |\n' "$title" "$mode" \
		"$(cut -d' ' -f1 "$cluster_dir/latency" | median)" \
		"$(cut -d' ' -f2 "$cluster_dir/latency" | median)" \
		"$(cut -d' ' -f3 "$cluster_dir/latency" | sort -n | tail -n 1)" \
		"$(awk '{n += $4} END {print n}' "$cluster_dir/latency")" \
		"$(awk '{n += $5} END {print n}' "$cluster_dir/latency")"
}

eight_writers() { exec pgbench -n -M prepared -f "$cluster_dir/append.sql" -c 8 -j 2 -T 3600; }
paced_writers() { exec pgbench -n -M prepared -f "$cluster_dir/append.sql" -c 8 -j 2 -T 3600 --rate 1000; }
other_database() {
	while :; do
		PGDATABASE=other psql -qX -c 'BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(2); COMMIT' || return 0
	done
}

writers -c 4 -j 2 -T "$seconds" >/dev/null		# fill the caches

wants() { [[ $work == *" $1 "* ]]; }

if wants idle || wants busy; then
	echo '| latency in ms: append answered → consumer has the row | p50 | p99 | max | events | missed |'
	echo '|---|---:|---:|---:|---:|---:|'
fi
if wants idle; then
	for mode in wait fetch listen; do latency 'idle store' $mode 1000; done
	for mode in wait fetch; do
		latency 'a transaction of 2 s in another database' $mode 1000 other_database
	done
fi
if wants busy; then
	for mode in wait fetch listen; do latency '8 writers, 1000 events/s' $mode 1000 paced_writers; done
	for mode in wait fetch listen; do latency '8 writers at full speed' $mode 1000 eight_writers; done
fi

# the share of the events that a consumer had within a time
if [ -n "${BENCH_PLOTS:-}" ] && { wants idle || wants busy; }; then
	mkdir -p "$BENCH_PLOTS"
	plots=
	for title in 'idle store' '8 writers, 1000 events/s' '8 writers at full speed'; do
		for mode in wait fetch; do
			times="$cluster_dir/times, ${title//\//}, $mode"
			[ ! -s "$times" ] ||
				plots+="${plots:+, }'$times' using (\$1 > 0.03 ? \$1 : 0.03):(100) smooth cnorm with lines lw 2 title '$title, es_$mode' noenhanced"
		done
	done
	gnuplot <<-END
		set terminal svg size 760,380 font 'sans-serif,12' background '#ffffff'
		set output '$BENCH_PLOTS/latency.svg'
		set title 'Append answered → consumer has the event ($(nproc) CPUs, PostgreSQL $("$PG_CONFIG" --version |
			sed 's/[^0-9]*\([0-9.]*\).*/\1/'), $(date +%F))'
		set logscale x
		set xrange [0.03:10]
		set xtics (0.03, 0.1, 0.3, 1, 3, 10)
		set xlabel 'ms'
		set yrange [0:1]
		set ytics ('0 %%' 0, '25 %%' 0.25, '50 %%' 0.5, '75 %%' 0.75, '99 %%' 0.99)
		set ylabel 'of the events'
		set grid lc rgb '#dddddd'
		set key outside bottom center horizontal
		set linetype 1 lc rgb '#2f6db5'
		set linetype 2 lc rgb '#8ab4e8'
		set linetype 3 lc rgb '#3c7a4b'
		set linetype 4 lc rgb '#9ccca8'
		set linetype 5 lc rgb '#b5480b'
		set linetype 6 lc rgb '#eaa57a'
		plot $plots
	END
fi

# throughput: interleaved, each against "off" of the same repetition
if wants throughput; then
	echo
	echo '| append, 16 clients | events/s | of "off" |'
	echo '|---|---:|---:|'
	kinds='off worker worker+1 worker+50 transaction'
	: >"$cluster_dir/throughput"
	for i in $(seq "$repeat"); do
		for kind in $kinds; do
			notify "${kind%+*}"
			waiters=
			case $kind in
				*+*)
					"$client" waiters "${kind#*+}" "$((seconds + 1))" "$conninfo" >/dev/null &
					waiters=$!
					;;
			esac
			tps=$(writers -c 16 -j 2 -T "$seconds")
			[ -z "$waiters" ] || wait "$waiters"
			echo "$i $kind $tps" >>"$cluster_dir/throughput"
		done
	done
	notify worker
	for kind in $kinds; do
		printf '| notify = %s | %.0f | %.2f |\n' "${kind/+/, consumers waiting: }" \
			"$(awk -v k="$kind" '$2 == k {print $3}' "$cluster_dir/throughput" | median)" \
			"$(awk -v k="$kind" '$2 == "off" {o[$1] = $3} $2 == k {print $3 / o[$1]}' "$cluster_dir/throughput" | median)"
	done
fi

# a group with a slow handler
if wants group; then
	echo
	echo '| consumer group, handler of 1 ms | events/s | of 1 member |'
	echo '|---|---:|---:|'
	: >"$cluster_dir/group"
	for i in $(seq "$repeat"); do
		for members in 1 2 4; do
			psql -qXc "SELECT es_drop_subscription(name) FROM event_store.subscription WHERE name = 'group'" \
				-c "SELECT es_create_subscription('group', slots => 64)" >/dev/null
			echo "$i $members $("$client" group $members $((events * members / 2)) "$conninfo")" >>"$cluster_dir/group"
		done
	done
	for members in 1 2 4; do
		printf '| %s | %.0f | %.2f |\n' "$members members" \
			"$(awk -v m=$members '$2 == m {print $3}' "$cluster_dir/group" | median)" \
			"$(awk -v m=$members '$2 == 1 {o[$1] = $3} $2 == m {print $3 / o[$1]}' "$cluster_dir/group" | median)"
	done
fi
