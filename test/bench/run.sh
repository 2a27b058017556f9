#!/usr/bin/env bash
#
# Benchmark of event_store against a plain table, the tutorials' client code,
# message-db and Emmett.  See README.md in this directory.
#
# Environment (defaults in brackets):
#   PG_CONFIG          pg_config of the server to use [pg_config]
#   BENCH_WORK         work items [all of the list below, without "big"]
#   BENCH_CONTESTANTS  ["raw tutorial message_db emmett event_store"]
#   BENCH_REPEAT       repetitions [5]
#   BENCH_SECONDS      seconds per run [4]
#   BENCH_EVENTS       events to load, a multiple of 500 [500000]
#   BENCH_BIG          1: also load BENCH_BIG_EVENTS [10000000] for item "big"
#   BENCH_PRELOAD      1: shared_preload_libraries = event_store [0]
#   BENCH_SHARED_BUFFERS  [2GB]
#   BENCH_DATA         keep the cluster in this directory and use it again;
#                      otherwise it lives in a temporary one and is removed
#   BENCH_OUT          append the raw results (item, contestant, repetition, value,
#                      % lost, CPU us per event) to this file [in the cluster's directory]
#   BENCH_PLOTS        draw the results as SVG into this folder (plot.sh; needs gnuplot)
#   BENCH_LOCK         hold a lock on this file during each load and each item
#   BENCH_USER         unprivileged user for the server, when run by root [postgres]

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all_items='size stream50 stream1000 stream1000_index all category first10 sum count append1 append4 append16 exact16 batch hot wal'

PG_CONFIG=${PG_CONFIG:-pg_config}
work=${BENCH_WORK:-$all_items}
wanted=${BENCH_CONTESTANTS:-raw tutorial message_db emmett event_store}
repeat=${BENCH_REPEAT:-5}
seconds=${BENCH_SECONDS:-4}
events=${BENCH_EVENTS:-500000}
big_events=${BENCH_BIG_EVENTS:-10000000}
user=${BENCH_USER:-postgres}
big=${BENCH_BIG:-0}
if [ "$big" = 1 ] && [ -z "${BENCH_WORK:-}" ]; then
	work="$work big"
fi

bindir=$("$PG_CONFIG" --bindir)
export PATH="$bindir:$PATH"

say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }
die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

case $events in *[!0-9]*) die "BENCH_EVENTS must be a number" ;; esac
if [ $((events % 500)) != 0 ] || [ "$events" -lt 20000 ]; then
	die "BENCH_EVENTS must be a multiple of 500, at least 20000"
fi
total=$((events * 52 / 50 + 1))

# ---------------------------------------------------------------- cluster

if [ -n "${BENCH_DATA:-}" ]; then
	base=$BENCH_DATA
	mkdir -p "$base"
else
	base=$(mktemp -d "${TMPDIR:-/tmp}/es_bench.XXXXXX")
fi
data=$base/data
out=${BENCH_OUT:-$base/results.tsv}
logs=$base/logs
mkdir -p "$logs" "$base/scripts"

# PostgreSQL refuses to run as root.
as_server() {
	if [ "$(id -u)" = 0 ]; then
		(cd "$base" && setpriv --reuid="$user" --regid="$user" --init-groups "$@")
	else
		"$@"
	fi
}

stop_server() {
	if [ -f "$data/postmaster.pid" ]; then
		as_server pg_ctl -D "$data" -m fast -w stop >>"$logs/pg_ctl.log" 2>&1 || true
	fi
	if [ -z "${BENCH_DATA:-}" ]; then
		if [ "${finished:-0}" = 1 ]; then
			rm -rf "$base"
		else
			say "failed; logs are kept in $logs"
			rm -rf "$data"
		fi
	fi
}
trap stop_server EXIT
trap 'exit 130' INT TERM

