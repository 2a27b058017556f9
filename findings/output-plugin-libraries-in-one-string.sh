#!/usr/bin/env bash
#
# output-plugin-libraries-in-one-string.sh
#	  ALTER SYSTEM SET output_plugin_libraries = 'pgoutput, wal2json', which is
#	  accepted without a word, stops built-in logical replication: it names one
#	  library, called "pgoutput, wal2json".
#
# The setting came with the minor releases of 2026 (15.19 and its siblings).
# Whoever only wanted to add wal2json finds that pgoutput, which is allowed by
# default, is refused with it, in slots that exist already, too; they go on to
# hold WAL back.  As a list, without quotes, it does what one means.
#
# Seen with PostgreSQL 15.20 (Debian) and compared below; exits 1 when it has
# changed.  Needs PostgreSQL (pg_config on the PATH, 15.19 or newer in 15); as
# root the server runs as user postgres.

set -euo pipefail

folder=$(mktemp -d)
bin=$(pg_config --bindir)
as_server=()
[ "$(id -u)" -ne 0 ] || { chown postgres "$folder"; as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups); }
trap '"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -s -m immediate stop || true; rm -rf "$folder"' EXIT
cd "$folder"

"${as_server[@]}" "$bin/initdb" -D "$folder/data" -U postgres -A trust >/dev/null
"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -s -w -l "$folder/data/log" \
	-o "-c listen_addresses='' -c unix_socket_directories='$folder' -c wal_level=logical" start

psql() { "$bin/psql" -X -q -At -h "$folder" -U postgres -d postgres "$@" 2>&1; }

# the change of a table, as built-in replication would get it
changes() {
	psql -c "SELECT count(*) > 0 FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL,
		'proto_version', '1', 'publication_names', 'p')" | head -n 1
}

{
	psql -c 'CREATE TABLE t (a int)' -c 'CREATE PUBLICATION p FOR TABLE t' \
		-c "SELECT 'slot' FROM pg_create_logical_replication_slot('s', 'pgoutput')"
	psql -c 'INSERT INTO t VALUES (1)'
	echo "by default: $(changes)"
	psql -c "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput, wal2json'" -c 'SELECT pg_reload_conf()'
	until psql -c 'SHOW output_plugin_libraries' | grep -q wal2json; do :; done
	echo "in one string: $(psql -c 'SHOW output_plugin_libraries') $(changes)"
	psql -c 'ALTER SYSTEM SET output_plugin_libraries = pgoutput, wal2json' -c 'SELECT pg_reload_conf()'
	until psql -c 'SHOW output_plugin_libraries' | grep -qx 'pgoutput, wal2json'; do :; done
	echo "as a list: $(psql -c 'SHOW output_plugin_libraries') $(changes)"
} | tee seen

diff - seen <<'END'
slot
by default: t
t
in one string: "pgoutput, wal2json" ERROR:  library "pgoutput" may not be used as an output plugin
t
as a list: pgoutput, wal2json t
END
echo "as seen with PostgreSQL 15.20; this is $(psql -c 'SHOW server_version')"
