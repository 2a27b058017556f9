#!/usr/bin/env bash
#
# How fast contrib/feed is, beside the sinks' libraries alone, and how soon an
# event is at the sink.  Prints a Markdown table; see README.md in this directory.
#
# Environment (defaults in brackets):
#   PG_CONFIG       pg_config of the server to use [pg_config]
#   BENCH_SINKS     what to feed [nats kafka]
#   BENCH_EVENTS    events of one run [100000]
#   BENCH_REPEAT    repetitions, by turns [3]
#   BENCH_LATENCY   events timed one by one [500]

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PG_CONFIG=${PG_CONFIG:-pg_config}
sinks=${BENCH_SINKS:-nats kafka}
events=${BENCH_EVENTS:-100000}
repeat=${BENCH_REPEAT:-3}
timed=${BENCH_LATENCY:-500}
metrics=127.0.0.1:29189

# shellcheck source=test/cluster.sh
. "$here/../cluster.sh"
pids=()
# shellcheck disable=SC2317 # called by cluster_stop
cluster_before_stop() {
	[ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
}
cluster_start "$PG_CONFIG" 'shared_preload_libraries = event_store' 'shared_buffers = 512MB' \
	'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'jit = off'
bin=$("$PG_CONFIG" --bindir)
export PATH="$bin:$PATH"
build=$cluster_dir/build
mkdir "$build"
make -s -C "$here/../../contrib/feed" BUILD="$build" NATS=yes KAFKA=yes all test-programs
"${CC:-cc}" -O2 -Wall -I"$("$PG_CONFIG" --includedir)" -I/usr/include/postgresql "$here/feed.c" -o "$build/bench" \
	-L"$("$PG_CONFIG" --libdir)" -lpq -lnats -lrdkafka

psql -qXc 'CREATE EXTENSION event_store'
for ((i = 0; i < events; i += 1000)); do
	psql -qXAtc "SELECT count(*) FROM generate_series($i, $((i + 999)) , 10) AS g, LATERAL es_append_batch('Order-' || g % 10000, es_any(),
		array_fill('OrderPlaced'::text, ARRAY[10]), array_fill('{\"order\": 4711, \"customer\": \"c-17\", \"total\": 99.5,
		\"items\": [{\"sku\": \"a-1\", \"quantity\": 2}, {\"sku\": \"b-2\", \"quantity\": 1}]}'::jsonb, ARRAY[10]))" >/dev/null
done
psql -qXc 'VACUUM ANALYZE'

case " $sinks " in *' nats '*)
	nats-server -a 127.0.0.1 -p 24222 -js -sd "$cluster_dir/nats" >"$cluster_dir/nats.log" 2>&1 &
	pids+=($!)
	until (: </dev/tcp/127.0.0.1/24222) 2>/dev/null; do sleep 0.1; done
	server_nats=nats://127.0.0.1:24222
esac
case " $sinks " in *' kafka '*)
	mkfifo "$cluster_dir/mock"
	"$build/kafka_tool" mock 3 <"$cluster_dir/mock" >"$cluster_dir/mock.out" &
	pids+=($!)
	exec 7>"$cluster_dir/mock"
	until [ -s "$cluster_dir/mock.out" ]; do sleep 0.1; done
	server_kafka=$(cat "$cluster_dir/mock.out")
esac

# stream CREATE|DELETE name: JetStream's, by a request on a bare connection
stream() {
	local body=''

	[ "$1" = DELETE ] || body="{\"name\":\"$2\",\"subjects\":[\"$2.>\"],\"storage\":\"file\"}"
	exec 8<>/dev/tcp/127.0.0.1/24222
	printf 'CONNECT {"verbose":false}\r\nSUB answer 1\r\nPUB $JS.API.STREAM.%s.%s answer %d\r\n%s\r\n' \
		"$1" "$2" "${#body}" "$body" >&8
	while read -r line <&8; do [[ $line != MSG* ]] || break; done
	exec 8>&-
}

metric() {
	exec 9<>"/dev/tcp/${metrics%:*}/${metrics#*:}" || return 1
	printf 'GET /metrics HTTP/1.0\r\n\r\n' >&9
	sed -n "s/^event_store_feed_$1{.*} //p" <&9
	exec 9>&-
}

median() { sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# begin sink from [option...]: starts the feed
begin() {
	local server=server_$1

	psql -qXc "SELECT es_create_subscription('$1', after_position => $2)" >/dev/null
	"$build/event_store_feed" --sink="$1" --server="${!server}" --subscription="$1" --metrics=$metrics \
		--log-level=warning "${@:3}" 2>>"$cluster_dir/feed.log" &
	feed=$!
	pids+=("$feed")
}

end() {
	kill "$feed"
	wait "$feed" || true
	psql -qXc "SELECT es_drop_subscription('$1')" >/dev/null
}

# throughput sink [option...]: events/s of the feed, its start left out: from the
# first published on
throughput() {
	local first now published began=0 at

	begin "$1" 0 "${@:2}"
	for (( ; ; )); do
		published=$(metric published_events_total 2>/dev/null) || published=0
		now=$(date +%s%N)
		if [ "$began" = 0 ] && [ "${published:-0}" -gt 0 ]; then
			began=$now
			first=$published
		fi
		if [ "${published:-0}" -ge "$events" ]; then
			at=$(awk -v a="$began" -v b="$now" -v n="$((published - first))" 'BEGIN {printf "%.0f", n / ((b - a) / 1e9)}')
			break
		fi
		sleep 0.02
	done
	end "$1"
	echo "$at"
}

bytes=$(psql -qXAtc "SELECT round(avg(length(es_envelope(e)::text) + 80))::int FROM es_read_all(max_count => 100) AS e")
echo "| $events events of $bytes bytes, events/s | feed | library alone | ratio |"
echo '|---|---:|---:|---:|'
for sink in $sinks; do
	: >"$cluster_dir/$sink.feed"
	: >"$cluster_dir/$sink.alone"
	for ((i = 0; i < repeat; i++)); do
		if [ "$sink" = nats ]; then
			stream DELETE events
			stream CREATE events
			throughput nats >>"$cluster_dir/nats.feed"
			stream DELETE events
			stream CREATE alone
			"$build/bench" nats "$server_nats" alone "$events" "$bytes" >>"$cluster_dir/nats.alone"
			stream DELETE alone
		else
			# a new topic, in which nothing is known
			throughput kafka --target="run$i" >>"$cluster_dir/kafka.feed"
			"$build/bench" kafka "$server_kafka" alone "$events" "$bytes" >>"$cluster_dir/kafka.alone"
		fi
	done
	feeds=$(median <"$cluster_dir/$sink.feed")
	alone=$(median <"$cluster_dir/$sink.alone")
	awk -v s="$sink" -v f="$feeds" -v a="$alone" 'BEGIN {printf "| %s | %.0f | %.0f | %.2f |\n", s, f, a, f / a}'
done

echo
echo '| append answered → message at a consumer of the sink, ms | p50 | p99 | max |'
echo '|---|---:|---:|---:|'
for sink in $sinks; do
	server=server_$sink
	[ "$sink" != nats ] || stream CREATE events
	begin "$sink" "$(psql -qXAtc 'SELECT es_head()')"
	until [ "$(metric sink_up 2>/dev/null)" = 1 ] && [ "$(metric store_up)" = 1 ]; do sleep 0.1; done
	# shellcheck disable=SC2046 # three numbers
	printf '| %s | %s | %s | %s |\n' "$sink" $("$build/bench" latency "$sink" "${!server}" "$timed")
	end "$sink"
done
cat "$cluster_dir/feed.log" >&2