start_server() {
	if [ "$(id -u)" = 0 ]; then
		id "$user" >/dev/null 2>&1 || die "no user $user to run the server as"
		chown "$user" "$base" "$logs"
		user_group=$(id -gn "$user")
		chgrp "$user_group" "$base"
		chmod 755 "$base"
	fi
	if [ ! -f "$data/PG_VERSION" ]; then
		as_server initdb -D "$data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >"$logs/initdb.log"
		as_server tee -a "$data/postgresql.conf" >/dev/null <<-CONF
			listen_addresses = ''
			unix_socket_directories = '$base'
			max_connections = 60
			shared_buffers = '${BENCH_SHARED_BUFFERS:-2GB}'
			max_wal_size = '8GB'
			checkpoint_timeout = '1h'
			fsync = on
			full_page_writes = on
			synchronous_commit = on
			wal_level = replica
			jit = off
			autovacuum = off
			logging_collector = off
		CONF
	fi
	local preload=''
	[ "${BENCH_PRELOAD:-0}" = 1 ] && preload=event_store
	as_server pg_ctl -D "$data" -w -l "$logs/server.log" \
		-o "-c shared_preload_libraries='$preload'" start >>"$logs/pg_ctl.log" 2>&1 ||
		die "the server did not start, see $logs/server.log"
	export PGHOST=$base PGUSER=postgres PGDATABASE=postgres
	unset PGPORT PGOPTIONS PGSERVICE PGPASSWORD || true
}

q() { # database, psql arguments
	local db=$1
	shift
	psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$db" "$@"
}

take_lock() {
	if [ -n "${BENCH_LOCK:-}" ]; then
		exec 9>>"$BENCH_LOCK"
		flock 9
	fi
}

drop_lock() {
	if [ -n "${BENCH_LOCK:-}" ]; then
		exec 9>&-
	fi
}

# ------------------------------------------------------------ contestants

contestants=
declare -A not_run=()

npm_dir=$base/npm

fetch_peers() {
	case " $wanted " in *' message_db '* | *' emmett '*) ;; *) return 0 ;; esac
	if [ -d "$npm_dir/node_modules/@eventide/message-db" ] &&
		[ -d "$npm_dir/node_modules/@event-driven-io/emmett-postgresql" ]; then
		return 0
	fi
	if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
		not_run[message_db]='npm or node not found'
		not_run[emmett]='npm or node not found'
		return 0
	fi
	mkdir -p "$npm_dir"
	say 'npm install of the peers'
	if ! (cd "$npm_dir" && npm init -y &&
		npm install --no-audit --no-fund --ignore-scripts \
			@eventide/message-db@1.3.1 @event-driven-io/emmett-postgresql@0.42.0) \
		>"$logs/npm.log" 2>&1; then
		not_run[message_db]='npm install failed'
		not_run[emmett]='npm install failed'
	fi
}

load() { # contestant, database, events
	local c=$1 db=$2 n=$3 f=$here/sql/$1.sql
	local expected=$((n * 52 / 50 + 1)) got
	if [ -n "$(q postgres -c "SELECT 1 FROM pg_database WHERE datname = '$db'")" ] &&
		[ -n "$(q "$db" -c "SELECT to_regclass('bench.loaded')")" ]; then
		return 0
	fi
	say "loading $db"
	q postgres -c "DROP DATABASE IF EXISTS $db" -c "CREATE DATABASE $db" 2>/dev/null
	q "$db" -c 'CREATE EXTENSION pg_prewarm' || die 'pg_prewarm (contrib) is needed'
	q "$db" -v streams=$((n / 50)) -f "$here/sql/events.sql"
	case $c in
		message_db)
			DATABASE_NAME=$db CREATE_DATABASE=off \
				bash "$npm_dir/node_modules/@eventide/message-db/database/install.sh" \
				>"$logs/message_db.log" 2>&1 || die "message-db's installer failed, see $logs"
			q postgres -c "ALTER DATABASE $db SET search_path = message_store, public"
			;;
		emmett)
			node "$here/emmett_schema.mjs" "$npm_dir" >"$base/scripts/emmett_schema.sql"
			q "$db" -f "$base/scripts/emmett_schema.sql" >/dev/null
			;;
	esac
	PGOPTIONS='-c synchronous_commit=off' q "$db" -f "$f" >"$logs/load_$db.log"
	[ "$c" = raw ] && [ "$db" = bench_raw ] && q "$db" -f "$here/sql/raw_category.sql"
	q "$db" -c 'VACUUM (ANALYZE)'
	got=$(q "$db" -c 'SELECT count(*) FROM bench.positions')
	[ "$got" = "$expected" ] || die "$db holds $got events, not $expected"
	q "$db" -c 'CREATE TABLE bench.loaded AS SELECT now() AS at'
}

load_all() {
	local c
	fetch_peers
	for c in $wanted; do
		[ -f "$here/sql/$c.sql" ] || die "unknown contestant $c"
		if [ "$c" = event_store ] &&
			[ ! -f "$("$PG_CONFIG" --sharedir)/extension/event_store.control" ]; then
			die 'event_store is not installed: make install, or leave it out of BENCH_CONTESTANTS'
		fi
		if [ -n "${not_run[$c]:-}" ]; then
			say "$c is NOT RUN: ${not_run[$c]}"
			continue
		fi
		take_lock
		load "$c" "bench_$c" "$events"
		drop_lock
		contestants="$contestants $c"
	done
}

