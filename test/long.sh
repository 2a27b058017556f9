#!/usr/bin/env bash
#
# long.sh GOAL
#	  What takes longer than a check may, or needs a build of its own.
#
#	check-malformed		a million calls that nobody should make
#	check-fuzz			libFuzzer in a backend: what calls make of their arguments
#	check-sanitizers	the whole check, with AddressSanitizer and UBSan in it
#	check-sqlsmith		random queries by roles of each kind
#	soak				a mixed load for an hour, with kills (SOAK_MINUTES)
#	coverage			the whole check, and which lines and errors it reached
#
# Everything that is installed goes into a copy of PostgreSQL, not into the
# machine's own.
#
# Environment: PG_CONFIG; ES_SEED and what test/README.md lists; for
# check-sanitizers and coverage also what check.sh lists.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
goal=${1:-}

# shellcheck source=test/cluster.sh
. "$here/cluster.sh"
# shellcheck source=test/build.sh
. "$here/build.sh"
# shellcheck source=test/tap.sh
. "$here/tap.sh"

machine_pg=$("$here/setup.sh" long)
cluster_make_dir
work=$cluster_dir/work
mkdir -p "$work/tap/tmp"
pg_config=$(build_private_pg "$cluster_dir/pg" "$machine_pg")
reports=$work/reports

# Let every server of the copy run with libraries preloaded and options set:
# what the tests start is started in many ways.
wrap_server() {
	local server

	server=$("$pg_config" --bindir)/postgres
	mv "$server" "$server.real"
	# under the wrapper's name, by which pg_ctl starts it again
	{
		echo '#!/bin/bash'
		printf 'export %s\n' "${@:2}"
		echo "LD_PRELOAD=$1\${LD_PRELOAD:+:\$LD_PRELOAD} exec -a '$server' '$server.real' \"\$@\""
	} >"$server"
	chmod 755 "$server"
}

build() {
	build_copy "$work/normal"
	build_make "$work/normal" "$pg_config" with_llvm=no
	build_install "$work/normal" "$pg_config" >/dev/null
	if [ -n "$cluster_user" ]; then
		chown -R "$cluster_user:" "$work"
	fi
}

# --- goals ------------------------------------------------------------------

# run_tap VARIABLE=VALUE... file: one of test/t.
run_tap() {
	cd "$work/normal"
	tap_perl TAP "${@:1:$#-1}"
	"${tap_run[@]}" "${@: -1}"
	[ "$(head -n 1 "$work/tap/TAP" | cut -d' ' -f2)" = 0 ]
}

check_malformed() {
	build
	build_make "$work/normal/contrib/message_db" "$pg_config" with_llvm=no
	build_install "$work/normal/contrib/message_db" "$pg_config" >/dev/null
	run_tap ES_MALFORMED_CALLS="${ES_MALFORMED_CALLS:-1000000}" test/t/022_malformed.pl
}

