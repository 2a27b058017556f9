#!/usr/bin/env bash
#
# upgrade.sh [major ...]
#	  A store goes through pg_upgrade from each major to the next, and by dump
#	  and restore beside it (default: 13 15 17 18; needs root).
#
# The store has everything in it that the extension keeps: streams, tags, a hash
# chain, snapshots, aggregates, upcasters, projections (one of them parks an
# event), subscriptions alone, in a group, with a query, with parked events.
# Another database of the cluster has the extension's version 0.1, of which the
# new server has only the current library and the scripts.
#
# In each step the old server takes appends that nobody consumes any more.  What
# readers, tables and views say then is what they have to say in the new server
# and in the restored dump.  After that nobody calls the new store before its
# workers have come up by themselves and caught up; consumers go on, and at the
# end every event was handled once, in the order of its stream.
#
# A minor release that keeps pg_attver in pg_attribute.attoptions (15.20, 17.12)
# cannot be upgraded to one that does not know it (18.6), whatever the tables;
# with such packages the chains are "13 15 17" and "13 18".
#
# Old and new programs run side by side in the newest major's root (chroot.sh):
# the others are copied there with the libraries that they were linked to.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# --- in each major's root: build, and copy what is needed to run it elsewhere ---

# build_here major pg_config
build_here() {
	local tree=/tmp/share/$1 private program

	# shellcheck source=test/build.sh
	. test/build.sh
	build_make . "$2" with_llvm=no COPT='-Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare'
	build_install . "$2"
	private=$(dirname "$(build_private_pg "$tree" "$2")")
	rm -rf "$tree$("$2" --pkglibdir)"/{llvmjit*,bitcode}

	# all but those of the C library, which have to be as new as the newest program
	mkdir -p "$tree/lib" "$tree/bin"
	# (ldd fails where a program is a script)
	{ find "$private" "$tree$("$2" --pkglibdir)" -type f -exec ldd {} + 2>/dev/null || true; } |
		sed -nE 's/.* => (\/[^ ]+) .*/\1/p' | sort -u |
		grep -vE '/(libc|libm|libpthread|libdl|librt|libresolv|libutil)\.so' |
		xargs -d '\n' cp -Lt "$tree/lib"
	for program in "$private"/*; do
		printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$tree/lib" "$program" >"$tree/bin/${program##*/}"
	done
	chmod 755 "$tree/bin"/*
}

# --- in the newest major's root, as the server's user --------------------------

passed=0
failed=0

# result text status
result() {
	if [ "$2" -eq 0 ]; then
		echo "ok: $1"
		passed=$((passed + 1))
	else
		echo "FAILED: $1"
		failed=$((failed + 1))
	fi
}

# is text got expected
is() {
	if [ "$2" = "$3" ]; then
		result "$1" 0
	else
		diff <(echo "$3") <(echo "$2") | head -n 20 || true
		result "$1" 1
	fi
}

bin() {
	echo "/tmp/share/$1/bin"
}

# sql database [psql's arguments]: from standard input without a -c.
sql() {
	local db=$1

	shift
	"$(bin "$newest")/psql" -XAtq -v ON_ERROR_STOP=1 -d "$db" "$@"
}

# until_is text expected database query: poll.
until_is() {
	local found='' end=$((SECONDS + 180))

	while [ $SECONDS -lt $end ]; do
		found=$(sql "$3" -c "$4" 2>&1) || true
		[ "$found" != "$2" ] || break
	done
	is "$1" "$found" "$2"
}

# server major start|stop [setting]
server() {
	local data=/tmp/run/$1

	if [ "$2" = start ]; then
		"$(bin "$1")/pg_ctl" -D "$data" -l "$data.log" -s -w -t 120 -o "${3:+-c $3}" start ||
			{ tail -n 30 "$data.log"; exit 1; }
	else
		"$(bin "$1")/pg_ctl" -D "$data" -s -w -t 120 -m fast stop
	fi
}

# New clusters of 18 have checksums unless they are told, older ones have not.
make_cluster() {
	local options=()

	[ "$1" -lt 18 ] || options=(--no-data-checksums)
	"$(bin "$1")/initdb" -D "/tmp/run/$1" -U postgres -A trust -E UTF8 --locale=C --no-sync \
		"${options[@]}" >"/tmp/run/$1.initdb" || { cat "/tmp/run/$1.initdb"; exit 1; }
	cat >>"/tmp/run/$1/postgresql.conf" <<-END
		listen_addresses = ''
		unix_socket_directories = '/tmp/run'
		fsync = off
		jit = off
		shared_preload_libraries = 'event_store'
		max_worker_processes = 16
	END
}

# In the database store: what 0.1 had, too.  The handlers write down each call.
fill() {
	sql "$1" <<-'END'
		CREATE TABLE applied (projection text, global_position bigint, stream_id text, version bigint);
		CREATE TABLE handled (consumer text, n bigserial, global_position bigint, stream_id text, version bigint);
		CREATE FUNCTION apply(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO applied VALUES ('each', e.global_position, e.stream_id, e.version) $$;
		CREATE FUNCTION apply_all(e es_event[]) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO applied SELECT 'slices', global_position, stream_id, version FROM unnest(e) $$;
		CREATE FUNCTION add_n(state jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
			$$ SELECT jsonb_build_object('n', coalesce((state->>'n')::bigint, 0) + (e.data->>'n')::bigint) $$;
		CREATE FUNCTION twice(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
			$$ SELECT jsonb_build_object('n', (data->>'n')::bigint * 2) $$;
		CREATE FUNCTION unlucky(e es_event) RETURNS void LANGUAGE plpgsql AS
			$$ BEGIN IF e.version = 7 THEN RAISE 'seven'; END IF; END $$;
		SELECT es_grant('app', 'writer'), es_grant('app', 'reader');
		SELECT es_define_upcaster('Old', 1, 'twice(jsonb)', 'New', 2);
		SELECT es_define_aggregate('Order', 'add_n(jsonb,es_event)', '{}', snapshot_every => 5);
		SELECT es_create_projection('each', 'apply(es_event)');
		SELECT es_create_projection('slices', 'apply_all(es_event[])');
		SELECT es_create_projection('unlucky', 'unlucky(es_event)', categories => '{Unlucky}', max_attempts => 1,
			policy => 'park');
		SELECT es_create_subscription('alone'), es_create_subscription('crew', slots => 8),
			es_create_subscription('stuck', max_retries => 0);
		SELECT count(es_append('Order-' || i % 50, es_any(), 'Kind' || i % 3, jsonb_build_object('n', i)))
			FROM generate_series(1, 2000) i;
		BEGIN;
		SELECT es_append('Order-1', es_any(), 'Undone', '{"n": 1}') FROM generate_series(1, 10);
		ROLLBACK;
		SELECT es_append('Unlucky-1', es_any(), 'Kind0', '{"n": 1}') FROM generate_series(1, 9);
		SELECT es_append('Odd \ name''";--ä-1', 0, 'Old', '{"n": 21, "null": null, "deep": [[{"a": 1e-3}]]}',
			'{"user": "ü"}', '00000000-0000-4000-8000-00000000abcd');
		SELECT es_snapshot('Unlucky-1', 3, '{"mine": true}', 7);
		SELECT (es_state('Order-1')).version;
		SELECT count(*) FROM es_fetch('stuck', 3);
		SELECT es_nack('stuck', (SELECT min(global_position) FROM event_store.events), 'does not fit', false);
	END
}

# What only the current version can.
fill_more() {
	sql store <<-'END'
		SELECT es_append('Tagged-1', es_any(), 'Kind0', '{"n": 1}', tags => ARRAY['a:' || i % 3, 'b']) FROM generate_series(1, 30) i;
		SELECT es_create_subscription('query', query => '{"items": [{"tags": ["a:1", "b"]}]}');
		SELECT es_append_if('[{"event_type": "Kind0", "data": {"n": 1}, "tags": ["a:1"]}]', '{"items": [{"tags": ["a:9"]}]}');
	END
}

# Backlog that nobody of the old server consumes.  The stream Hot takes as many in every step.
more_events() {
	sql "$1" -c "SELECT count(es_append('Order-' || i % 60, es_any(), 'Kind' || i % 4, jsonb_build_object('n', i)))
		FROM generate_series(1, 500) i" -c "SELECT count(es_append('Hot-1', es_any(), 'Kind1', '{\"n\": 1}'))
		FROM generate_series(1, 50)" >/dev/null
}

# What everybody finds who asks the store, in both versions.
answers() {
	sql "$1" <<-'END'
		SELECT 'all', count(*), md5(string_agg(e::text, E'\n' ORDER BY global_position)) FROM es_read_all(NULL, NULL) e;
		SELECT 'category', md5(string_agg(e::text, E'\n')) FROM es_read_category('Order', NULL, NULL) e;
		SELECT 'stream', md5(string_agg(e::text, E'\n')) FROM es_read_stream('Odd \ name''";--ä-1', NULL, NULL, true) e;
		SELECT 'head', es_head(), es_stream_version('Order-1'), es_stream_version('Hot-1'), es_stream_version('None-1');
		SELECT 'event', e::text FROM es_read_event('00000000-0000-4000-8000-00000000abcd') e;
		SELECT 'state', s::text FROM es_state('Order-1') s;
		SELECT 'snapshot', s::text FROM es_read_snapshot('Unlucky-1', 7) s;
		SELECT 'retry', global_position, version, is_duplicate FROM es_append('Odd \ name''";--ä-1', 0, 'Old',
			'{"n": 21, "null": null, "deep": [[{"a": 1e-3}]]}', '{"user": "ü"}', '00000000-0000-4000-8000-00000000abcd');
		SELECT 'projection', name, state, position, events_applied, error_message, events_parked
			FROM event_store.projections ORDER BY name;
		SELECT 'subscription', name, checkpoint FROM event_store.subscriptions ORDER BY name;
		SELECT 'parked', subscription, stream_id, version, reason FROM event_store.parked_events ORDER BY 1, 2, 3, 4;
		SELECT 'granted', has_function_privilege('app', 'es_head()', 'EXECUTE'), has_table_privilege('app', 'event_store.event', 'SELECT');
		SELECT 'applied', projection, count(*) FROM applied GROUP BY 2 ORDER BY 2;
	END
}

# Every row of every table and sequence that a dump carries, and what es_verify says.
rows() {
	answers "$1"
	sql "$1" <<-'END'
		SELECT format('SELECT %L, count(*), md5(string_agg(t::text, E''\n'' ORDER BY t::text COLLATE "C")) FROM %s t', c, source)
		FROM (SELECT unnest(extconfig)::regclass AS c FROM pg_extension WHERE extname = 'event_store') t
		CROSS JOIN LATERAL (SELECT CASE relkind WHEN 'S' THEN format('(SELECT last_value, is_called FROM %s)', c) ELSE c::text END
							FROM pg_class WHERE oid = c) s(source)
		ORDER BY c::text COLLATE "C" \gexec
	END
	unsound "$1"
}

# What es_verify says, which 0.1 has not: no row.
unsound() {
	sql "$1" <<-'END'
		SELECT to_regprocedure('es_verify(text)') IS NOT NULL AS there \gset
		\if :there
		SELECT v::text FROM es_verify() v;
		\endif
	END
}

# consume database subscription member, or '' for none: until it has everything.
consume() {
	local fetched=1 end=$((SECONDS + 180)) member=NULL

	if [ -n "$3" ]; then
		member="'$3'"
		sql "$1" -c "SELECT es_join('$2', $member)" >/dev/null
	fi
	while [ $SECONDS -lt $end ]; do
		fetched=$(sql "$1" <<-END
			BEGIN;
			WITH f AS MATERIALIZED (SELECT * FROM es_fetch('$2', 100, '0 s', $member)),
				 i AS (INSERT INTO handled SELECT '$2', nextval('handled_n_seq'), global_position, stream_id, version FROM f)
			SELECT count(*) AS n, max(global_position) AS last FROM f \gset
			SELECT :n > 0 AS some \gset
			\if :some
			SELECT es_ack('$2', :last, $member) \g /dev/null
			\endif
			COMMIT;
			\echo :n
		END
		)
		[ "$fetched" != 0 ] || [ "$(sql "$1" -c "SELECT lag_events FROM event_store.subscriptions WHERE name = '$2'")" != 0 ] || break
	done
}

# Everybody has handled each event once, in the order of its stream: no row.
wrong() {
	sql "$1" <<-'END'
		SELECT 'applied', projection, e.global_position, a.n FROM event_store.events e
		CROSS JOIN (VALUES ('each'), ('slices')) p(projection)
		LEFT JOIN (SELECT projection, global_position, count(*) AS n FROM applied GROUP BY 1, 2) a USING (projection, global_position)
		WHERE a.n IS DISTINCT FROM 1 LIMIT 5;
		SELECT 'phantom', a.projection, a.global_position FROM applied a
		LEFT JOIN event_store.events e USING (global_position) WHERE e.event_id IS NULL LIMIT 5;
		SELECT 'handled', consumer, e.global_position, h.n FROM event_store.events e
		CROSS JOIN (VALUES ('alone'), ('crew')) p(consumer)
		LEFT JOIN (SELECT consumer, global_position, count(*) AS n FROM handled GROUP BY 1, 2) h USING (consumer, global_position)
		WHERE h.n IS DISTINCT FROM 1 LIMIT 5;
		SELECT 'order', * FROM (SELECT consumer, stream_id, version,
			lag(version) OVER (PARTITION BY consumer, stream_id ORDER BY n) AS before FROM handled) h
		WHERE before >= version LIMIT 5;
		SELECT 'order', stream_id, min(version), max(version), count(*) FROM event_store.events
		WHERE stream_id IS NOT NULL GROUP BY stream_id
		HAVING (min(version), max(version)) <> (1, count(*)) LIMIT 5;
	END
}

# What wrong() is there to find is found.
controls() {
	until_is "$1: store: projections run" 0 store 'SELECT sum(lag_events) FROM event_store.projections'
	consume store alone ''
	consume store crew one
	is 'control: nothing is wrong' "$(wrong store)" ''
	found 'a second time' "INSERT INTO applied VALUES ('each', 1, 'Order-1', 1)"
	found 'not at all' "DELETE FROM applied WHERE projection = 'slices' AND global_position = 1"
	found 'what is not there' "INSERT INTO applied VALUES ('each', -1, 'Order-1', 1)"
	found 'out of order' "UPDATE handled SET n = -n WHERE consumer = 'crew'"
}

# found text statement: wrong() sees what the statement has done, which is undone.
found() {
	local said

	sql store -c 'CREATE TABLE applied_kept AS TABLE applied' -c 'CREATE TABLE handled_kept AS TABLE handled' -c "$2"
	said=$(wrong store)
	sql store -c 'TRUNCATE applied, handled' -c 'INSERT INTO applied TABLE applied_kept' \
		-c 'INSERT INTO handled TABLE handled_kept' -c 'DROP TABLE applied_kept, handled_kept'
	result "control: $1" "$([ -n "$said" ]; echo $?)"
}

# The workers of a database have come up and applied everything; nobody has called a
# function of the store in this server yet.
by_themselves() {
	until_is "$2: $1: the worker runs" t "$1" "SELECT count(*) > 0 FROM pg_stat_activity
		WHERE datname = '$1' AND backend_type LIKE 'event_store worker%'"
	until_is "$2: $1: projections have caught up" 'each|t
slices|t' "$1" "SELECT projection, count(*) = (SELECT count(*) FROM event_store.event) FROM applied GROUP BY 1 ORDER BY 1"
}

# step old new mode: pg_upgrade, and a dump beside it.
step() {
	local old=$1 new=$2 mode=$3 name="$1 -> $2" db before

	declare -A before
	echo "=== $name, pg_upgrade $mode"
	server "$old" stop
	server "$old" start event_store.max_projection_workers=0
	for db in store early; do
		more_events $db
		before[$db]=$(rows $db)
		"$(bin "$new")/pg_dump" -Fc -f "/tmp/run/$db.dump" $db
	done
	server "$old" stop

	make_cluster "$new"
	if ! (cd /tmp/run && "$(bin "$new")/pg_upgrade" -b "$(bin "$old")" -B "$(bin "$new")" -d "/tmp/run/$old" \
		-D "/tmp/run/$new" -U postgres "$mode" >pg_upgrade.log 2>&1); then
		cat /tmp/run/pg_upgrade.log
		find "/tmp/run/$new" -path '*pg_upgrade_output.d*' -name '*.log' -exec tail -n 20 {} +
		tail -n 20 /tmp/run/pg_upgrade_*.log 2>/dev/null || true
		result "$name: pg_upgrade" 1
		exit 1
	fi
	result "$name: pg_upgrade" 0

	server "$new" start event_store.max_projection_workers=0
	is "$name: store: equal after pg_upgrade" "$(rows store)" "${before[store]}"
	is "$name: early: equal after pg_upgrade" "$(rows early)" "${before[early]}"
	is "$name: early has 0.1" "$(sql early -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'")" 0.1
	for db in store early; do
		sql postgres -c 'SET client_min_messages = error' -c "DROP DATABASE IF EXISTS restored_$db" \
			-c "CREATE DATABASE restored_$db"
		# a dump does not say which version it has
		[ $db = store ] || sql restored_$db -c "CREATE EXTENSION event_store VERSION '0.1'"
		"$(bin "$new")/pg_restore" --exit-on-error -d restored_$db "/tmp/run/$db.dump"
	done
	is "$name: store: equal after dump and restore" "$(rows restored_store)" "${before[store]}"
	is "$name: early: equal after dump and restore" "$(rows restored_early)" "${before[early]}"
	sql store -c 'CREATE EXTENSION amcheck' -c "SELECT bt_index_check(i.indexrelid, heapallindexed => true)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam AND amname = 'btree'
		WHERE c.relnamespace = 'event_store'::regnamespace" -c 'DROP EXTENSION amcheck' >/dev/null
	result "$name: store: every index has its rows" $?
	server "$new" stop

	server "$new" start
	for db in store early restored_store restored_early; do
		by_themselves $db "$name"
	done
	for db in store early restored_store restored_early; do
		more_events $db
		consume $db alone ''
		consume $db crew one
		until_is "$name: $db: projections go on" 0 $db 'SELECT sum(lag_events) FROM event_store.projections'
		is "$name: $db: everything handled once, in order" "$(wrong $db)" ''
		is "$name: $db: nothing is wrong with the events" "$(unsound $db)" ''
	done
}

chain() {
	local old='' new db mode

	newest=${*: -1}
	export PGHOST=/tmp/run PGUSER=postgres
	mkdir -p /tmp/run
	cd /tmp/run
	make_cluster "$1"
	server "$1" start
	sql postgres -c 'CREATE ROLE app' -c 'CREATE DATABASE store' -c 'CREATE DATABASE early'
	sql store -c 'CREATE EXTENSION event_store' -c 'ALTER DATABASE store SET event_store.hash_chain = on'
	sql early -c "CREATE EXTENSION event_store VERSION '0.1'"
	for db in store early; do
		fill $db >/dev/null
		until_is "$1: $db: projections run" 0 $db 'SELECT sum(lag_events) FROM event_store.projections'
		consume $db alone ''
		consume $db crew one
		is "$1: $db: everything handled once, in order" "$(wrong $db)" ''
		is "$1: $db: an event is parked" "$(sql $db -c 'SELECT count(*) FROM event_store.projection_parked')" 3
	done
	fill_more >/dev/null
	controls "$1"

	# copied once, then the same files
	mode=--jobs=2
	for new; do
		[ -z "$old" ] || step "$old" "$new" "$mode"
		[ -z "$old" ] || mode=--link
		old=$new
	done

	echo "=== 0.1 becomes the current version, after all"
	sql early -c 'ALTER EXTENSION event_store UPDATE'
	more_events early
	consume early alone ''
	consume early crew one
	until_is 'early: projections go on' 0 early 'SELECT sum(lag_events) FROM event_store.projections'
	is 'early: everything handled once, in order' "$(wrong early)" ''
	is 'early: nothing is wrong with the events' "$(unsound early)" ''
	is 'nothing in the logs of a crash' "$(grep -hE 'PANIC|terminated by signal|XX000' /tmp/run/*.log || true)" ''
	server "$newest" stop
	echo "$passed passed, $failed failed"
	[ $failed -eq 0 ]
}

# --- main ---------------------------------------------------------------------

case ${1:-} in
	--build)
		build_here "$2" "$3"
		exit
		;;
	--chain)
		shift
		if [ "$(id -u)" -eq 0 ]; then
			exec setpriv --reuid=postgres --regid=postgres --init-groups bash test/upgrade.sh --chain "$@"
		fi
		chain "$@"
		exit
		;;
esac

[ "$(id -u)" -eq 0 ] || { echo "$0: must be run as root" >&2; exit 1; }
[ $# -gt 0 ] || set -- 13 15 17 18
# shellcheck source=test/chroot.sh
. test/chroot.sh
share=$(mktemp -d)
trap 'rm -rf --one-file-system "$share"' EXIT
chmod 755 "$share"
for major; do
	echo "=== PostgreSQL $major: build"
	chroot_overlay "$(chroot_root "$major")" bash test/upgrade.sh --build "$major" "$(chroot_pg_config "$major")"
done
chroot_overlay "$(chroot_root "${*: -1}")" bash test/upgrade.sh --chain "$@"
