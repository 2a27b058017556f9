#!/usr/bin/env bash
#
# cluster.sh
#	  What the way over contrib/cluster's router costs: appends to one database,
#	  and to the same store over 1, 2 and 4 shards, all on one server.  Statements
#	  are prepared, but for "unprepared": direct, parsed and planned at each call,
#	  as a shard does what comes by PL/Proxy.
#
# Runs on the server that PGHOST and so on name, on the same machine, with
# event_store and contrib/cluster installed and nobody else at work:
#
#		test/cluster.sh test/bench/cluster.sh
#
# Environment: BENCH_REPEAT (5), BENCH_SECONDS (6), BENCH_CLIENTS (8).
# Runs are interleaved; printed are medians of calls a second, the ratio to the
# direct append, and the CPU time of all server processes for a call.  A session
# connects to each shard at its first call; short runs measure that.

set -euo pipefail

repeat=${BENCH_REPEAT:-5}
seconds=${BENCH_SECONDS:-6}
clients=${BENCH_CLIENTS:-8}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sql() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }
host=$(sql -d postgres -c "SELECT split_part(current_setting('unix_socket_directories'), ',', 1)")
server=$(sql -d postgres -c "SELECT pg_read_file('postmaster.pid')" | head -n 1)
port=$(sql -d postgres -c 'SHOW port')

sql -d postgres -c 'CREATE DATABASE direct'
sql -d direct -c 'CREATE EXTENSION event_store'
for n in 1 2 4; do
	shards=()
	sql -d postgres -c "CREATE DATABASE router$n"
	for i in $(seq $n); do
		sql -d postgres -c "CREATE DATABASE shard${n}_$i"
		shards+=("dbname=shard${n}_$i host=$host port=$port")
	done
	event_store_cluster_setup "dbname=router$n" "${shards[@]}" 2>/dev/null
done

cat >"$work/one.sql" <<'END'
\set s random(1, 100000)
SELECT es_append('Bench-' || :s, es_any(), 'Thing', '{"a": 1, "b": "some text of an ordinary length", "c": [1, 2, 3]}');
END
cat >"$work/batch.sql" <<'END'
\set s random(1, 100000)
SELECT count(*) FROM es_append_batch('Bench-' || :s, es_any(), array_fill('Thing'::text, '{20}'),
	array_fill('{"a": 1, "b": "some text of an ordinary length", "c": [1, 2, 3]}'::jsonb, '{20}'));
END
cat >"$work/read.sql" <<'END'
\set s random(1, 100000)
SELECT count(*) FROM es_read_stream('Bench-' || :s);
END

# processes that have ended are in the postmaster's account
cpu() { awk '{ print $16 + $17 }' "/proc/$server/stat"; }
for round in $(seq "$repeat"); do
	for call in one batch read; do
		for db in direct unprepared router1 router2 router4; do
			name=$db
			mode=prepared
			[ $db != unprepared ] || { name=direct; mode=extended; }
			before=$(cpu)
			result=$(pgbench -n -M $mode -f "$work/$call.sql" -c "$clients" -j 2 -T "$seconds" "$name" 2>/dev/null)
			sleep 0.3
			awk -v c=$call -v d=$db -v cpu=$(($(cpu) - before)) -v hz="$(getconf CLK_TCK)" '
				/actually processed/ { split($NF, n, "/"); calls = n[1] }
				/^tps/ { print c, d, $3, cpu / hz / calls * 1e6 }' <<<"$result" >>"$work/results"
		done
	done
done

sort -k1,2 -k3n "$work/results" | awk '
	{ if (($1 " " $2) != key) { show(); key = $1 " " $2; n = 0 } n++; tps[n] = $3; cpu[n] = $4 }
	function show(  m, d) {
		if (!key) return
		m = int((n + 1) / 2)
		asort_cpu()
		split(key, d, " ")
		if (d[2] == "direct") base[d[1]] = tps[m]
		printf "%-6s %-10s %8.0f calls/s  %5.2f x direct  %6.0f us CPU a call\n", d[1], d[2], tps[m], tps[m] / base[d[1]], cpu[m]
	}
	function asort_cpu(  i, j, x) {
		for (i = 2; i <= n; i++) { x = cpu[i]; for (j = i - 1; j > 0 && cpu[j] > x; j--) cpu[j + 1] = cpu[j]; cpu[j + 1] = x }
	}
	END { show() }'
