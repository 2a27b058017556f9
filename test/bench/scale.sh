#!/usr/bin/env bash
#
# scale.sh connection...
#	  The same work in stores of different sizes, and in plain tables of the same
#	  events: a connection string for each database, filled by import_large.sh or
#	  by its query into the table of sql/raw.sql.
#
# Environment: BENCH_REPEAT (5), BENCH_SECONDS (3), BENCH_ITEMS (append1 append16
# stream page: which), BENCH_PLOTS (a folder for scale.svg; needs gnuplot).  Runs
# are interleaved; printed are medians, and ratios to the first database of the
# same kind.

set -euo pipefail

repeat=${BENCH_REPEAT:-5}
seconds=${BENCH_SECONDS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sql() { psql -XAtq -v ON_ERROR_STOP=1 -d "$@"; }

i=0
for db; do
	i=$((i + 1))
	if [ "$(sql "$db" -c "SELECT to_regclass('events') IS NOT NULL")" = t ]; then
		kind=plain
		events=$(sql "$db" -c 'SELECT max(global_position) FROM events')
		sql "$db" -c 'CREATE SEQUENCE IF NOT EXISTS version MINVALUE 1000001 CACHE 64'
		append="INSERT INTO events (stream_id, version, event_type, data, metadata)
			VALUES ('Bench-' || :s, nextval('version'), 'Type1', '{\"order\": 1, \"note\": \"about as much as an event\"}', '{}') RETURNING global_position"
		stream="SELECT * FROM events WHERE stream_id = 'Order' || :stream % 10 || '-' || :stream ORDER BY version"
		page='SELECT * FROM events WHERE global_position > :position ORDER BY global_position LIMIT 1000'
	else
		kind=event_store
		events=$(sql "$db" -c 'SELECT es_head()')
		append="SELECT es_append('Bench-' || :s, es_any(), 'Type1', '{\"order\": 1, \"note\": \"about as much as an event\"}')"
		stream="SELECT * FROM es_read_stream('Order' || :stream % 10 || '-' || :stream)"
		page='SELECT * FROM es_read_all(:position, 1000)'
	fi
	printf '%s %s %s\n' "$i" "$kind" "$events" >>"$work/databases"
	printf '\\set s random(1, 100000)\n%s;\n' "${append//$'\n'/ }" >"$work/append1.$i"
	cp "$work/append1.$i" "$work/append16.$i"
	# streams of 50 events, a thousand of them at a time
	printf '\\set stream random(0, %s)\n%s;\n' $((events / 50 * 9 / 10)) "$stream" >"$work/stream.$i"
	printf '\\set position random(0, %s)\n%s;\n' $((events * 9 / 10)) "$page" >"$work/page.$i"
done

for round in $(seq "$repeat"); do
	for item in ${BENCH_ITEMS:-append1 append16 stream page}; do
		i=0
		for db; do
			i=$((i + 1))
			clients=1
			[ $item != append16 ] || clients=16
			tps=$(pgbench -n -M prepared -f "$work/$item.$i" -c $clients -j 2 -T "$seconds" "$db" 2>/dev/null | awk '/^tps/ { print $3 }')
			echo "$item $i $tps" >>"$work/results"
		done
	done
done

sort -k1,1 -k2,2n -k3,3n "$work/results" | awk -v databases="$work/databases" '
	BEGIN { while ((getline line < databases) > 0) { split(line, d, " "); kind[d[1]] = d[2]; events[d[1]] = d[3] } }
	function show(  k) {
		if (!n) return
		k = item " " kind[i]
		if (!(k in base)) base[k] = tps[int((n + 1) / 2)]
		printf "%-8s %-11s %9d events %9.0f /s  %.2f\n", item, kind[i], events[i], tps[int((n + 1) / 2)], tps[int((n + 1) / 2)] / base[k]
	}
	$1 " " $2 != key { show(); key = $1 " " $2; item = $1; i = $2; n = 0 }
	{ tps[++n] = $3 }
	END { show() }' | tee "$work/report"

# each kind's speed by its size, of the smallest plain table's, or store's where there is none
if [ -n "${BENCH_PLOTS:-}" ]; then
	mkdir -p "$BENCH_PLOTS"
	plots= colour=0
	for line in 'append1:append, 1 client' 'append16:append, 16 clients' 'stream:a stream of 50' 'page:1000 events of all'; do
		item=${line%%:*} colour=$((colour + 1))
		for kind in event_store plain; do
			awk -v item="$item" -v kind=$kind '
				$1 == item && (!base || $2 == "plain" && !plain || $2 == "plain" && $3 < size) { base = $5; size = $3; plain = $2 == "plain" }
				$1 == item && $2 == kind { at[++n] = $3; speed[n] = $5 }
				END { for (i = 1; i <= n; i++) print at[i] / 1e6, speed[i] / base }' "$work/report" | sort -n >"$work/$item.$kind"
			[ ! -s "$work/$item.$kind" ] || plots+="${plots:+, }'$work/$item.$kind' with linespoints lw 2 lc $colour dt $([ $kind = plain ] && echo "'-'" ||
				echo 1) pt $([ $kind = plain ] && echo 6 || echo 7) title '${line#*:}, ${kind//_/ }'"
		done
	done
	gnuplot <<-END
		set terminal svg size 760,420 font 'sans-serif,12' background '#ffffff'
		set output '$BENCH_PLOTS/scale.svg'
		set title 'Speed by size, of the smallest plain table ($(nproc) CPUs, $(date +%F))'
		set logscale x
		set xlabel 'million events'
		set xtics (1, 2, 5, 10, 20, 50, 100)
		set yrange [0:*]
		set grid lc rgb '#dddddd'
		set key outside bottom center horizontal
		set linetype 1 lc rgb '#2f6db5'
		set linetype 2 lc rgb '#3c7a4b'
		set linetype 3 lc rgb '#b5480b'
		set linetype 4 lc rgb '#b5577a'
		plot $plots
	END
fi
