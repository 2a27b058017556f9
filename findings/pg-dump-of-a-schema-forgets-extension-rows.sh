#!/usr/bin/env bash
#
# pg-dump-of-a-schema-forgets-extension-rows.sh
#	  pg_dump 15.20 of a schema (-n) leaves out the rows of an extension's
#	  configuration tables in it, and says nothing, if the extension's script has
#	  made the schema: shown on PgQ 3.5, whose queues are rows of pgq.queue.  If
#	  the schema was there before (pg_partman 4.7.2 WITH SCHEMA) it writes the rows.
#	  Of the same table (-t), of the extension (-e) and of the whole database it
#	  writes them for both.
#
# By the manual -n is for a schema with everything that is in it.  A nightly dump of pgq by schema ends with status 0, and has no queue.
#
# Compared below; exits 1 when it has changed.  Needs apt and dpkg, and the
# libraries that postgresql-15 depends on; as root the server runs as user
# postgres.

set -euo pipefail

version=15.20-0+deb12u1
partman=4.7.2-1
pgq=3.5-1+b1

folder=$(mktemp -d)
as_server=()
[ "$(id -u)" -ne 0 ] || { chmod 755 "$folder"; as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups); }
bin=$folder/usr/lib/postgresql/15/bin
finish() {
	"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -s -m immediate stop || true
	rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

for package in postgresql-15=$version postgresql-client-15=$version postgresql-15-partman=$partman postgresql-15-pgq3=$pgq; do
	apt-get -qq download "$package" 2>/dev/null
done
for file in *.deb; do
	dpkg -x "$file" .
done
mkdir data
[ "$(id -u)" -ne 0 ] || chown postgres data
"${as_server[@]}" "$bin/initdb" -D data -U postgres -A trust >/dev/null
"${as_server[@]}" "$bin/pg_ctl" -D data -s -w -l "$folder/data/log" \
	-o "-c listen_addresses='' -c unix_socket_directories='$folder/data'" start
export PGHOST=$folder/data PGUSER=postgres PGOPTIONS='-c client_min_messages=warning'

"$bin/psql" -qAtX <<-'END' >/dev/null
	CREATE SCHEMA partman;
	CREATE EXTENSION pg_partman SCHEMA partman;
	CREATE TABLE public.orders (id int NOT NULL) PARTITION BY RANGE (id);
	SELECT partman.create_parent('public.orders', 'id', 'native', '1000');
	CREATE EXTENSION pgq;
	SELECT pgq.create_queue('orders');
END

# rows_of table option...: of that table in a dump with these options
rows_of() {
	local status=0

	"$bin/pg_dump" "${@:2}" postgres >dump 2>warnings || status=$?
	echo "pg_dump ${*:2}: status $status, $(wc -l <warnings) warnings, rows of $1:" \
		"$(sed -n "/^COPY $1 /,/^\\\\\\./p" dump | grep -c orders || true)"
}
seen=$(
	rows_of pgq.queue -n pgq
	rows_of pgq.queue -t pgq.queue
	rows_of pgq.queue -e pgq
	rows_of pgq.queue
	rows_of partman.part_config -n partman
)
echo "$seen"
[ "$seen" = 'pg_dump -n pgq: status 0, 0 warnings, rows of pgq.queue: 0
pg_dump -t pgq.queue: status 0, 0 warnings, rows of pgq.queue: 1
pg_dump -e pgq: status 0, 0 warnings, rows of pgq.queue: 1
pg_dump : status 0, 0 warnings, rows of pgq.queue: 1
pg_dump -n partman: status 0, 0 warnings, rows of partman.part_config: 1' ] || { echo "this has changed"; exit 1; }
