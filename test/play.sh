#!/usr/bin/env bash
#
# play.sh [stop]
#	  A server with the demo's data to play with, until it is stopped.
#
# Installs what is missing, builds what has changed, installs the extension,
# starts a cluster of its own with GitHub's webhooks and the examples' orders in
# database "play", and prints how to connect.  Called again it prints just that.
# With "stop" it stops the server and removes it with all its data.
#
# The server listens on 127.0.0.1 and asks for a password that was made for it:
# on a machine with other users nobody else gets in.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/cluster.sh"
# shellcheck source=test/build.sh
. "$here/build.sh"

# where the cluster of this tree is
state=$here/../build/play

# A port of 127.0.0.1 where nobody listens, below those given to whoever connects.
free_port() {
	local port

	for port in $(shuf -i 15432-25432 -n 100); do
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
	return 1
}

running() {
	[ -f "$state" ] && cluster_dir=$(cat "$state") && cluster_running "$cluster_dir/data" >/dev/null
}

how_to_connect() {
	local url password port

	url=$(cat "$cluster_dir/url")
	password=${url#*:*:}
	password=${password%%@*}
	port=${url##*:}
	port=${port%%/*}
	cat <<-END

		The server is up:

		    psql '$url'

		or, in each shell from which you want to connect, with psql and every driver,

		    export PGHOST=127.0.0.1 PGPORT=$port PGUSER=play PGPASSWORD=$password PGDATABASE=play

		with the events of GitHub's webhooks (329), an order service (examples/orders.sql), its read model
		and a consumer group. Some things to try:

		    SELECT * FROM event_store.categories;
		    SELECT * FROM event_store.consumers;
		    SELECT version, event_type, data FROM es_read_stream('Order-1');
		    SELECT * FROM es_append('Order-1', es_any(), 'ItemAdded', '{"price": 5}');
		    SELECT * FROM es_state('Order-1');
		    SELECT * FROM shop.order_summary;
		    SELECT * FROM es_fetch('shipping', 10, member => 'me');
		    \\df es_read*

		Read on in doc/quick-start.md (psql, Node.js, Python), README.md and doc/. To stop the server and remove
		it with its data: make stop
	END
}

stop() {
	if [ ! -f "$state" ]; then
		echo "play: no server of this tree is up"
		return
	fi
	cluster_dir=$(cat "$state")
	cluster_find_user
	if [ -n "$cluster_user" ]; then
		cluster_drop=(setpriv --reuid="$cluster_user" --regid="$(id -g "$cluster_user")" --clear-groups)
	fi
	cluster_bin=$(cat "$cluster_dir/bin" 2>/dev/null || true)
	cluster_stop
	rm -f "$state"
	echo "play: stopped and removed"
}

start() {
	local pg_config port password url

	pg_config=$("$here/setup.sh" demo)
	build_changed "$pg_config"
	cluster_make_dir
	port=$(free_port)
	password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
	cluster_start "$pg_config" 'shared_preload_libraries = event_store' "listen_addresses = '127.0.0.1'" "port = $port" 'password_encryption = scram-sha-256'
	export PGPORT=$port
	PATH=$cluster_bin:$PATH
	psql -X -q -v ON_ERROR_STOP=1 -c "CREATE ROLE play SUPERUSER LOGIN PASSWORD '$password'" \
		-c 'CREATE DATABASE play OWNER play'
	# from now on by password, for the server's own user as well
	cluster_run sed -i 's/trust$/scram-sha-256/' "$cluster_dir/data/pg_hba.conf"
	psql -X -q -At -c 'SELECT pg_reload_conf()' >/dev/null
	export PGUSER=play PGPASSWORD=$password PGDATABASE=play
	psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION event_store'
	perl "$here/load_webhooks.pl" --quiet "dbname=play"
	psql -X -q -v ON_ERROR_STOP=1 -o /dev/null -f "$here/../examples/orders.sql"
	psql -X -q -v ON_ERROR_STOP=1 -o /dev/null <<-'EOF'
		SELECT es_append('Order-' || n, 0, 'OrderPlaced', '{"total": 0, "currency": "EUR"}', schema_version => 2)
		  FROM generate_series(1, 5) AS n;
		SELECT es_append('Order-' || n, es_any(), 'ItemAdded', jsonb_build_object('price', n * k))
		  FROM generate_series(1, 5) AS n, generate_series(1, n) AS k;
		SELECT es_append('Order-3', es_any(), 'OrderShipped', '{}');
		SELECT es_wait_projection('order_summary', es_head());
	EOF
	url=postgresql://play:$password@127.0.0.1:$port/play
	(umask 077 && echo "$url" >"$cluster_dir/url")
	dirname "$("$pg_config" --bindir)/x" >"$cluster_dir/bin"
	mkdir -p "$(dirname "$state")"
	echo "$cluster_dir" >"$state"
	# it outlives us
	trap - EXIT
}

if [ "${1:-}" = stop ]; then
	stop
elif running; then
	how_to_connect
else
	start
	how_to_connect
fi