# ------------------------------------------------------------------- runs

# The event that the clients send: 300 bytes of data, 130 of metadata.
read_event() {
	local db=bench_raw
	event_data=$(q $db -c 'SELECT data::text FROM bench.events(4711, 4711)')
	event_metadata=$(q $db -c 'SELECT metadata::text FROM bench.events(4711, 4711)')
	batch_types=$(q $db -c 'SELECT array_agg(event_type ORDER BY n) FROM bench.events(4000, 4099)')
	batch_datas=$(q $db -c 'SELECT array_agg(data ORDER BY n) FROM bench.events(4000, 4099)')
	batch_metadatas=$(q $db -c 'SELECT array_agg(metadata ORDER BY n) FROM bench.events(4000, 4099)')
}

prewarm() { # database, everything or one table
	q "$1" -c "SELECT count(pg_prewarm(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE relkind IN ('r', 'i', 't') AND nspname NOT IN ('pg_catalog', 'information_schema')
			AND (nspname <> 'bench' OR '$2' = 'category')
			AND (relname LIKE 'events_by_category%' OR '$2' <> 'category' OR current_database() <> 'bench_raw')" >/dev/null
}

script() { # item, contestant -> path of the pgbench script, nothing when there is none
	local src=$here/pgbench/$1.$2.sql dst=$base/scripts/$1.$2.sql i
	[ -f "$src" ] || return 0
	# A line with @i@ is one statement of a batch of 100.
	while IFS= read -r line; do
		if [[ $line == *@i@* ]]; then
			for i in {1..100}; do printf '%s\n' "${line//@i@/$i}"; done
		else
			printf '%s\n' "$line"
		fi
	done <"$src" >"$dst"
	printf '%s' "$dst"
}

# CPU time of the server so far, in clock ticks: the postmaster, the children
# that it has reaped, and those that live.
server_ticks() {
	local pm
	[ -r /proc/self/stat ] || { echo 0; return; }
	pm=$(head -n 1 "$data/postmaster.pid")
	# a process may end between the listing and the reading
	{ cat /proc/[0-9]*/stat 2>/dev/null || true; } | sed 's/(.*)/x/' |
		awk -v pm="$pm" '$1 == pm { t += $14 + $15 + $16 + $17 } $4 == pm { t += $14 + $15 } END { print t + 0 }'
}

# One pgbench run.  Prints, with tabs: events per second, per cent of attempts
# lost, CPU time of the server per event in microseconds.
run_one() { # script, contestant, database, clients, events per transaction, writes?, duration, extra...
	local file=$1 c=$2 db=$3 clients=$4 per=$5 writes=$6 duration=$7
	shift 7
	local threads=$((clients > 1 ? 2 : 1)) log before=0 after=-1 ticks
	log=$logs/pgbench_$db.log
	if [ "$writes" = 1 ]; then
		before=$(q "$db" -c 'SELECT coalesce(max(global_position), 0) FROM bench.positions')
	fi
	ticks=$(server_ticks)
	if ! pgbench -n -M prepared -c "$clients" -j "$threads" -f "$file" "$duration" \
		-D data="$event_data" -D metadata="$event_metadata" "$@" "$db" >"$log" 2>&1 ||
		grep -q aborted "$log"; then
		die "pgbench failed for $c, see $log: $(grep -m1 -i error "$log")"
	fi
	ticks=$(($(server_ticks) - ticks))
	if [ "$writes" = 1 ]; then
		after=$(q "$db" -c "SELECT count(*) FROM bench.positions WHERE global_position > $before")
	fi
	awk -v per="$per" -v done="$after" -v cpu="$((ticks * 1000000 / $(getconf CLK_TCK)))" '
		/^number of transactions actually processed/ { split($NF, a, "/"); n = a[1] }
		/^tps = / { tps = $3 }
		END {
			if (done < 0) done = n * per
			printf "%.1f\t%.1f\t%.2f\n", tps * done / n, 100 - 100 * done / (n * per), \
				(done > 0 ? cpu / done : 0)
		}' "$log"
}

record() { # item, contestant, repetition, value [tab, per cent lost, tab, CPU]
	printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$out"
}