# libFuzzer in a backend (fuzz.c), for so long; before that two faults that are
# planted have to be found, one of them behind a few conditions.
check_fuzz() {
	local planted log=$cluster_dir/server.log seed=${ES_SEED:-$RANDOM} library=$work/fuzz.so
	local options="-rss_limit_mb=0 -timeout=0 -max_len=400 -print_final_stats=1 -artifact_prefix=$work/tap/"

	clang -O1 -g -Wall -Wno-ignored-attributes -fPIC -shared -I"$("$pg_config" --includedir-server)" \
		-o "$library" "$here/fuzz.c" -Wl,--whole-archive \
		"$(clang -print-file-name=libclang_rt.fuzzer_no_main-"$(uname -m)".a)" -Wl,--no-whole-archive -lstdc++ -lm -lpthread
	build_copy "$work/normal"
	build_make "$work/normal" "$pg_config" CC=clang COPT='-Wno-error -fsanitize=fuzzer-no-link' with_llvm=no
	build_install "$work/normal" "$pg_config" >/dev/null
	[ -z "$cluster_user" ] || chown -R "$cluster_user:" "$work"
	cluster_start "$pg_config" 'fsync = off' "shared_preload_libraries = '$library'" 'log_min_messages = fatal' \
		'autovacuum_naptime = 5s'
	PATH=$cluster_bin:$PATH
	psql -X -q -v ON_ERROR_STOP=1 -v library="$library" >/dev/null <<-'END'
		CREATE EXTENSION event_store;
		CREATE PROCEDURE es_fuzz(options text) LANGUAGE c AS :'library', 'es_fuzz';
		CREATE FUNCTION up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data $$;
		SELECT es_define_upcaster('B', 1, 'up(jsonb)', 'A', 1);
		SELECT es_append('Fuzz-' || i % 2 + 1, es_any(), CASE i % 3 WHEN 0 THEN 'A' ELSE 'B' END, '{"data": 1}', '{}',
			('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, 1, ARRAY['red']) FROM generate_series(1, 20) i;
	END
	for planted in 'is already used for something else' 'With es_any() and without events there is nothing to check'; do
		echo "=== planted: $planted"
		: >"$log"
		psql -X -q -c "SET es_fuzz.planted = '$planted'" -c "CALL es_fuzz('$options -seed=$seed -max_total_time=600')" >/dev/null 2>&1 || true
		if ! grep -q "fault: $planted" "$log"; then
			tail -n 5 "$log"
			echo "it has not been found"
			return 1
		fi
		grep -E '^stat::number_of_executed_units|^#[0-9]+.*(NEW|REDUCE|pulse)' "$log" | tail -n 1
		timeout 60 bash -c "until psql -X -Atc 'SELECT 1' >/dev/null 2>&1; do :; done"
	done
	echo "=== fuzzing, seed $seed"
	: >"$log"
	psql -X -q -c "CALL es_fuzz('$options -seed=$seed -max_total_time=${FUZZ_SECONDS:-1800}')" >/dev/null 2>&1 || true
	grep -E '^(#[0-9]+.*DONE|stat::|Done )' "$log" || true
	if ! grep -q '^Done ' "$log" || grep -aE '^fault: |ERROR: libFuzzer|PANIC:|terminated by signal' "$log"; then
		tail -n 40 "$log"
		return 1
	fi
	if [ -n "$(psql -X -Atc 'SELECT * FROM es_verify()')" ]; then
		echo "es_verify finds something"
		return 1
	fi
}

# The mixed load of 045_soak.pl for an hour, and the histories of a million
# operations.  Report and picture are left in the folder soak, also when
# something has failed.
soak() {
	local out=${SOAK_FOLDER:-$PWD/soak} status=0

	build
	cluster_run mkdir "$work/soak"
	run_tap SOAK_MINUTES="${SOAK_MINUTES:-60}" SOAK_FOLDER="$work/soak" test/t/045_soak.pl || status=1
	mkdir -p "$out"
	if [ -s "$work/soak/report.txt" ]; then
		SOAK_SERVER=$("$pg_config" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/') bash "$here/soak_plot.sh" "$work/soak"
		cp "$work"/soak/{report.txt,soak.svg,*.tsv} "$out"
		cat "$out/report.txt"
		echo "report and picture are in $out"
	fi
	run_tap ES_LIST_OPERATIONS="${ES_LIST_OPERATIONS:-1000000}" test/t/026_list_append.pl || status=1
	return $status
}

# What sanitizers have written, each fault once.
show_reports() {
	local found

	found=$(cat "$reports"/* 2>/dev/null | grep -E 'runtime error:|ERROR: AddressSanitizer|SUMMARY:' |
		sed -E 's/^==[0-9]+==//; s/0x[0-9a-f]+/0x…/g' | sort | uniq -c | sort -rn)
	if [ -n "$found" ]; then
		echo "$found"
		find "$reports" -type f -size +0 | head -n 3 | xargs -d '\n' head -n 60
		return 1
	fi
	echo "sanitizers: no report"
}

check_sanitizers() {
	local asan ubsan status=0
	local options="detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1"

	# bindtextdomain() never returns beside libasan where gnutls is loaded, too
	printf '%s\n' 'char *bindtextdomain(const char *d, const char *n) { return (char *) n; }' \
		'char *textdomain(const char *d) { return (char *) d; }' >"$work/gettext.c"
	gcc -shared -fPIC -o "$work/gettext.so" "$work/gettext.c"
	asan=$(gcc -print-file-name=libasan.so)
	ubsan=$(gcc -print-file-name=libubsan.so)
	mkdir -p "$reports"
	chmod 1777 "$reports"
	wrap_server "$asan:$ubsan:$work/gettext.so" "ASAN_OPTIONS=$options:log_path=$reports/asan" \
		"UBSAN_OPTIONS=print_stacktrace=1:log_path=$reports/ubsan"
	PG_CONFIG=$pg_config CHECK_MINUTES=${CHECK_MINUTES:-240} ES_SANITIZER=1 \
		ASAN_OPTIONS="$options:log_path=$reports/asan" UBSAN_OPTIONS="log_path=$reports/ubsan" \
		ES_TEST_LIMIT="${ES_TEST_LIMIT:-600}" PGISOLATIONTIMEOUT=600 \
		CHECK_CFLAGS='-Wno-error -O1 -g -U_FORTIFY_SOURCE -fno-omit-frame-pointer -fsanitize=address,undefined' \
		bash "$here/check.sh" || status=$?
	show_reports || status=1
	return $status
}

# Random queries by a role of each kind, on a store with something in it.
# Queries that PostgreSQL's own functions answer with XX000 are PostgreSQL's;
# what our code raises stands in the log with our function's name.
check_sqlsmith() {
	local kind status=0 queries=${ES_SQLSMITH_QUERIES:-20000} seed=${ES_SEED:-$RANDOM} log before

	build
	cluster_start "$pg_config" 'fsync = off' 'log_error_verbosity = verbose' \
		'log_min_messages = warning' "log_line_prefix = '%u '" 'max_stack_depth = 2MB'
	PATH=$cluster_bin:$PATH
	log=$cluster_dir/server.log
	psql -X -q -v ON_ERROR_STOP=1 >/dev/null <<-'END'
		CREATE EXTENSION event_store;
		SET event_store.hash_chain = on;
		SELECT es_append('Order-' || i % 20, es_any(), 'T' || i % 3, jsonb_build_object('n', i),
			tags => ARRAY['a' || i % 4]) FROM generate_series(1, 400) i;
		CREATE TABLE model (n bigint);
		CREATE FUNCTION up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"up": 1}' $$;
		CREATE FUNCTION fold(state jsonb, e es_event) RETURNS jsonb LANGUAGE sql AS $$ SELECT state $$;
		CREATE FUNCTION apply(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO model VALUES ((e).global_position) $$;
		SELECT es_define_upcaster('T1', 1, 'up(jsonb)');
		SELECT es_define_aggregate('Order', 'fold(jsonb, es_event)');
		SELECT es_create_subscription('alone'), es_create_subscription('group', slots => 4);
		SELECT es_create_projection('counted', 'apply(es_event)');
		CREATE ROLE smith_nobody LOGIN;
		CREATE ROLE smith_reader LOGIN;
		CREATE ROLE smith_writer LOGIN;
		CREATE ROLE smith_monitor LOGIN;
		CREATE ROLE smith_admin LOGIN;
		SELECT es_grant('smith_' || kind, kind) FROM unnest('{reader,writer,monitor,admin}'::text[]) kind;
	END
	before=$(psql -X -Atc 'SELECT sum(hashtextextended(e::text, 0)) FROM event_store.event e WHERE global_position <= 400')
	for kind in nobody reader writer monitor admin; do
		echo "=== sqlsmith as $kind: $queries queries, seed $seed"
		PGOPTIONS="-c statement_timeout=500ms -c lock_timeout=200ms" \
			sqlsmith --target="host=$PGHOST port=$PGPORT dbname=postgres user=smith_$kind" \
			--max-queries="$queries" --seed="$seed" 2>&1 | tail -n 3 || true
		# a server that has crashed recovers; the next role needs it
		if ! psql -X -Atc 'SELECT 1' >/dev/null; then
			status=1
			timeout 60 bash -c "until psql -X -Atc 'SELECT 1' >/dev/null 2>&1; do :; done" || true
		fi
	done
	echo "=== what the log says"
	grep -c 'ERROR:  ' "$log" || true
	sed -nE 's/.*ERROR:  ([0-9A-Z]{5}): .*/\1/p' "$log" | sort | uniq -c | sort -rn | head -n 30
	if grep -aE 'PANIC:|terminated by signal|leak: ' "$log"; then
		status=1
	fi
	# an internal error and where it comes from
	if grep -aA 6 'ERROR:  XX000' "$log" | grep -aE 'LOCATION:  (es_|message_db_)'; then
		grep -aA 8 'ERROR:  XX000' "$log" | grep -aB 8 -A 4 -E 'LOCATION:  (es_|message_db_)' | head -n 60
		status=1
	fi
	if [ "$before" != "$(psql -X -Atc 'SELECT sum(hashtextextended(e::text, 0)) FROM event_store.event e WHERE global_position <= 400')" ] ||
		[ -n "$(psql -X -Atc 'SELECT * FROM es_verify()')" ]; then
		echo "events are not what they were"
		status=1
	fi
	[ $status -eq 0 ] && echo "no crash, no internal error of ours, every event as it was"
	return $status
}

coverage() {
	PG_CONFIG=$pg_config CHECK_MINUTES=${CHECK_MINUTES:-240} \
		CHECK_CFLAGS='-Wno-error -O0 -U_FORTIFY_SOURCE --coverage -fprofile-update=atomic' \
		CHECK_AFTER="perl $here/coverage.pl" bash "$here/check.sh"
}

case $goal in
	check-malformed) check_malformed ;;
	check-fuzz) check_fuzz ;;
	check-sanitizers) check_sanitizers ;;
	check-sqlsmith) check_sqlsmith ;;
	soak) soak ;;
	coverage) coverage ;;
	*)
		echo "usage: $0 check-malformed|check-fuzz|check-sanitizers|check-sqlsmith|soak|coverage" >&2
		exit 2
		;;
esac
