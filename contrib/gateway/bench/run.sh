#!/usr/bin/env bash
#
# run.sh
#	  The gateway's figures, on a cluster of their own (PG_CONFIG names the
#	  PostgreSQL, with event_store installed; fsync is on).
#
# Environment: SECONDS_EACH (5), EVENTS (100000).

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/../../../test/cluster.sh"
build=${BUILD:-$here/../build}
events=${EVENTS:-100000}

make -s -C "$here/.." BUILD="$build" all "$build/bench"
cluster_start "${PG_CONFIG:-pg_config}" 'shared_buffers = 256MB'
PATH=$cluster_bin:$PATH
psql -X -q -c 'CREATE EXTENSION event_store'
for ((i = 0; i < events / 5000; i++)); do
	psql -X -q -c "SELECT count(*) FROM es_append_batch('Stream-1', es_any(), array_fill('Happened'::text, ARRAY[5000]),
		array_fill('{\"orderId\": \"4711\", \"amount\": 12.5, \"currency\": \"EUR\"}'::jsonb, ARRAY[5000]))" >/dev/null
done
psql -X -q -c 'VACUUM ANALYZE'

"$build/event_store_gateway" --listen=127.0.0.1:22113 --log-level=warning &
gateway=$!
cluster_before_stop() {
	kill "$gateway" 2>/dev/null || true
}
sleep 1
for what in "read $events" "append ${SECONDS_EACH:-5} 16" "latency 1000" "idle 1000"; do
	# shellcheck disable=SC2086 # words
	"$build/bench" 127.0.0.1:22113 "$gateway" $what
done
