#!/usr/bin/env bash
#
# What projections cost: catching up by a worker against loops by hand, the
# delay until an event is in the read model, and the writers' throughput beside
# them.  Prints a Markdown table; see README.md in this directory.
#
# Environment (defaults in brackets):
#   PG_CONFIG       pg_config of the server to use [pg_config]
#   BENCH_WORK      what to measure [rate delay idle rebuild]
#   BENCH_REPEAT    repetitions [3]
#   BENCH_SECONDS   seconds per run of the writers [5]
#   BENCH_EVENTS    events, a multiple of 10000 [500000]

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PG_CONFIG=${PG_CONFIG:-pg_config}
export BENCH_WORK=${BENCH_WORK:-rate delay idle rebuild}
export BENCH_REPEAT=${BENCH_REPEAT:-3} BENCH_SECONDS=${BENCH_SECONDS:-5}
export BENCH_EVENTS=${BENCH_EVENTS:-500000}

. "$here/../cluster.sh"
cluster_start "$PG_CONFIG" 'shared_preload_libraries = event_store' 'shared_buffers = 1GB' \
	'max_wal_size = 8GB' 'checkpoint_timeout = 1h' 'jit = off' 'autovacuum = off' \
	'max_connections = 60' 'max_worker_processes = 16'
PATH="$("$PG_CONFIG" --bindir):$PATH" perl "$here/projection.pl" "$cluster_dir"