# A work item that is run again replaces its earlier results.
forget() { # items
	local i
	[ -f "$out" ] || return 0
	for i in "$@"; do
		awk -F '\t' -v i="$i" '$1 != i' "$out" >"$out.new"
		mv "$out.new" "$out"
	done
}

checkpoints() { q postgres -c 'SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter' 2>/dev/null ||
	q postgres -c 'SELECT num_timed + num_requested FROM pg_stat_checkpointer'; }

settle() {
	local c
	for c in $contestants; do q "bench_$c" -c 'VACUUM (ANALYZE)'; done
	q postgres -c CHECKPOINT
}

# A contestant that returns nothing would be the fastest.
check_rows() { # script, contestant, rows, variables...
	local file=$1 c=$2 rows=$3 got
	shift 3
	got=$(sed '/^[\\]/d' "$file" | q "bench_$c" "$@" -f - | wc -l)
	[ "$got" = "$rows" ] || die "$c returned $got rows instead of $rows for $file"
}

# item, script, clients, events per transaction, writes?, extra pgbench arguments
item() {
	local name=$1 kind=$2 clients=$3 per=$4 writes=$5 c r file res before
	shift 5
	declare -A files=()
	settle
	for c in $contestants; do
		file=$(script "$kind" "$c")
		[ -n "$file" ] || continue
		files[$c]=$file
		if [ "$writes" = 1 ]; then
			# The first run after a checkpoint logs whole pages: not counted.
			prewarm "bench_$c" "$kind"
			run_one "$file" "$c" "bench_$c" "$clients" "$per" 1 "-T$seconds" -D run="$(date +%s)" "$@" >/dev/null
		fi
	done
	before=$(checkpoints)
	for ((r = 1; r <= repeat; r++)); do
		for c in $contestants; do
			file=${files[$c]:-}
			[ -n "$file" ] || continue
			prewarm "bench_$c" "$kind"
			res=$(run_one "$file" "$c" "bench_$c" "$clients" "$per" "$writes" "-T$seconds" -D run="$(date +%s)" "$@")
			say "$name $r $c $res"
			record "$name" "$c" "$r" "$res"
		done
	done
	[ "$(checkpoints)" = "$before" ] || say "WARNING: a checkpoint ran during $name; repeat it with fewer or shorter runs"
}

size_item() {
	local c n
	for c in $contestants; do
		n=$(q "bench_$c" -c 'SELECT count(*) FROM bench.positions')
		# Without the harness's own tables.  Table = with its TOAST, without indexes.
		q "bench_$c" -c "SELECT sum(pg_total_relation_size(c.oid)), sum(pg_indexes_size(c.oid))
			FROM pg_class c JOIN pg_namespace s ON s.oid = relnamespace
			WHERE relkind IN ('r', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema', 'bench')" |
			{
				IFS='|' read -r total indexes
				record size "$c" 1 "$(awk "BEGIN { printf \"%.1f\", $total / $n }")"
				record size_indexes "$c" 1 "$(awk "BEGIN { printf \"%.1f\", $indexes / $n }")"
			}
	done
}

# WAL bytes per event: 8000 appends by one client right after a CHECKPOINT, and
# 8000 more after 40000 by 16 clients have been through.
wal_run() { # item, contestant, repetition, script
	local lsn
	lsn=$(q postgres -c 'SELECT pg_current_wal_insert_lsn()')
	local before after
	before=$(q "bench_$2" -c 'SELECT coalesce(max(global_position), 0) FROM bench.positions')
	run_one "$4" "$2" "bench_$2" 1 1 0 -t8000 "${ten_thousand[@]}" >/dev/null
	after=$(q postgres -c "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$lsn')")
	before=$(q "bench_$2" -c "SELECT count(*) FROM bench.positions WHERE global_position > $before")
	[ "$before" = 8000 ] || die "$2 wrote $before events instead of 8000"
	record "$1" "$2" "$3" "$(awk "BEGIN { printf \"%.1f\", $after / 8000 }")"
	say "$1 $3 $2 $((after / 8000))"
}

wal_item() {
	local c r file
	settle
	for ((r = 1; r <= (repeat < 2 ? repeat : 2); r++)); do
		for c in $contestants; do
			file=$(script append "$c")
			prewarm "bench_$c" append
			q postgres -c CHECKPOINT
			wal_run wal_first "$c" "$r" "$file"
			run_one "$file" "$c" "bench_$c" 16 1 0 -t2500 "${ten_thousand[@]}" >/dev/null
			wal_run wal_steady "$c" "$r" "$file"
		done
	done
}

# 16 clients, 10 000 streams out of all those of a large store, against the same
# in the small one.
big_item() {
	local c r size db n step res
	local streams=$((events / 50)) big_streams=$((big_events / 50))
	for c in raw event_store; do
		case " $contestants " in *" $c "*) ;; *) continue ;; esac
		take_lock
		load "$c" "big_$c" "$big_events"
		drop_lock
	done
	take_lock
	settle
	for ((r = 0; r <= repeat; r++)); do
		for c in raw event_store; do
			case " $contestants " in *" $c "*) ;; *) continue ;; esac
			for size in bench big; do
				step=1
				n=$streams
				[ $size = big ] && step=$((big_streams / streams))
				db=${size}_$c
				[ $r -le 1 ] && prewarm "$db" append
				res=$(run_one "$(script append "$c")" "$c" "$db" 16 1 1 "-T$seconds" \
					-D lo=1 -D step="$step" -D count="$n")
				# Repetition 0 pays for the whole pages after the checkpoint.
				[ $r -gt 0 ] || continue
				say "big $r $db $res"
				record "big_$size" "$c" "$r" "$res"
			done
		done
	done
	drop_lock
}

