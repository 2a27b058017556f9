#!/usr/bin/env bash
#
# evolution.sh
#	  What upcasters and aggregates cost: three ratios, measured on a throw-away
#	  cluster and printed as a Markdown table with their targets.
#
#	state		es_state of a stream of 10 000 events with a snapshot every 50,
#				against the same without snapshots
#	others		reading events without upcasters while 100 upcasters for other
#				types are defined, against none defined: streams of 50 and pages
#				of 1000
#	upcast		reading upcast events, function in language SQL, against calling
#				that function in the SELECT list; time per event
#
# The two sides of a comparison take turns; each repetition gives one ratio, and
# the median of those is reported.
#
# Environment (defaults in brackets):
#   PG_CONFIG          pg_config of the server to use [pg_config]
#   BENCH_REPEAT       repetitions [7]
#   BENCH_SECONDS      seconds per run [2]

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/../cluster.sh"

pg_config=${PG_CONFIG:-pg_config}
repeat=${BENCH_REPEAT:-7}
seconds=${BENCH_SECONDS:-2}

cluster_start "$pg_config" 'shared_buffers = 512MB' 'max_wal_size = 4GB' 'jit = off' \
	'autovacuum = off'
PATH=$("$pg_config" --bindir):$PATH
scratch=$(mktemp -d)
cluster_before_stop() { rm -rf "$scratch"; }

run() {
	psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"
}

