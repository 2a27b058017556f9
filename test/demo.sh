#!/usr/bin/env bash
#
# demo.sh
#	  What the event store does, on real events, in about two screens.
#
# Installs what is missing, builds and installs the extension, starts a
# throw-away cluster, and shows each thing with the SQL that does it.  Nothing
# is left running.  A step that does not show what it should ends the demo with
# an error.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/cluster.sh"
# shellcheck source=test/build.sh
. "$here/build.sh"

issue=Issue-444500041			# the stream with the longest story in the examples
consumer=

heading() {
	printf '\n\033[1m== %s\033[0m\n\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi
}

# Run the SQL of standard input and show both; then each argument must be found
# in what was shown.
show() {
	local shown=$cluster_dir/shown wanted

	psql -X -q -e -v issue="$issue" -P footer=off 2>&1 | tee "$shown"
	for wanted in "$@"; do
		if ! grep -qE -e "$wanted" "$shown"; then
			echo "demo: this should have shown: $wanted" >&2
			return 1
		fi
	done
	# psql goes on after an error; none is right unless it was asked for
	if grep -q '^ERROR' "$shown" && [[ "$*" != *ERROR* ]]; then
		echo "demo: an error that should not be" >&2
		return 1
	fi
}

show_reading() {
	heading "A stream: what happened to one issue, in the order of its versions"
	show ' 20 \| Issues' <<-'EOF'
		SELECT version, event_type, data->'issue'->>'title' AS issue, data->'sender'->>'login' AS by
		FROM es_read_stream(:'issue', from_version => 20, max_count => 5);
	EOF

	heading "Everything, in one global order, page by page"
	show ' *4 \|' ' *5 \|' <<-'EOF'
		SELECT global_position, stream_id, version, event_type FROM es_read_all(0, 4);
		SELECT global_position, stream_id, version, event_type FROM es_read_all(after_position => 4, max_count => 4);
	EOF

	heading "One category: the newest events of all pull requests"
	show 'PullRequest-' <<-'EOF'
		SELECT global_position, stream_id, version, event_type
		FROM es_read_category('PullRequest', max_count => 4, backward => true);
	EOF

	heading "Certain event types only, wherever they happened"
	show 'ReleasePublished' 'StarCreated' <<-'EOF'
		SELECT global_position, stream_id, event_type, data->'repository'->>'full_name' AS repository
		FROM es_read_all(max_count => 6, event_types => '{StarCreated,ReleasePublished}');
	EOF
}

show_version_conflict() {
	heading "Two writers: the one that has seen an old version is refused"
	show 'ERROR:  .*expected version' 'DETAIL:  .*stream=.*expected=3 actual=' 'HINT:' 'SQLSTATE VE001' <<-'EOF'
		SELECT es_stream_version(:'issue');
		SELECT * FROM es_append(:'issue', 3, 'IssuesClosed', '{"reason": "stale"}');
		\echo SQLSTATE :LAST_ERROR_SQLSTATE
	EOF
}

show_retry() {
	heading "The answer got lost? Send it again: same event id, same answer, nothing written"
	show ' \| f$' ' \| t$' <<-'EOF'
		SELECT * FROM es_append('Order-1', 0, 'OrderPlaced', '{"total": 42}',
		    event_id => '5f0c2a4e-8f1d-4c6e-9a57-3d1b2c7e9f10');
		SELECT * FROM es_append('Order-1', 0, 'OrderPlaced', '{"total": 42}',
		    event_id => '5f0c2a4e-8f1d-4c6e-9a57-3d1b2c7e9f10');
	EOF
	# both answers must be the same but for is_duplicate
	if [ "$(grep -oE '^ 5f0c2a4e-[^|]*\|[^|]*\|[^|]*\|' "$cluster_dir/shown" | sort -u | wc -l)" -ne 1 ]; then
		echo "demo: the retry was answered differently" >&2
		return 1
	fi
}

show_immutability() {
	heading "What has happened, has happened"
	show 'ERROR:  ' 'SQLSTATE VE003' <<-'EOF'
		DELETE FROM event_store.event;
		\echo SQLSTATE :LAST_ERROR_SQLSTATE
	EOF
}

show_snapshot() {
	heading "A snapshot: load the state at a version and only the events after it"
	show ' *20 \| .*open.* \| ' <<-'EOF'
		SELECT es_snapshot(:'issue', 20, '{"state": "open", "labels": 2}');
		SELECT version, snapshot_version, snapshot, cardinality(events) AS events_after_it
		FROM es_load(:'issue');
	EOF
}