# ------------------------------------------------------------------- main

start_server
load_all
case " $contestants " in *' raw '*) ;; *) die 'raw is the yardstick and must be among BENCH_CONTESTANTS' ;; esac
read_event
streams=$((events / 50))
ten_thousand=(-D lo=1 -D step=1 -D count="$streams")
long_streams=(-D lo=$((streams + 1)) -D step=1 -D count=20)
hot_stream=(-D lo=0 -D step=1 -D count=1)
batch=(-D types="$batch_types" -D datas="$batch_datas" -D metadatas="$batch_metadatas")

for w in $work; do
	if [ "$w" = big ]; then
		forget big_bench big_big
		big_item
		continue
	fi
	take_lock
	say "work item $w"
	case $w in
		size) forget size size_indexes ;;
		wal) forget wal_first wal_steady ;;
		*) forget "$w" ;;
	esac
	case $w in
		size) size_item ;;
		first10) item first10 first10 4 10 0 ;;
		sum) item sum sum 4 1000 0 -D maxpos=$((total - 1)) ;;
		count) item count count 1 "$total" 0 ;;
		stream50 | stream1000 | stream1000_index)
			if [ "$w" = stream50 ]; then
				s=17 rows=50 vars=("${ten_thousand[@]}")
			else
				s=$((streams + 7)) rows=$((events / 500)) vars=("${long_streams[@]}")
			fi
			for c in $contestants; do
				f=$(script stream "$c")
				[ -z "$f" ] || check_rows "$f" "$c" "$rows" -v s=$s -v c=$((s % 10))
			done
			# raw's own choice for a long stream is a bitmap scan and a sort
			[ "$w" != stream1000_index ] || export PGOPTIONS='-c enable_bitmapscan=off'
			item "$w" stream 4 "$rows" 0 "${vars[@]}"
			unset PGOPTIONS
			;;
		all | category)
			for c in $contestants; do
				f=$(script "$w" "$c")
				[ -z "$f" ] || check_rows "$f" "$c" 1000 -v p=333 -v c=3
			done
			item "$w" "$w" 4 1000 0 -D maxpos=$((total - 1))
			;;
		append1 | append4 | append16) item "$w" append "${w#append}" 1 1 "${ten_thousand[@]}" ;;
		exact16) item "$w" exact 16 1 1 -D n=0 ;;
		batch) item "$w" batch 4 100 1 "${ten_thousand[@]}" "${batch[@]}" ;;
		hot) item "$w" append 16 1 1 "${hot_stream[@]}" ;;
		wal) wal_item ;;
		*) die "unknown work item $w" ;;
	esac
	drop_lock
done

printf '%s, %s CPUs, %s events loaded, %s repetitions of %s s\n\n' \
	"$(q postgres -c "SELECT 'PostgreSQL ' || current_setting('server_version')")" \
	"$(getconf _NPROCESSORS_ONLN)" "$total" "$repeat" "$seconds"
notes=
for c in "${!not_run[@]}"; do notes="$notes$c=${not_run[$c]};"; done
awk -v wanted="$wanted" -v notes="$notes" -f "$here/report.awk" "$out"
[ -z "${BENCH_PLOTS:-}" ] || bash "$here/plot.sh" "$out" "$BENCH_PLOTS"
finished=1