load() {
	run -c 'CREATE DATABASE bench'
	run -d bench -f - >/dev/null <<-'SQL'
		CREATE EXTENSION event_store;

		-- inlined into the query that calls it, and (because of a STABLE function
		-- inside) executed by itself
		CREATE FUNCTION upcast_inline(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
			AS $$ SELECT jsonb_set(data - 'amount', '{total}', data->'amount') || '{"currency": "EUR"}' $$;
		CREATE FUNCTION upcast_call(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
			AS $$ SELECT data - 'amount' || jsonb_build_object('total', data->'amount', 'currency', 'EUR') $$;
		CREATE FUNCTION reduce(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
			AS $$ SELECT jsonb_set(state, '{balance}', to_jsonb((state->>'balance')::numeric + ((event).data->>'amount')::numeric)) $$;

		-- 1000 streams of 50 events that nothing changes, and of 50 that are upcast
		DO $$
		DECLARE
			events jsonb[] := ARRAY(SELECT jsonb_build_object('amount', n, 'customer', md5(n::text),
				'note', repeat('the quick brown fox ', 8)) FROM generate_series(1, 50) AS n);
			many jsonb[];
		BEGIN
			FOR n IN 1 .. 1000 LOOP
				PERFORM es_append_batch('Plain-' || n, 0, array_fill('Plain'::text, ARRAY[50]), events);
				PERFORM es_append_batch('Inline-' || n, 0, array_fill('Inline'::text, ARRAY[50]), events);
				PERFORM es_append_batch('Call-' || n, 0, array_fill('Call'::text, ARRAY[50]), events);
			END LOOP;
			many := ARRAY(SELECT jsonb_build_object('amount', n, 'note', repeat('x', 100)) FROM generate_series(1, 10000) AS n);
			PERFORM es_append_batch('Cached-1', 0, array_fill('Paid'::text, ARRAY[10000]), many);
			PERFORM es_append_batch('Folded-1', 0, array_fill('Paid'::text, ARRAY[10000]), many);
		END
		$$;
		VACUUM ANALYZE;
	SQL
}

# transactions script: us per transaction
transactions() {
	pgbench -n -M prepared -T "$seconds" -f "$1" -D streams=1000 bench 2>"$scratch/error" |
		awk '/^latency average/ { print $4 * 1000; found = 1 } END { exit !found }' ||
		{ cat "$scratch/error" >&2; return 1; }
}

# compare name target "script|options|statement before" "the same" [invert]
#	ratio of the first side's time to the second's, or the other way round
compare() {
	local name=$1 target=$2 invert=${5:-} side time r values=
	local -a parts

	for ((r = 1; r <= repeat; r++)); do
		values+=$r
		for side in "$3" "$4"; do
			IFS='|' read -ra parts <<<"$side"
			run -d bench -c "${parts[2]:-SELECT}" >/dev/null
			time=$(PGOPTIONS=${parts[1]:-} transactions "$scratch/${parts[0]}.sql")
			values+=" $time"
		done
		values+=$'\n'
	done
	awk -v name="$name" -v target="$target" -v invert="$invert" '
		function median(a, n,    i, j, t) {
			for (i = 2; i <= n; i++)
				for (j = i; j > 1 && a[j] < a[j - 1]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
			return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
		}
		NF == 3 { n++; first[n] = $2; second[n] = $3; ratio[n] = invert != "" ? $3 / $2 : $2 / $3 }
		END { printf "| %s | %.1f | %.1f | %.2f | %s |\n", name, median(first, n), median(second, n), median(ratio, n), target }
		' <<<"$values"
}

load
run -d bench -f - >/dev/null <<-'SQL'
	SELECT es_define_aggregate('Cached', 'reduce(jsonb,es_event)', '{"balance": 0}', 50),
		es_define_aggregate('Folded', 'reduce(jsonb,es_event)', '{"balance": 0}', 0);
	-- as after a life of appends and loads: 25 events after the newest snapshot
	SELECT version FROM es_state('Cached-1');
	UPDATE event_store.snapshot SET version = s.version, data = s.state FROM es_state('Cached-1', 9975) AS s
	 WHERE stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Cached-1');
SQL
test "$(run -d bench -c "SELECT (SELECT a FROM es_state('Cached-1') AS a) = (SELECT a FROM es_state('Folded-1') AS a) AND (es_load('Cached-1')).snapshot_version = 9975")" = t ||
	{ echo "the snapshot of 9975 events is not as it should be" >&2; exit 1; }

cat >"$scratch/cached.sql" <<<"SELECT * FROM es_state('Cached-1');"
cat >"$scratch/folded.sql" <<<"SELECT * FROM es_state('Folded-1');"
cat >"$scratch/stream.sql" <<<"\\set n random(1, :streams)
SELECT count(data) FROM es_read_stream('Plain-' || :n);"
cat >"$scratch/page.sql" <<<"SELECT count(data) FROM es_read_all(0, 1000, '{Plain}');"
for kind in inline call; do
	cat >"$scratch/$kind.sql" <<<"SELECT count(data) FROM es_read_category('${kind^}', 0, 1000);"
	cat >"$scratch/$kind.hand.sql" <<<"SELECT count(upcast_$kind(data)) FROM es_read_category('${kind^}', 0, 1000);"
done

off='-c event_store.upcast=off'
echo '| work | this, us | that, us | ratio | target |'
echo '|---|---|---|---|---|'
compare 'es_state, 10 000 events: snapshots / none (times faster)' '≥ 50' 'cached' 'folded' invert
others="SELECT es_define_upcaster(concat('Other', n), 1, 'upcast_inline(jsonb)') FROM generate_series(1, 100) AS n"
none='SELECT es_drop_upcaster(event_type, schema_version) FROM event_store.upcaster'
compare 'stream of 50: 100 upcasters for others / none (speed)' '≥ 0.97' "stream||$others" "stream||$none" invert
compare 'page of 1000: 100 upcasters for others / none (speed)' '≥ 0.97' "page||$others" "page||$none" invert
run -d bench -c "SELECT es_define_upcaster('Inline', 1, 'upcast_inline(jsonb)'), es_define_upcaster('Call', 1, 'upcast_call(jsonb)')" >/dev/null
compare 'page of 1000, inlined function: upcast / by hand (time)' '≤ 1.5' 'inline' "inline.hand|$off"
compare 'page of 1000, called function: upcast / by hand (time)' '≤ 1.5' 'call' "call.hand|$off"