# A consumer that sleeps in the server until something is appended.
show_subscription() {
	local head

	heading "A subscription: a consumer is woken by an append, without polling"
	head=$(psql -X -q -At -c 'SELECT es_head()')
	mkfifo "$cluster_dir/to_consumer"
	psql -X -q -e -P footer=off -v head="$head" <"$cluster_dir/to_consumer" >"$cluster_dir/consumer" 2>&1 &
	consumer=$!
	exec 9>"$cluster_dir/to_consumer"
	cat >&9 <<-'EOF'
		SET application_name = 'consumer';
		LISTEN event_store;
		SELECT es_wait(:head, timeout => '20 s') > :head AS woken;
		SELECT global_position, stream_id, event_type FROM es_read_all(:head);
		\set ECHO none
	EOF
	# not before the consumer waits
	until_consumer waits
	show <<-'EOF'
		SELECT version, global_position FROM es_append('Order-1', es_exists(), 'OrderPaid', '{"by": "card"}');
	EOF
	until_consumer has_notification
	exec 9>&-
	wait "$consumer"
	consumer=
	echo "Meanwhile, the consumer:"
	show_file "$cluster_dir/consumer" '^ t$' 'Order-1' 'Asynchronous notification "event_store"'
}

waits() {
	[ "$(psql -X -q -At -c "SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'consumer' AND state = 'active' AND query LIKE '%es_wait%'")" = 1 ]
}

# psql shows a notification only when it has run something.
has_notification() {
	echo 'SELECT 1 \g /dev/null' >&9
	grep -q '^Asynchronous' "$cluster_dir/consumer"
}

# Until the consumer does that: as long as it lives, and for at most 20 seconds.
until_consumer() {
	local end=$((SECONDS + 20))

	until "$1"; do
		if ! kill -0 "$consumer" 2>/dev/null || [ $SECONDS -ge $end ]; then
			cat "$cluster_dir/consumer"
			echo "demo: the consumer never $1" >&2
			return 1
		fi
	done
}

show_file() {
	local file=$1 wanted

	shift
	cat "$file"
	for wanted in "$@"; do
		if ! grep -qE -e "$wanted" "$file"; then
			echo "demo: this should have shown: $wanted" >&2
			return 1
		fi
	done
}

# A read model that the server keeps up to date by itself.
show_projection() {
	heading "A projection: the server keeps a read model up to date"
	show 'CREATE FUNCTION project_order' '^ t$' 'Order-2 .*placed.* 10' 'Order-1 .*paid.* 42' <<-'EOF'
		CREATE TABLE order_list (order_id text PRIMARY KEY, state text NOT NULL, total numeric);
		CREATE FUNCTION project_order(event es_event) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
		    IF event.event_type = 'OrderPlaced' THEN
		        INSERT INTO order_list VALUES (event.stream_id, 'placed', (event.data->>'total')::numeric)
		        ON CONFLICT (order_id) DO NOTHING;
		    ELSIF event.event_type = 'OrderPaid' THEN
		        UPDATE order_list SET state = 'paid' WHERE order_id = event.stream_id;
		    END IF;
		END $$;
		SELECT es_create_projection('order_list', 'project_order(es_event)', categories => '{Order}');
		SELECT version, global_position FROM es_append('Order-2', 0, 'OrderPlaced', '{"total": 10}');
		SELECT es_wait_projection('order_list', es_head());
		SELECT * FROM order_list ORDER BY order_id;
	EOF
}

cluster_before_stop() {
	if [ -n "$consumer" ]; then
		kill "$consumer" 2>/dev/null || true
	fi
}

pg_config=$("$here/setup.sh" demo)
cluster_make_dir

heading "Building and installing for $("$pg_config" --version)"
build_changed "$pg_config"
started=$SECONDS

cluster_start "$pg_config"
PATH=$cluster_bin:$PATH
psql -X -q -c 'CREATE EXTENSION event_store'

heading "Loading GitHub's webhook examples through Perl's DBI"
perl "$here/load_webhooks.pl" "dbname=$PGDATABASE"

show_reading
show_version_conflict
show_retry
show_immutability
show_snapshot
show_subscription
show_projection

heading "That was the event store, in $((SECONDS - started)) s; the throw-away cluster goes now"
echo "Play with it yourself: make play. Read on: README.md, doc/. Install it in your server: make && sudo make install"
